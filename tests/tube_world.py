"""A small made world with exact truth: a folded tube with bumps, a light on the camera.

Units: mm. Camera path inside the tube, OpenCV axes. Albedo: vessels and blotches of smooth waves.
radiance = albedo x cos / t^2, display = (gain x radiance)^(1/2.2), noise, 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import pixel_grid
from endorecon.scene import Camera, SparsePoints, Views

Array = NDArray[np.float64]
_BUMPS = np.array(  # centre x, y, z, radius
    [[7.0, 2, 14, 3.0], [-6, -5, 19, 3.4], [2, 8, 24, 3.2], [-7, 4, 30, 4.0], [5, -7, 9, 2.2]]
)


def inside(p: Array) -> Array:
    """Positive inside the lumen (about the distance to the wall), negative in tissue."""
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    wall = 9.0 + 0.9 * np.sin(0.55 * z) + 0.5 * np.sin(3 * angle + 0.3 * z)
    wall = wall + 0.25 * np.sin(5 * angle - 0.7 * z)
    f = np.minimum(wall - radius, 0.8 * (38.0 + 0.5 * np.sin(x) - z))
    for *c, r in _BUMPS:
        f = np.minimum(f, np.linalg.norm(p - c, axis=-1) - r)
    return f


def trace(origin: Array, direction: Array) -> Array:
    """Parameter along rays (n, 3) where they meet the wall, to about 1e-5."""
    t = np.full(len(origin), 0.2)
    lo = t.copy()
    open_ = np.ones(len(t), bool)
    for _ in range(160):
        f = inside(origin[open_] + t[open_, None] * direction[open_])
        hit = f < 0
        index = np.flatnonzero(open_)
        lo[index[~hit]] = t[index[~hit]]
        step = np.clip(0.5 * f[~hit] / np.linalg.norm(direction[index[~hit]], axis=1), 0.02, 3.0)
        t[index[~hit]] += step
        open_[index[hit]] = False
        if not open_.any():
            break
    hi = t
    for _ in range(22):
        mid = 0.5 * (lo + hi)
        ok = inside(origin + mid[:, None] * direction) > 0
        lo, hi = np.where(ok, mid, lo), np.where(ok, hi, mid)
    return 0.5 * (lo + hi)


def albedo(p: Array) -> Array:
    """Colour (n, 3) of the wall."""
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    blotch = 0.5 + 0.25 * np.sin(0.9 * x + 0.4 * z) * np.sin(0.8 * y - 0.5 * z + 1)
    fine = np.sin(3.1 * x + 1.7 * y) * np.sin(2.9 * z - 1.3 * y) * np.sin(2.3 * x - 1.9 * z + 0.5)
    vessel = np.exp(-((np.sin(1.3 * x + 0.8 * np.sin(0.9 * z) + 0.6 * y) / 0.12) ** 2))
    vessel += np.exp(-((np.sin(1.1 * z + 0.9 * np.sin(1.1 * y) - 0.5 * x) / 0.10) ** 2))
    red = 0.75 + 0.15 * (blotch - 0.5) + 0.10 * fine - 0.15 * vessel
    green = 0.40 + 0.25 * (blotch - 0.5) + 0.12 * fine - 0.22 * vessel
    blue = 0.36 + 0.20 * (blotch - 0.5) + 0.10 * fine - 0.16 * vessel
    return np.clip(np.stack([red, green, blue], -1), 0.03, 1.0)


def pose(k: int, n: int) -> Array:
    """Camera k of n: forward with a sideways wobble, looking a little around."""
    s = k / max(n - 1, 1)
    c = np.array([2.2 * np.sin(9 * s), 1.8 * np.cos(7 * s), 1.0 + 8.0 * s])
    ahead = np.array([0.35 * np.sin(5 * s + 1), 0.3 * np.cos(6 * s), 1.0])
    ahead /= np.linalg.norm(ahead)
    right = np.cross([0.05 * np.sin(4 * s), 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], 1)
    out[:3, 3] = c
    return out


@dataclass(frozen=True)
class World:
    """Views and the z-depth (n, h, w) that is true for them."""

    views: Views
    z: Array


def make_world(
    frames: int = 30, width: int = 160, height: int = 120, points: int = 1500, seed: int = 0
) -> World:
    """Render the tube. Sparse points lie 0.06 mm (standard deviation) off the wall."""
    rng = np.random.default_rng(seed)
    f = 0.5 * width / np.tan(np.radians(42.5))
    camera = Camera(width, height, f, f, width / 2, height / 2)
    poses = np.stack([pose(k, frames) for k in range(frames)])
    ray = np.concatenate([pixel_grid(width, height), np.ones((height, width, 1))], -1).reshape(
        -1, 3
    )
    ray = ray @ np.linalg.inv(camera.K).T
    images, depth = [], []
    gains = 55.0 * np.exp(0.15 * np.sin(np.arange(frames)))
    for k in range(frames):
        d = ray @ poses[k, :3, :3].T
        o = np.broadcast_to(poses[k, :3, 3], d.shape)
        z = trace(o, d)
        p = o + z[:, None] * d
        e = 1e-3
        normal = np.stack([inside(p + e * a) - inside(p - e * a) for a in np.eye(3)], -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        distance = z * np.linalg.norm(d, axis=1)
        cos = np.clip(-(normal * d).sum(1) / np.linalg.norm(d, axis=1), 0.02, 1)
        shown = (gains[k] * albedo(p) * (cos / distance**2)[:, None]) ** (1 / 2.2)
        shown = shown + rng.normal(0, 0.012, shown.shape)
        images.append(np.round(np.clip(shown, 0, 1) * 255).astype(np.uint8))
        depth.append(z)
    z = np.stack(depth).reshape(frames, height, width)
    image = np.stack(images).reshape(frames, height, width, 3)
    sparse = _sparse(poses, z, camera, points, rng)
    mask = image.max(-1) < 255
    index = np.arange(frames)
    views = Views(
        camera, image, mask, poses, index, index / 10.0, sparse, "mm", scale_source="made world"
    )
    return World(views, z)


def _sparse(
    poses: Array, z: Array, camera: Camera, points: int, rng: np.random.Generator
) -> SparsePoints:
    n, h, w = z.shape
    k, v, u = (rng.integers(0, m, points) for m in (n, h, w))
    ray = np.stack([u + 0.5, v + 0.5, np.ones(points)], -1) @ np.linalg.inv(camera.K).T
    xyz = np.einsum("nij,nj->ni", poses[k, :3, :3], ray * z[k, v, u][:, None]) + poses[k, :3, 3]
    point, view, uv = [], [], []
    for j in range(n):
        local = (xyz - poses[j, :3, 3]) @ poses[j, :3, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            px = local[:, :2] / local[:, 2:] * camera.fx + [camera.cx, camera.cy]
        ok = (local[:, 2] > 0) & (px > 0).all(1) & (px[:, 0] < w) & (px[:, 1] < h)
        index = np.flatnonzero(ok)
        there = z[j, px[index, 1].astype(int), px[index, 0].astype(int)]
        index = index[np.abs(there - local[index, 2]) < 0.03 * there]  # not hidden
        index = index[rng.random(len(index)) < 0.4]  # a feature is not found in every frame
        point.append(index)
        view.append(np.full(len(index), j))
        uv.append(px[index] + rng.normal(0, 0.3, (len(index), 2)))
    xyz = xyz + rng.normal(0, 0.06, xyz.shape)
    return SparsePoints(
        xyz, np.full(points, 0.6), np.concatenate(point), np.concatenate(view), np.concatenate(uv)
    )
