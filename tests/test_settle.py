"""Poses settled in the pictures: nearer to the truth, true ones stay, and the links tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from endorecon import geometry
from endorecon.config import RefineConfig
from endorecon.refine import Maps, prepare, settle
from endorecon.refine.bundle import Places, Seen, adjust
from endorecon.scene import SparsePoints

from made_views import made_views  # isort: skip

Array = np.ndarray


def shaken(poses: Array, turn_deg: float, shift: float, seed: int = 0) -> Array:
    """Poses with independent errors."""
    from scipy.spatial.transform import Rotation

    rng, out = np.random.default_rng(seed), poses.copy()
    wrong = Rotation.from_rotvec(np.radians(turn_deg) * rng.normal(size=(len(poses), 3)))
    out[:, :3, :3] = poses[:, :3, :3] @ wrong.as_matrix()
    out[:, :3, 3] += shift * rng.normal(size=(len(poses), 3))
    return out


def gap(poses: Array, truth: Array) -> tuple[float, float]:
    """RMS turn (degrees) and shift from the truth after the best similarity."""
    moved = geometry.transform_pose(geometry.align_cameras(poses, truth), poses)
    turn = geometry.rotation_angle_deg(moved[:, :3, :3].transpose(0, 2, 1) @ truth[:, :3, :3])
    shift = np.linalg.norm(moved[:, :3, 3] - truth[:, :3, 3], axis=1)
    return float(np.sqrt((turn**2).mean())), float(np.sqrt((shift**2).mean()))


def test_bundle_adjustment_finds_exact_poses_from_exact_observations() -> None:
    rng, n = np.random.default_rng(3), 5
    K = np.array([[200.0, 0, 160], [0, 200, 120], [0, 0, 1]])
    truth = np.stack([geometry.compose(np.eye(3), [0.8 * k, 0.3 * (k % 2), 0]) for k in range(n)])
    places, seen = [], []
    for i in range(n):
        uv, z = rng.uniform([20, 20], [300, 220], (80, 2)), rng.uniform(8, 16, 80)
        xyz = geometry.apply(truth[i], geometry.rays(uv, K) * z[:, None])
        places.append(Places(uv, 1 / z * rng.uniform(0.98, 1.02, 80), np.zeros((80, 2))))
        for j in set(range(n)) - {i}:
            at, _ = geometry.project(xyz, truth[j], K)
            wild = rng.uniform(size=80) < 0.05  # mismatches
            at = np.where(wild[:, None], at + rng.normal(0, 20, (80, 2)), at)
            cov = np.tile(0.1**2 * np.eye(2), (80, 1, 1))
            seen.append(Seen(i, j, np.arange(80), at, cov))
    start = shaken(truth, 0.2, 0.03)
    found, _ = adjust(K, start, places, seen)
    before, after = gap(start, truth), gap(found, truth)
    assert after[0] < 0.03 * before[0] and after[1] < 0.03 * before[1]


def test_a_frame_that_nothing_ties_stays_where_it_was() -> None:
    K = np.array([[200.0, 0, 160], [0, 200, 120], [0, 0, 1]])
    poses = np.stack([geometry.compose(np.eye(3), [k, 0, 0]) for k in range(3)])
    nothing = [Places(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)))] * 3
    np.testing.assert_allclose(adjust(K, poses, nothing, [])[0], poses, atol=1e-12)


@pytest.fixture(scope="module")
def world() -> tuple:
    views, depth = made_views(n=10, w=192, h=144)
    near = [[j % 10 for j in range(i - 3, i + 4) if j != i] for i in range(10)]
    return views, depth, near, RefineConfig(settle_stride=0.03)


def test_shaken_poses_come_nearer_to_the_truth(world: tuple) -> None:
    views, depth, near, config = world
    truth = views.world_from_camera
    wrong = shaken(truth, 0.08, 0.012)
    photos = replace(prepare(views, 192), world_from_camera=wrong)
    z = (depth * (1 + 0.004 * np.sin(np.arange(10))[:, None, None])).astype(np.float32)
    found = settle(photos, near, Maps(z, 0.005 * z, np.ones_like(z)), config)
    before, after = gap(wrong, truth), gap(found.world_from_camera, truth)
    assert found.credible and found.after < 0.6 * found.before
    assert after[0] < 0.4 * before[0] and after[1] < 0.4 * before[1]
    # no depth is known: nothing is found, and nothing moves
    unknown = Maps(np.full_like(z, np.nan), z, z)
    still = settle(photos, near, unknown, config)
    np.testing.assert_allclose(still.world_from_camera, wrong, atol=1e-9)
    assert not still.credible


def test_points_follow_their_poses() -> None:
    rng = np.random.default_rng(2)
    K = np.array([[200.0, 0, 160], [0, 200, 120], [0, 0, 1]])
    poses = np.stack([geometry.compose(np.eye(3), [0.7 * k, 0.2 * k, 0]) for k in range(4)])
    xyz = rng.uniform([-3, -3, 8], [4, 3, 14], (50, 3))
    uv = np.stack([geometry.project(xyz, T, K)[0] for T in poses])
    point_of, view_of = np.tile(np.arange(50), 4), np.repeat(np.arange(4), 50)
    wrong = xyz + rng.normal(0, 0.2, xyz.shape)
    points = SparsePoints(wrong, np.ones(50), point_of, view_of, uv.reshape(-1, 2))
    np.testing.assert_allclose(points.with_poses(poses, K).xyz, xyz, atol=1e-6)
    # a point behind its cameras stays: there is no place to go
    behind = replace(points, xyz=wrong * [1, 1, -1])
    np.testing.assert_array_equal(behind.with_poses(poses, K).xyz, behind.xyz)
