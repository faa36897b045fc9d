"""A start without landmarks: feature matching over a ladder of scales, refined and ranked.

FPFH (Rusu et al., ICRA 2009) on subsampled clouds and RANSAC with edge-length vetoes (Open3D) for
each scale of the ladder; the best few are refined by ICP and ranked by the area in mm^2 that
comes to lie on the target. Area, not share: a share is best when the scale goes to zero. A second
place that is nearly as good and lies elsewhere makes the answer ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.evaluate.icp import (
    IcpResult,
    Points,
    Surroundings,
    Target,
    icp,
    pair,
    sample_surface,
)
from endorecon.geometry import apply, compose, scale_of

Array = NDArray[Any]
_RIVAL = 0.9  # a rival with this share of the winner's area makes it ambiguous


@dataclass(frozen=True)
class Candidate:
    """One place where the surface could lie."""

    b_from_a: Array
    area: float  # mm^2-like: inlier share x scale^2
    width: float  # spread of the residuals in mm: wide when nothing truly fits


class Cloud:
    """A target as oriented samples: what ICP asks of a Target, coarser and many times faster."""

    def __init__(self, target: Target, count: int, seed: int) -> None:
        from scipy.spatial import cKDTree

        corners = target.vertices[target.faces]
        rng = np.random.default_rng(seed)
        pick = rng.choice(len(corners), count, p=target.areas / target.areas.sum())
        share = rng.dirichlet(np.ones(3), count)
        self.points = np.einsum("nk,nkj->nj", share, corners[pick])
        self.normals, self.rim = target.normals[pick], target.rim[pick]
        self._tree = cKDTree(self.points)

    def closest(self, points: Array) -> tuple[Array, Array]:
        """Nearest samples (n, 3) and their numbers (n,)."""
        nearest = self._tree.query(points)[1]
        return self.points[nearest], nearest


def scale_ladder(points: Points, target: Target, metric: bool) -> list[float]:
    """Scales to try: round 1 when the run has millimetres, else by comparing sizes.

    Sizes say little of each other: a film may show more than a narrow CT, and stray points make
    it look larger than it is. So the ladder goes on beyond equal sizes.
    """
    if metric:
        return [0.82, 0.9, 1.0, 1.1, 1.22]
    ratio = _extent(target.vertices) / _extent(points.xyz)
    return [ratio * 1.15**k for k in range(-8, 3)]


def _extent(xyz: Array) -> float:
    """A robust diameter: twice the RMS distance to the centre."""
    return float(2 * np.sqrt(((xyz - xyz.mean(0)) ** 2).sum(1).mean()))


def search(
    points: Points,
    target: Target,
    scales: list[float],
    with_scale: bool,
    trials: int,
    inlier: float,
    seed: int,
    starts: tuple[Array, ...] = (),
) -> tuple[list[Candidate], bool]:
    """Candidates, best first and refined, and whether the winner is ambiguous."""
    few, middle = points.subset(1200, seed), points.subset(3000, seed + 1)
    cloud = Cloud(target, 20000, seed)
    rough = [*starts]
    for start in starts:
        rough += _around(start, points.xyz.mean(0))
    best: list[Candidate] = []
    for attempt, coarseness in enumerate((1.3, 1.0, 1.7)):
        rough += _by_features(
            points, target, scales, trials * 2**attempt, coarseness, seed + 1000 * attempt
        )
        ranked = [_refine(few, cloud, start, with_scale, 4.0, 25, inlier) for start in rough]
        ranked.sort(key=lambda c: -c.area)
        lead = ranked[: max(6, len(ranked) // 5)]
        best += [_refine(middle, target, c.b_from_a, with_scale, 1.5, 40, inlier) for c in lead]
        best.sort(key=lambda c: -c.area)
        rough = []
        if best and best[0].width < inlier and not _rivalled(best, points):
            return best, False
    return best, True


def _refine(
    points: Points,
    target: Surroundings,
    start: Array,
    with_scale: bool,
    width: float,
    iterations: int,
    inlier: float,
) -> Candidate:
    found = icp(points, target, start, with_scale, width=width, iterations=iterations)
    return _score(points, target, found, inlier)


def _score(points: Points, target: Surroundings, found: IcpResult, inlier: float) -> Candidate:
    T = found.b_from_a
    p = pair(points, target, T)
    soft = np.where(p.valid, 1.0 / (1.0 + (p.distance / (0.3 * inlier)) ** 2) ** 2, 0.0)
    return Candidate(T, float(soft.mean() * scale_of(T) ** 2), found.width)


def _rivalled(best: list[Candidate], points: Points) -> bool:
    size = _extent(points.xyz) * scale_of(best[0].b_from_a)
    home = apply(best[0].b_from_a, points.xyz)
    for rival in best[1:]:
        away = np.linalg.norm(apply(rival.b_from_a, points.xyz) - home, axis=1).mean()
        if away > 0.05 * size and rival.area > _RIVAL * best[0].area:
            return True
    return False


def _around(start: Array, centre: Array) -> list[Array]:
    """Starts turned by 20 degrees and rescaled by 10 % about the moving surface's centre."""
    from scipy.spatial.transform import Rotation

    c = apply(start, centre)
    out = []
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        for scale in (0.87, 1.0, 1.15):
            turn = compose(
                Rotation.from_rotvec(np.radians(20) * axis).as_matrix(), np.zeros(3), scale
            )
            turn[:3, 3] = c - turn[:3, :3] @ c
            out.append(turn @ start)
    return out


def _by_features(
    points: Points,
    target: Target,
    scales: list[float],
    trials: int,
    coarseness: float,
    seed: int,
) -> list[Array]:
    import open3d as o3d

    registration = o3d.pipelines.registration
    o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)
    count = 4000
    goal = sample_surface(
        target.vertices, target.faces, np.zeros(len(target.vertices)), 4 * count, seed
    )
    # one voxel is about the spacing of `count` points on the target's area
    voxel = float(np.sqrt(target.areas.sum() / count)) * coarseness
    goal_cloud, goal_features = _features(goal.xyz - target.centre, goal.normals, voxel, False)
    out = []
    for k, scale in enumerate(scales):
        cloud, features = _features(points.xyz * scale, points.normals, voxel, True)
        if len(cloud.points) < 30:
            continue
        for repeat in range(2):
            o3d.utility.random.seed(seed + 97 * k + repeat)
            found = registration.registration_ransac_based_on_feature_matching(
                cloud,
                goal_cloud,
                features,
                goal_features,
                bool(repeat),
                1.5 * voxel,
                registration.TransformationEstimationPointToPoint(True),
                3,
                [
                    registration.CorrespondenceCheckerBasedOnEdgeLength(0.82),
                    registration.CorrespondenceCheckerBasedOnDistance(1.5 * voxel),
                    registration.CorrespondenceCheckerBasedOnNormal(np.radians(40)),
                ],
                registration.RANSACConvergenceCriteria(trials, 0.9999),
            )
            T = np.array(found.transformation)
            if np.linalg.det(T[:3, :3]) <= 1e-9:
                continue
            T = T @ compose(np.eye(3), np.zeros(3), scale)
            T[:3, 3] += target.centre
            out.append(T)
    return out


def _features(xyz: Array, normals: Array, voxel: float, clean: bool) -> tuple[Any, Any]:
    import open3d as o3d

    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz))
    cloud.normals = o3d.utility.Vector3dVector(normals)
    if clean:  # floating points spoil the features of their neighbours
        cloud, _ = cloud.remove_statistical_outlier(12, 0.5)
    cloud = cloud.voxel_down_sample(voxel)
    cloud.normalize_normals()
    reach = o3d.geometry.KDTreeSearchParamHybrid(radius=5 * voxel, max_nn=150)
    return cloud, o3d.pipelines.registration.compute_fpfh_feature(cloud, reach)
