"""Bundle adjustment of frames whose surfaces are known roughly everywhere.

Unknown are the pose of each frame and the inverse depth of each place; a place belongs to a frame
(its host) and is seen by others, as in Engel, Koltun and Cremers (Direct sparse odometry, PAMI
2018). Gauss-Newton; the depths are eliminated (Schur), so that a system of 6 unknowns a frame
remains. Camera_from_world is moved by a twist (turn, shift) from the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import invert, pinhole, rays, skew
from endorecon.refine.sweep import in_parallel

Array = NDArray[Any]

ITERATIONS = 5
ROBUST = 1.5  # a miss beyond so many sigmas loses weight (Cauchy)
DEPTH_SIGMA = 1.0  # of a place before anything is observed: relative, as good as none
POSE_SIGMA_PX = 3.0  # of the poses at the start, as a motion in the picture: weak


@dataclass(frozen=True)
class Places:
    """Places of one host frame: pixel (m, 2), inverse depth (m,) and its slope per pixel (m, 2)."""

    uv: Array
    inverse: Array
    slope: Array


@dataclass(frozen=True)
class Seen:
    """Places of a host as another frame sees them: which (k,), where (k, 2), covariance in px^2."""

    host: int
    frame: int
    place: Array
    uv: Array
    covariance: Array  # (k, 2, 2)


@dataclass(frozen=True)
class _Of:
    """What one host adds: frames it touches, their normal matrix and gradient, and its depths."""

    frames: list[int]
    matrix: Array  # (6 f, 6 f), depths eliminated
    gradient: Array  # (6 f,)
    coupling: Array  # (6 f, m)
    weight: Array  # (m,) of each inverse depth
    pull: Array  # (m,)


def adjust(
    K: Array, world_from_camera: Array, places: Sequence[Places], seen: Sequence[Seen]
) -> tuple[Array, list[Places]]:
    """Poses (n, 4, 4) at which the observations agree best, from those given; the places there.

    A similarity of all is free: the answer is near the start by a weak prior only.
    """
    n = len(world_from_camera)
    pose = invert(world_from_camera)
    start = pose.copy()
    inverse = [p.inverse.astype(float) for p in places]
    by_host: list[list[tuple[Seen, Array]]] = [[] for _ in range(n)]
    for s in seen:
        if len(s.place):
            by_host[s.host].append((s, np.linalg.inv(np.linalg.cholesky(s.covariance))))
    middle = np.median(np.concatenate([1 / w for w in inverse if len(w)] or [np.ones(1)]))
    loose = (K[0, 0] / POSE_SIGMA_PX) ** 2 * np.repeat([1.0, 1.0 / middle**2], 3)
    for _ in range(ITERATIONS):

        def one(i: int, pose: Array = pose) -> _Of:
            return _of_host(K, pose, i, places[i], inverse[i], by_host[i])

        parts = in_parallel(one, n)
        matrix, gradient = np.zeros((n, 6, n, 6)), np.zeros((n, 6))
        for i in range(n):
            matrix[i, :, i] += np.diag(loose)
            gradient[i] -= loose * _twist(pose[i] @ invert(start[i]))
        for p in parts:
            f = len(p.frames)
            matrix[np.ix_(p.frames, range(6), p.frames, range(6))] += p.matrix.reshape(f, 6, f, 6)
            gradient[p.frames] += p.gradient.reshape(f, 6)
        step = np.linalg.solve(matrix.reshape(6 * n, 6 * n), gradient.ravel()).reshape(n, 6)
        for i, p in enumerate(parts):
            move = (p.pull - p.coupling.T @ step[p.frames].ravel()) / p.weight
            first = places[i].inverse
            inverse[i] = np.clip(inverse[i] + move, 0.5 * first, 2 * first)
        pose = _moved(step, pose)
    return invert(pose), [replace(p, inverse=w) for p, w in zip(places, inverse, strict=True)]


def _of_host(
    K: Array,
    pose: Array,
    i: int,
    places: Places,
    inverse: Array,
    seen: list[tuple[Seen, Array]],
) -> _Of:
    frames = [i, *(s.frame for s, _ in seen)]
    f, m = len(frames), len(inverse)
    weight = 1 / np.maximum(DEPTH_SIGMA * places.inverse, 1e-12) ** 2
    pull = weight * (places.inverse - inverse)
    matrix, gradient = np.zeros((f, 6, f, 6)), np.zeros((f, 6))
    coupling = np.zeros((f, 6, m))
    ray = rays(places.uv, K)
    for k, (s, root) in enumerate(seen, 1):
        J, miss = _linear(K, pose[s.frame] @ invert(pose[i]), ray[s.place], inverse[s.place], s)
        miss = np.einsum("kab,kb->ka", root, miss)
        sure = 1 / np.sqrt(1 + (miss**2).sum(1) / ROBUST**2)
        miss, J = miss * sure[:, None], root @ J * sure[:, None, None]
        of_depth = J[..., 12]
        flat = J[..., :12].reshape(-1, 12)
        matrix[np.ix_((0, k), range(6), (0, k), range(6))] += (flat.T @ flat).reshape(2, 6, 2, 6)
        gradient[[0, k]] += (miss.ravel() @ flat).reshape(2, 6)
        both = np.einsum("kab,ka->bk", J[..., :12], of_depth).reshape(2, 6, -1)
        coupling[0][:, s.place] += both[0]
        coupling[k][:, s.place] = both[1]
        weight[s.place] += (of_depth**2).sum(1)
        pull[s.place] += (of_depth * miss).sum(1)
    whole = coupling.reshape(6 * f, m)
    eliminated = whole / weight
    return _Of(
        frames,
        matrix.reshape(6 * f, 6 * f) - eliminated @ whole.T,
        gradient.ravel() - eliminated @ pull,
        whole,
        weight,
        pull,
    )


def _linear(K: Array, there: Array, ray: Array, inverse: Array, seen: Seen) -> tuple[Array, Array]:
    """Jacobian (k, 2, 13) of the pixels by twist of the host, of the frame, and inverse depth; and
    what is missing (k, 2). there: frame_from_host; a point behind the frame says nothing."""
    q = ray @ there[:3, :3].T + inverse[:, None] * there[:3, 3]  # the point there, times inverse
    ahead = (q[:, 2] > 1e-6)[:, None]
    q = np.where(ahead, q, [0.0, 0.0, 1.0])
    pixels, D = pinhole(q, K)
    back, w = D @ there[:3, :3], inverse[:, None, None]
    parts = [
        back @ skew(ray), -back * w, -(D @ skew(q)), D * w, (D @ there[:3, 3])[..., None]
    ]  # fmt: skip
    return np.concatenate(parts, 2) * ahead[..., None], (seen.uv - pixels) * ahead


def _moved(step: Array, pose: Array) -> Array:
    """camera_from_world (n, 4, 4) after twists (n, 6) from the left."""
    from scipy.spatial.transform import Rotation

    out = pose.copy()
    turn = Rotation.from_rotvec(step[:, :3]).as_matrix()
    out[:, :3, :3] = turn @ pose[:, :3, :3]
    out[:, :3, 3] = np.einsum("nab,nb->na", turn, pose[:, :3, 3]) + step[:, 3:]
    return out


def _twist(motion: Array) -> Array:
    """(6,) turn and shift of a small rigid motion (4, 4)."""
    from scipy.spatial.transform import Rotation

    return np.concatenate([Rotation.from_matrix(motion[:3, :3]).as_rotvec(), motion[:3, 3]])
