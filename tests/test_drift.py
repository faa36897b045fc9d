"""Drift of poses between landmarks: its covariance against brute force, and what the CT adds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from endorecon.evaluate import drift as dr
from endorecon.evaluate.icp import Target, icp, sample_surface
from endorecon.geometry import apply, compose, umeyama

K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
VIEWS, EACH = 10, 12


def turn(rotation_vector: np.ndarray) -> np.ndarray:
    return np.asarray(Rotation.from_rotvec(rotation_vector).as_matrix())


def corridor(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Poses along x that look at a wall; each point is seen by three neighbours only."""
    rng = np.random.default_rng(seed)
    poses = np.array([
        compose(turn(rng.normal(0, 0.05, 3)), np.array([4.0 * k, *rng.normal(0, 0.5, 2)]))
        for k in range(VIEWS)
    ])  # fmt: skip
    xyz, point_of, view_of = [], [], []
    for k in range(VIEWS - 2):
        for _ in range(EACH):
            for v in range(k, k + 3):
                point_of.append(len(xyz))
                view_of.append(v)
            xyz.append(np.array([4.0 * k + 4, 0, 20]) + rng.uniform(-5, 5, 3))
    return poses, np.array(xyz), np.array(point_of), np.array(view_of)


def pixels(poses: np.ndarray, xyz: np.ndarray, p: np.ndarray, v: np.ndarray) -> np.ndarray:
    q = np.einsum("kji,kj->ki", poses[v, :3, :3], xyz[p] - poses[v, :3, 3])
    return q[:, :2] / q[:, 2:] * K[0, 0] + K[:2, 2]


def adjusted(
    poses: np.ndarray, xyz: np.ndarray, p: np.ndarray, v: np.ndarray, uv: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bundle adjustment, dense, by numerical derivatives: poses and points that explain uv."""
    for _ in range(3):
        r = (pixels(poses, xyz, p, v) - uv).ravel()
        J = np.zeros((len(r), 6 * len(poses) + 3 * len(xyz)))
        h = 1e-6
        for i in range(len(poses)):
            mine = v == i
            for a in range(6):
                moved = poses.copy()
                by = turn(h * np.eye(3)[a - 3]) if a > 2 else np.eye(3)
                moved[i, :3, :3] = by @ poses[i, :3, :3]
                moved[i, :3, 3] += h * np.eye(3)[a] if a < 3 else 0.0
                change = pixels(moved, xyz, p[mine], v[mine]) - pixels(poses, xyz, p[mine], v[mine])
                J[np.repeat(mine, 2), 6 * i + a] = change.ravel() / h
        for a in range(3):
            change = (pixels(poses, xyz + h * np.eye(3)[a], p, v) - pixels(poses, xyz, p, v)) / h
            J[np.arange(len(r)), 6 * len(poses) + 3 * np.repeat(p, 2) + a] = change.ravel()
        step = -np.linalg.lstsq(J, r, rcond=1e-9)[0]
        poses, xyz = poses.copy(), xyz + step[6 * len(poses) :].reshape(-1, 3)
        for i, s in enumerate(step[: 6 * len(poses)].reshape(-1, 6)):
            poses[i, :3, :3] = turn(s[3:]) @ poses[i, :3, :3]
            poses[i, :3, 3] += s[:3]
    return poses, xyz


def triangulated(
    poses: np.ndarray, xyz: np.ndarray, p: np.ndarray, v: np.ndarray, uv: np.ndarray
) -> np.ndarray:
    """Points from exact pixels under given poses, by Gauss-Newton, one after the other."""
    out = xyz.copy()
    for j in range(len(xyz)):
        mine = p == j
        none, views = np.zeros(mine.sum(), int), v[mine]
        for _ in range(4):
            here = pixels(poses, out[[j]], none, views).ravel()
            J = np.stack([
                (pixels(poses, out[[j]] + 1e-6 * e, none, views).ravel() - here) / 1e-6
                for e in np.eye(3)
            ], -1)  # fmt: skip
            out[j] -= np.linalg.lstsq(J, here - uv[mine].ravel(), rcond=None)[0]
    return out


def test_drift_is_what_bundle_adjustments_of_noisy_pixels_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dr, "_NEAR", 1)  # each point for itself, so that both sides are the same
    poses, xyz, p, v = corridor(0)
    exact, rng = pixels(poses, xyz, p, v), np.random.default_rng(1)
    ends = [(0, 15), (2, 50), (5, 93)]
    errors, expected = [], []
    for _ in range(20):
        uv = exact + rng.normal(0, 0.5, exact.shape)
        found, points = adjusted(poses, xyz, p, v, uv)
        carried = triangulated(found, points, p, v, exact)  # what the poses alone do
        carried = apply(umeyama(carried, xyz), carried)
        drift = dr.drift_of(found, K, points, p, v, uv)
        assert drift is not None
        for i, j in ends:
            errors.append(np.linalg.norm(carried[j] - carried[i]) - np.linalg.norm(xyz[j] - xyz[i]))
            u = (xyz[j] - xyz[i]) / np.linalg.norm(xyz[j] - xyz[i])
            along = np.concatenate([-u, u])
            expected.append(along @ drift.joint(points[[i, j]]) @ along)
    seen = np.sqrt((np.array(errors).reshape(-1, 3) ** 2).mean(0))
    told = np.sqrt(np.array(expected).reshape(-1, 3).mean(0))
    assert told == pytest.approx(seen, rel=0.4)


def test_what_moves_together_does_not_change_a_distance() -> None:
    poses, xyz, p, v = corridor(2)
    uv = pixels(poses, xyz, p, v) + np.random.default_rng(3).normal(0, 0.5, (len(p), 2))
    drift = dr.drift_of(poses, K, xyz, p, v, uv)
    assert drift is not None and drift.surface > 0

    def spread(a: np.ndarray, b: np.ndarray) -> float:
        D = np.hstack([-np.eye(3), np.eye(3)])
        return float(np.sqrt(np.trace(D @ drift.joint(np.stack([a, b])) @ D.T)))

    x = np.array([0.0, 0, 20])
    widths = [spread(x, x + np.array([d, 0, 0])) for d in (0.5, 8.0, 30.0)]
    assert widths[0] < 0.3 * widths[1] < widths[2]


def test_bending_beyond_the_surface_s_own_sigma_is_charged_to_the_poses() -> None:
    n = 90
    x, y = np.meshgrid(np.linspace(-30, 30, n), np.linspace(-30, 30, n))
    z = 4 * np.sin(x / 6) + 3 * np.cos(y / 7)
    vertices = np.stack([x, y, z], -1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    faces = np.concatenate([
        np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:]], -1).reshape(-1, 3),
        np.stack([i[:-1, :-1], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 3),
    ])  # fmt: skip
    target = Target(vertices, faces)
    wave = np.outer(np.sin(np.pi * vertices[:, 0] / 20), [0, 0, 1.0])
    for height, sigma, charged in ((0.8, 0.05, True), (2.0, 0.05, True), (0.8, 1.0, False)):
        bent = vertices + height * wave
        points = sample_surface(bent, faces, np.full(n * n, sigma), 4000, 0)
        found = icp(points, target, np.eye(4), False, width=2.0, inlier=1.0)
        whole, beyond = dr.left_over(points, target, found, 1.0)
        assert 0.4 * height < whole < 0.75 * height  # RMS of a sine, in part taken up by the fit
        assert (beyond > 0.8 * whole) if charged else beyond == 0.0
