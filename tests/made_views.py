"""A small made world with exact truth: a wavy, painted wall filmed by a light on the camera."""

from __future__ import annotations

import numpy as np

from endorecon.geometry import compose, pixel_grid, rays
from endorecon.scene import Camera, SparsePoints, Views


def paint(p: np.ndarray) -> np.ndarray:
    """Albedo (..., 3) of world points: smooth, aperiodic, reddish."""
    rng = np.random.default_rng(11)
    out = np.zeros(p.shape[:-1])
    for _ in range(60):
        k = rng.normal(size=3) * rng.uniform(0.6, 4.5)
        out += np.sin(p @ k + rng.uniform(0, 6.28)) / 60**0.5
    base = np.clip(0.55 + 0.22 * out, 0.05, 1)
    return np.stack([base, 0.6 * base**1.4, 0.5 * base**1.3], -1)


def wall_depth(K: np.ndarray, pose: np.ndarray, w: int, h: int) -> np.ndarray:
    """z-depth of the wall z = 14 + 1.2 sin(x / 3) + cos(y / 2.5)."""
    d = rays(pixel_grid(w, h), K) @ pose[:3, :3].T
    t = np.full((h, w), 14.0)
    for _ in range(80):
        p = pose[:3, 3] + d * t[..., None]
        wall = 14 + 1.2 * np.sin(p[..., 0] / 3) + np.cos(p[..., 1] / 2.5)
        t += 0.7 * (wall - p[..., 2]) / d[..., 2]
    return t


def made_views(
    n: int = 10, w: int = 96, h: int = 72, noise: float = 1.0
) -> tuple[Views, np.ndarray]:
    """Views with exact poses and slightly wrong sparse points, and their true depth (n, h, w)."""
    rng = np.random.default_rng(5)
    camera = Camera(w, h, 0.9 * w, 0.9 * w, w / 2 + 0.7, h / 2 - 0.4)
    poses, images, depth = [], [], []
    point_of, view_of, uv, xyz = [], [], [], []
    for i in range(n):
        a = 2 * np.pi * i / n
        tilt = 0.05 * np.sin(a)
        R = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
        pose = compose(R, np.array([2.2 * np.cos(a), 1.6 * np.sin(a), 0.8 * np.sin(2 * a)]))
        z = wall_depth(camera.K, pose, w, h)
        d = rays(pixel_grid(w, h), camera.K)
        p = pose[:3, 3] + (d @ pose[:3, :3].T) * z[..., None]
        distance = np.linalg.norm(d, axis=-1) * z
        light = (150.0 / distance**2)[..., None] * paint(p)
        shown = 255 * np.clip(light, 0, 1) ** 0.4545 + noise * rng.normal(size=(h, w, 1))
        images.append(np.clip(shown + 0.5, 0, 255).astype(np.uint8))
        poses.append(pose)
        depth.append(z)
        for _ in range(60):
            y, x = int(rng.integers(2, h - 2)), int(rng.integers(2, w - 2))
            point_of.append(len(xyz))
            view_of.append(i)
            uv.append([x + 0.5, y + 0.5])
            wrong = 1 + 0.004 * rng.normal()
            xyz.append(pose[:3, 3] + (d[y, x] @ pose[:3, :3].T) * z[y, x] * wrong)
    points = SparsePoints(
        np.array(xyz), np.full(len(xyz), 0.5), np.array(point_of), np.array(view_of), np.array(uv)
    )
    views = Views(
        camera, np.stack(images), np.ones((n, h, w), bool), np.stack(poses), np.arange(n),
        np.arange(n) / 10.0, points,
    )  # fmt: skip
    return views, np.array(depth)
