"""Robust point-to-plane ICP of a partial, noisy surface onto a CT surface, rigid or similarity.

Chen & Medioni (1991) with exact closest points on triangles (Embree, by Open3D), Geman-McClure
weights whose width is annealed to the residuals' own spread (Zhou et al., ECCV 2016), 1/sigma^2
weights, and three vetoes: closest point on the rim of the CT surface, normals that disagree, too
far. Scale is a parameter of its own (log s), so the determinant stays positive. The covariance is
a cluster-robust sandwich over cells of a few mm, because neighbouring residuals are correlated.
Units: those of the target (mm); poses `b_from_a` (4, 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import apply, compose, scale_of

Array = NDArray[Any]
_CELL_MM = 3.0  # residuals nearer than this are taken as correlated
_JOINT_MM = 6.0  # depth errors of one reconstruction within this distance are taken as one
_MIN_COSINE = 0.5  # between normals of a pair


class Surroundings(Protocol):
    """What ICP asks of a target: closest places, and the normal and rim flag of each face."""

    @property
    def normals(self) -> Array: ...

    @property
    def rim(self) -> Array: ...

    def closest(self, points: Array) -> tuple[Array, Array]: ...


class Target:
    """A triangle mesh that answers closest-point questions exactly. Normals are the faces'."""

    def __init__(self, vertices: Array, faces: Array) -> None:
        import open3d as o3d

        self.centre = vertices.mean(0)  # Embree works in float32: keep the numbers small
        self.vertices, self.faces = vertices, faces
        self._o3d = o3d
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor((vertices - self.centre).astype(np.float32)),
            o3d.core.Tensor(faces.astype(np.uint32)),
        )
        corners = vertices[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.areas = np.linalg.norm(normals, axis=1) / 2
        self.normals = normals / np.maximum(2 * self.areas[:, None], 1e-300)
        self.rim = rim_faces(faces)

    def closest(self, points: Array) -> tuple[Array, Array]:
        """Closest surface points (n, 3) and their faces (n,)."""
        query = self._o3d.core.Tensor((points - self.centre).astype(np.float32))
        found = self._scene.compute_closest_points(query)
        return (
            found["points"].numpy().astype(float) + self.centre,
            found["primitive_ids"].numpy().astype(np.int64),
        )


def rim_faces(faces: Array) -> Array:
    """True (f,) where a triangle touches the open rim of the mesh by an edge or a corner."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.zeros(int(faces.max()) + 1, bool)
    rim[unique[count == 1]] = True
    return np.asarray(rim[faces].any(1))


@dataclass(frozen=True)
class Points:
    """Oriented points of the moving surface, one sigma each (its own unit; 0 = unknown)."""

    xyz: Array  # (n, 3)
    normals: Array  # (n, 3), towards air
    sigma: Array  # (n,)

    def subset(self, count: int, seed: int) -> Points:
        """At most `count` of the points, drawn without replacement."""
        if len(self.xyz) <= count:
            return self
        pick = np.random.default_rng(seed).choice(len(self.xyz), count, replace=False)
        return Points(self.xyz[pick], self.normals[pick], self.sigma[pick])


def sample_surface(vertices: Array, faces: Array, sigma: Array, count: int, seed: int) -> Points:
    """`count` points uniform by area with face normals and interpolated sigma."""
    rng = np.random.default_rng(seed)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    face = np.searchsorted(np.cumsum(area), rng.random(count) * area.sum()).clip(0, len(faces) - 1)
    u = rng.random((count, 2))
    u[u.sum(1) > 1] = 1 - u[u.sum(1) > 1]
    b = np.column_stack([1 - u.sum(1), u])
    points = np.einsum("nk,nkj->nj", b, corners[face])
    smooth = vertex_normals(vertices, faces)
    n = np.einsum("nk,nkj->nj", b, smooth[faces[face]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)
    return Points(points, n, np.einsum("nk,nk->n", b, sigma[faces[face]].astype(float)))


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Area-weighted unit normals (v, 3)."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(out, faces[:, k], normals)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-300)


@dataclass(frozen=True)
class Pairs:
    """Moved points with their counterparts on the target."""

    moved: Array  # (n, 3)
    closest: Array  # (n, 3)
    normal: Array  # (n, 3) of the target
    distance: Array  # (n,)
    valid: Array  # (n,) not on the rim, normals agree


def pair(points: Points, target: Surroundings, b_from_a: Array) -> Pairs:
    """Closest points of all moved points, with vetoes."""
    moved = apply(b_from_a, points.xyz)
    closest, face = target.closest(moved)
    normal = target.normals[face]
    rotation = b_from_a[:3, :3] / scale_of(b_from_a)
    agree = np.einsum("ni,ni->n", points.normals @ rotation.T, normal)
    valid = ~target.rim[face] & (agree > _MIN_COSINE)
    return Pairs(moved, closest, normal, np.linalg.norm(moved - closest, axis=1), valid)


@dataclass(frozen=True)
class IcpResult:
    """Where ICP ended. `covariance`: (rotation rad, translation mm at the centroid, log scale)."""

    b_from_a: Array
    inlier: Array  # (n,) of the points used
    residual: Array  # (n,) signed point-to-plane
    width: float  # final robust width, mm
    covariance: Array  # (7, 7)
    rms: float  # point-to-plane RMS of the inliers
    overlap: float  # share of the points that are inliers
    weakest_mm: float  # one standard deviation along the least determined motion


def icp(
    points: Points,
    target: Surroundings,
    start: Array,
    with_scale: bool,
    width: float = 4.0,
    floor: float = 0.02,
    iterations: int = 60,
    inlier: float = 1.0,
) -> IcpResult:
    """Refine `start`; `width` is the first reach in mm, `inlier` the distance that counts as on."""
    T = np.array(start, float)
    dof = 7 if with_scale else 6
    for k in range(iterations):
        p = pair(points, target, T)
        r = np.einsum("ni,ni->n", p.moved - p.closest, p.normal)
        near = p.valid & (p.distance < 3 * width)
        if near.sum() < 4 * dof:
            break
        weight = _weights(r, near, width, points.sigma * scale_of(T))
        centre = (weight[:, None] * p.moved).sum(0) / max(weight.sum(), 1e-300)
        J = _jacobian(p.moved - centre, p.normal)[:, :dof]
        H = (J * weight[:, None]).T @ J
        H += 1e-9 * np.trace(H) / dof * np.eye(dof)
        step = -np.linalg.solve(H, J.T @ (weight * r))
        step = np.concatenate([step, np.zeros(7 - dof)])
        step[:3] *= min(1.0, 0.2 / max(float(np.linalg.norm(step[:3])), 1e-12))
        step[6] = float(np.clip(step[6], -0.1, 0.1))
        T = _step(step, centre) @ T
        spread = 1.4826 * float(np.median(np.abs(r[near])))
        width = max(min(0.85 * width, 3 * max(spread, floor) + 0.5 * width), 3 * floor)
        width = max(width, 2.5 * spread)
        size = float(np.abs(p.moved[near] - centre).max())
        moving = np.abs(step[3:6]).max() + (np.abs(step[:3]).max() + abs(step[6])) * size
        if k > 12 and moving < 1e-4:
            break
    return _finish(points, target, T, with_scale, width, inlier)


def _weights(r: Array, near: Array, width: float, sigma: Array) -> Array:
    robust = 1.0 / (1.0 + (r / width) ** 2) ** 2
    known = np.where(sigma > 0, sigma, np.median(sigma[sigma > 0]) if (sigma > 0).any() else 1.0)
    trust = 1.0 / (known**2 + (0.3 * width) ** 2)
    return np.where(near, robust * trust / trust.max(), 0.0)


def _jacobian(offset: Array, normal: Array) -> Array:
    return np.column_stack(
        [np.cross(offset, normal), normal, np.einsum("ni,ni->n", offset, normal)]
    )


def _step(step: Array, centre: Array) -> Array:
    from scipy.spatial.transform import Rotation

    move = compose(Rotation.from_rotvec(step[:3]).as_matrix(), step[3:6], float(np.exp(step[6])))
    move[:3, 3] += centre - move[:3, :3] @ centre
    return move


def _finish(
    points: Points, target: Surroundings, T: Array, with_scale: bool, width: float, inlier: float
) -> IcpResult:
    p = pair(points, target, T)
    r = np.einsum("ni,ni->n", p.moved - p.closest, p.normal)
    on = p.valid & (p.distance < inlier)
    covariance = np.full((7, 7), np.nan)
    weakest = float("inf")
    dof = 7 if with_scale else 6
    if on.sum() > 10 * dof:
        weight = _weights(r, on, width, points.sigma * scale_of(T))
        centre = (weight[:, None] * p.moved).sum(0) / weight.sum()
        J = _jacobian(p.moved - centre, p.normal)[:, :dof]
        x = (r / width) ** 2  # the slope of the influence, not the weight, carries information
        slope = weight * (1 - 4 * x / (1 + x))
        bread = np.linalg.pinv((J * slope[:, None]).T @ J)
        score = J * (weight * r)[:, None]
        _, cell = np.unique(np.floor(p.moved / _CELL_MM).astype(int), axis=0, return_inverse=True)
        sums = np.zeros((int(cell.max()) + 1, dof))
        np.add.at(sums, cell.reshape(-1), score)
        clusters = int((np.abs(sums).sum(1) > 0).sum())
        factor = clusters / max(clusters - dof, 1)
        covariance[:dof, :dof] = factor * bread @ (sums.T @ sums) @ bread
        # the sandwich is blind to a motion without any resistance (a tube about its axis):
        # all motions as mm at the RMS radius, residuals independent only between cells
        radius = float(np.sqrt((weight * ((p.moved - centre) ** 2).sum(1)).sum() / weight.sum()))
        units = np.array([radius] * 3 + [1.0] * 3 + [radius])[:dof]
        N = (J[on] / units).T @ (J[on] / units) * clusters / on.sum()
        noise = max(float(np.sqrt((r[on] ** 2).mean())), 0.02)
        weakest = noise / float(np.sqrt(max(np.linalg.eigvalsh(N)[0], 1e-12)))
    rms = float(np.sqrt((r[on] ** 2).mean())) if on.any() else float("nan")
    return IcpResult(T, on, r, width, covariance, rms, float(on.mean()), weakest)


def scale_sigma(points: Points, target: Target, result: IcpResult) -> float:
    """Relative standard deviation of the scale: residuals, and what they cannot show.

    Neighbouring depths are wrong together, and a fit with a free scale hides that: a far wall that
    lies too deep leaves small residuals and a wrong scale. So the surface's own sigma is carried
    through the fit as if fully correlated within cells of 6 mm, beside the residuals' sandwich.
    """
    p = pair(points, target, result.b_from_a)
    on, r, scale = result.inlier, result.residual, scale_of(result.b_from_a)
    seen = result.covariance[6, 6]
    if on.sum() < 70 or not np.isfinite(seen):
        return 0.01
    weight = _weights(r, on, result.width, points.sigma * scale)
    centre = (weight[:, None] * p.moved).sum(0) / weight.sum()
    J = _jacobian(p.moved - centre, p.normal)
    bread = np.linalg.pinv((J * weight[:, None]).T @ J)
    _, cell = np.unique(np.floor(p.moved / _JOINT_MM).astype(int), axis=0, return_inverse=True)
    score = np.zeros((int(cell.max()) + 1, 7))
    np.add.at(score, cell.reshape(-1), J * (weight * points.sigma * scale)[:, None])
    hidden = (bread @ (score.T @ score) @ bread)[6, 6]
    return float(np.sqrt(seen + hidden))
