"""Fusion: a known surface comes back, thin walls stay two, holes stay holes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from endorecon import kernels, surface
from endorecon.config import SurfaceConfig
from endorecon.errors import NotEnoughInformation
from endorecon.geometry import compose, pixel_grid, rays
from endorecon.scene import OBSERVED, DepthMap

K = np.array([[90.0, 0, 48.3], [0, 90, 36.1], [0, 0, 1]])
CONFIG = SurfaceConfig(voxel=0.25, min_faces=20)


def sphere_map(k: int, noise: float = 0.0, radius: float = 6.0) -> DepthMap:
    """A camera on a ring of radius 15 that looks at a sphere at the origin."""
    a = 0.35 * k
    R = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    pose = compose(R, R @ np.array([0, 0, -15.0]))
    d = rays(pixel_grid(96, 72), K)
    b = -15 * d[..., 2]
    disc = b * b - (d**2).sum(-1) * (225 - radius**2)
    with np.errstate(invalid="ignore"):
        t = (-b - np.sqrt(disc)) / (d**2).sum(-1)
    z = (t + noise * np.random.default_rng(k).normal(size=t.shape)).astype(np.float32)
    return DepthMap(z, np.full_like(z, max(noise, 0.02)), np.ones_like(z), K, pose, k)


IMAGES = [np.full((72, 96, 3), (200, 80, 60), np.uint8)] * 6


def test_a_sphere_comes_back_with_colour_status_and_an_honest_sigma() -> None:
    maps = [sphere_map(k, 0.1) for k in range(6)]
    out = surface.fuse(maps, IMAGES, CONFIG, "mm")
    error = np.linalg.norm(out.vertices, axis=1) - 6
    assert len(out.faces) > 500 and out.unit == "mm" and out.space == "reconstruction"
    strong = out.status == OBSERVED
    assert strong.mean() > 0.5
    assert np.sqrt(np.mean(error[strong] ** 2)) < 0.1 and abs(error[strong].mean()) < 0.04
    assert (np.abs(error[strong]) < 2 * out.sigma[strong]).mean() > 0.8
    assert np.abs(out.colors[strong].astype(int) - [200, 80, 60]).max() <= 1
    # faces look at the cameras: normals point away from the centre of the sphere
    a, b, c = (out.vertices[out.faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    assert ((normal * (a + b + c)).sum(1) > 0).mean() > 0.98


def test_the_side_that_nobody_saw_stays_open() -> None:
    out = surface.fuse([sphere_map(0), sphere_map(1)], IMAGES[:2], CONFIG, "unitless")
    assert out.vertices[:, 2].max() < 3.5  # cameras look from -z; the far side is not invented


def test_kernel_and_plain_twin_give_one_grid() -> None:
    if kernels.load("tsdf") is None:
        pytest.skip(kernels.why("tsdf"))
    depth = sphere_map(1, 0.05)
    weight = surface._trusted(depth, CONFIG)
    a = surface._make_grid([depth], [weight], replace(CONFIG, voxel=0.5))
    b = surface._make_grid([depth], [weight], replace(CONFIG, voxel=0.5))
    surface._integrate(a, depth, weight, 2.0)
    z = np.nan_to_num(depth.z).astype(np.float32)
    m = K @ np.linalg.inv(depth.world_from_camera)[:3]
    surface._integrate_plain(b, z, weight, m, 2.0)
    same = np.isclose(a.tsdf, b.tsdf, atol=1e-5) & np.isclose(a.weight, b.weight, rtol=1e-4)
    assert same.mean() > 0.9999 and (a.weight > 0).sum() > 500


def test_two_walls_a_millimetre_apart_do_not_merge() -> None:
    """A plate 1 mm thick, seen from both sides."""
    maps = []
    for k, (x, y) in enumerate([(0, 0), (1, 0), (0, 1)]):
        front = compose(np.eye(3), np.array([x, y, -12.0]))
        back = compose(np.diag([-1.0, 1, -1]), np.array([x, y, 13.0]))
        z = np.full((72, 96), 12.0, np.float32)
        for i, pose in enumerate((front, back)):
            maps.append(DepthMap(z, np.full_like(z, 0.05), np.ones_like(z), K, pose, 2 * k + i))
    out = surface.fuse(maps, IMAGES, replace(CONFIG, voxel=0.15, truncation=3.0), "mm")
    z = out.vertices[:, 2]
    for wall in (0.0, 1.0):
        near = np.abs(z - wall) < 0.4
        assert near.sum() > 1000 and np.abs(np.median(z[near]) - wall) < 0.03
    assert (np.abs(z - 0.5) < 0.1).mean() < 0.01


def test_a_map_without_trust_makes_no_surface() -> None:
    depth = sphere_map(0)
    dull = DepthMap(depth.z, depth.sigma, depth.trust * 0.03, K, depth.world_from_camera, 0)
    with pytest.raises(NotEnoughInformation, match="trusted"):
        surface.fuse([dull], IMAGES[:1], CONFIG, "mm")
