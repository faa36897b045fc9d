"""How far the poses may have drifted from one landmark to the next, and what the CT says of it.

Two landmarks filmed in different frames are as sure as the chain of poses between them. The
covariance of that chain is the bundle adjustment's: normal equations of all poses and sparse points
from the run's own observations, points eliminated, noise from their residuals by a sandwich over
tracks. A similarity never changes a distance against CT, so what a similarity of the whole surface
explains is taken out; what remains grows with the path, most where few tracks hold it together.
Its shape is trusted, its size is not. Features err together, so it is enlarged by what phantoms
show. And a wrong pose is no noise: where the registered surface lies off the CT by more than the
depth maps own up to, the drift is scaled to that (an a posteriori variance factor). Points in the
run's unit, LPS or whatever the run has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.evaluate.icp import IcpResult, Points, Target, pair
from endorecon.evaluate.statistics import excess_variance
from endorecon.geometry import pinhole, scale_of, skew, triangulate
from endorecon.io.rundir import RunDir

Array = NDArray[Any]
_CELL_MM = 3.0  # residuals of a surface nearer than this are taken as correlated
_GAUGE_POINTS = 400  # sparse points that stand for the surface when the similarity is taken out
# True correspondences, triangulated with the poses of four phantom runs: their distances erred by
# 2.4 to 3.6 (median) and 3.7 to 5.6 (RMS) times what independent tracks promise.
_TOGETHER = 3.5
_NEAR = 20  # sparse points that a place on the surface moves with


@dataclass(frozen=True)
class Drift:
    """Covariance of the poses of a run, free of gauge, and how the surface follows them."""

    covariance: Array  # (6 n, 6 n) of (shift, turn in radians) of each pose, world axes
    surface: float  # RMS drift of the surface along one axis
    _xyz: Array  # (m, 3) sparse points
    _information: Array  # (m, 3, 3) of each point, in 1 / px^2
    _pull: Any  # sparse (3 m, 6 n): minus _information @ motion of each point with the poses
    _gauge: Array  # (7, 6 n) similarity of the surface that a change of the poses causes
    _middle: Array  # (3,)

    def joint(self, points: Array) -> Array:
        """Covariance (3 k, 3 k) of points (k, 3) on the surface; the run's unit."""
        moves = _motion(points, self._xyz, self._information, self._pull)
        moves = moves - np.vstack([_basis(p - self._middle) for p in points]) @ self._gauge
        return np.asarray(moves @ self.covariance @ moves.T)


def pose_drift(run: RunDir) -> Drift | None:
    """From the run's sparse points; None where it has none, or too few to tell."""
    file = run.path / "sparse" / "points.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as p:
            xyz, point_of, view_of, uv = (p[k] for k in ("xyz", "point_of", "view_of", "uv"))
    except (ValueError, OSError, KeyError):
        return None
    cameras = run.cameras()
    n = len(cameras.frame_index)
    if len(xyz) < _NEAR or n < 3 or int(view_of.max()) >= n:
        return None
    poses, K = cameras.world_from_camera, cameras.K
    # The points are those of the poses before the rounds settled them.
    xyz = triangulate(uv, point_of, view_of, poses, K, xyz)
    found = drift_of(poses, K, xyz, point_of, view_of, uv)
    if found is None:
        return None
    return replace(
        found, covariance=_TOGETHER**2 * found.covariance, surface=_TOGETHER * found.surface
    )


def drift_of(
    poses: Array, K: Array, xyz: Array, point_of: Array, view_of: Array, uv: Array
) -> Drift | None:
    """Drift of poses (n, 4, 4) from observations k: point, view, pixel (k, 2).

    Robust normal equations, points eliminated (Schur), the seven free motions left out. None when
    a point lies behind a camera that saw it.
    """
    from scipy import sparse

    n, m = len(poses), len(xyz)
    R, d = poses[view_of, :3, :3], xyz[point_of] - poses[view_of, :3, 3]
    local = np.einsum("kji,kj->ki", R, d)
    if (local[:, 2] <= 0).any():
        return None
    pixels, J = pinhole(local, K)
    residual = pixels - uv
    of_point = np.einsum("kab,kcb->kac", J, R)
    of_pose = np.concatenate([-of_point, np.einsum("kab,kbc->kac", of_point, skew(d))], -1)
    size = np.linalg.norm(residual, axis=1)
    width = 3 * max(float(np.median(size)) / 1.1774, 1e-9)  # of a 2D Gaussian
    w = 1.0 / (1.0 + (size / width) ** 2) ** 2
    A, C, own = np.zeros((n, 6, 6)), np.zeros((m, 3, 3)), np.zeros((m, 3))
    np.add.at(A, view_of, np.einsum("k,kai,kaj->kij", w, of_pose, of_pose))
    np.add.at(C, point_of, np.einsum("k,kai,kaj->kij", w, of_point, of_point))
    np.add.at(own, point_of, np.einsum("k,kai,ka->ki", w, of_point, residual))
    on_pose = 6 * view_of[:, None] + np.arange(6)
    on_point = 3 * point_of[:, None] + np.arange(3)
    B = np.einsum("k,kai,kaj->kij", w, of_point, of_pose)
    rows = np.broadcast_to(on_point[:, :, None], B.shape).ravel()
    columns = np.broadcast_to(on_pose[:, None], B.shape).ravel()
    pull = sparse.csr_matrix((B.ravel(), (rows, columns)), (3 * m, 6 * n))
    small = 1e-9 * np.trace(C, axis1=1, axis2=2) + 1e-300
    inverse = np.linalg.inv(C + small[:, None, None] * np.eye(3))
    eliminated = pull.T @ sparse.bsr_matrix((inverse, np.arange(m), np.arange(m + 1)))
    S = -(eliminated @ pull).toarray()
    for i in range(n):
        S[6 * i : 6 * i + 6, 6 * i : 6 * i + 6] += A[i]
    # meat of the sandwich: each track's pull on the poses, its own point eliminated
    force = np.einsum("k,kai,ka->ki", w, of_pose, residual)
    index = (on_pose.ravel(), np.repeat(point_of, 6))
    G = sparse.csr_matrix((force.ravel(), index), (6 * n, m))
    index = (np.arange(3 * m), np.repeat(np.arange(m), 3))
    G = G - eliminated @ sparse.csr_matrix((own.ravel(), index), (3 * m, m))
    free = max(2 * len(uv) - 3 * m - 6 * n + 7, 1)
    # turns are in radians, shifts in the run's unit: bring both to one size before the cut
    unit = np.sqrt(np.maximum(np.diag(S), 1e-300))
    values, vectors = np.linalg.eigh(S / np.outer(unit, unit))
    good = values[7:] > 1e-12 * values[-1]
    V = vectors[:, 7:][:, good] / unit[:, None]
    bread = (V / values[7:][good]) @ V.T
    covariance = bread @ ((G @ G.T).toarray() * 2 * len(uv) / free) @ bread
    some = xyz[np.random.default_rng(0).permutation(m)[:_GAUGE_POINTS]]
    moves, middle = _motion(some, xyz, C, pull), some.mean(0)
    basis = np.vstack([_basis(p - middle) for p in some])
    gauge = np.linalg.lstsq(basis, moves, rcond=None)[0]
    left = moves - basis @ gauge
    surface = float(np.sqrt(np.einsum("ri,ij,rj->", left, covariance, left) / len(left)))
    return Drift(covariance, surface, xyz, C, pull, gauge, middle)


def _motion(points: Array, xyz: Array, information: Array, pull: Any) -> Array:
    """(3 k, 6 n): how places follow the poses: as their sparse points do, triangulated anew.

    The points nearest to a place move as one body there, by least squares over their pixels: a
    point seen at a narrow angle tells little of its depth and is not asked for it.
    """
    from scipy.spatial import cKDTree

    near = cKDTree(xyz).query(points, k=min(_NEAR, len(xyz)))[1].reshape(len(points), -1)
    out = np.zeros((len(points), 3, pull.shape[1]))
    for k, mine in enumerate(near):
        total = sum(pull[3 * j : 3 * j + 3].toarray() for j in mine)
        out[k] = -np.linalg.solve(information[mine].sum(0), total)
    return out.reshape(3 * len(points), -1)


def _basis(offset: Array) -> Array:
    """(3, 7): how a point moves with shift, turn and scale."""
    return np.column_stack([np.eye(3), -skew(offset[None])[0], offset])


def left_over(
    points: Points, target: Target, result: IcpResult, inlier: float
) -> tuple[float, float]:
    """RMS of what the fit leaves systematically per cell of a few mm, and the part unexplained.

    Point noise averages out in a cell and its expectation is subtracted; bending, drift and local
    bias do not. The second figure (mm) is what goes beyond the points' own sigma: not the depth
    maps' doing by their own account, so the poses'. inlier: mm that count as on the target.
    """
    p = pair(points, target, result.b_from_a)
    # a fit that is bent by more than an inlier may be off is still judged where it is off
    on = p.valid & (p.distance < max(3 * result.width, inlier))
    _, cell = np.unique(np.floor(p.moved[on] / _CELL_MM).astype(int), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    count = np.bincount(cell)
    r = result.residual[on]
    mean = np.bincount(cell, r) / np.maximum(count, 1)
    within = np.bincount(cell, (r - mean[cell]) ** 2) / np.maximum(count - 1, 1)
    sigma = scale_of(result.b_from_a) * np.bincount(cell, points.sigma[on]) / np.maximum(count, 1)
    good = count >= 5
    if good.sum() < 5:
        return 0.0, 0.0
    square, noise = mean[good] ** 2, within[good] / count[good]
    excess = np.average(square - noise, weights=count[good])
    known = noise + sigma[good] ** 2
    beyond = excess_variance(square, np.ones(len(square)), known)
    return float(np.sqrt(max(excess, 0.0))), float(np.sqrt(beyond))
