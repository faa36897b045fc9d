"""Rigid and similarity transforms, projection, alignment. numpy float64, no state.

Conventions: a transform named `b_from_a` is a (4, 4) matrix that maps homogeneous points of `a`
to `b`. Cameras have OpenCV axes (x right, y down, z forward); pixel centres lie at (0.5, 0.5).
Depth is z along the optical axis. Angles are in radians unless the name says `_deg`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def apply(b_from_a: Array, points_a: Array) -> Array:
    """Map points (..., 3) from a to b."""
    return points_a @ b_from_a[:3, :3].T + b_from_a[:3, 3]


def invert(b_from_a: Array) -> Array:
    """Inverse of rigid or similarity transforms (..., 4, 4)."""
    return np.linalg.inv(b_from_a)


def compose(rotation: Array, translation: Array, scale: float = 1.0) -> Array:
    """The (4, 4) transform x -> scale * rotation @ x + translation."""
    out = np.eye(4)
    out[:3, :3] = scale * np.asarray(rotation)
    out[:3, 3] = translation
    return out


def project(points: Array, world_from_camera: Array, K: Array) -> tuple[Array, Array]:
    """Pixels (..., 2) and z-depth (...) of world points (..., 3) in one pinhole camera."""
    p = apply(invert(world_from_camera), points)
    z = p[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = p[..., :2] / z[..., None] * np.array([K[0, 0], K[1, 1]]) + K[:2, 2]
    return uv, z


def pinhole(points: Array, K: Array) -> tuple[Array, Array]:
    """Pixels (k, 2) of points (k, 3) of a camera's space, and their derivative (k, 2, 3)."""
    f, z = np.array([K[0, 0], K[1, 1]]), points[:, 2]
    slope = np.zeros((len(points), 2, 3))
    for axis in (0, 1):
        slope[:, axis, axis] = f[axis] / z
        slope[:, axis, 2] = -f[axis] * points[:, axis] / z**2
    return points[:, :2] / z[:, None] * f + K[:2, 2], slope


def skew(v: Array) -> Array:
    """The (k, 3, 3) matrices [v]x of vectors (k, 3): [v]x w = v x w."""
    out = np.zeros((len(v), 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        out[:, i, j], out[:, j, i] = -v[:, k], v[:, k]
    return out


def pixel_grid(width: int, height: int) -> Array:
    """(height, width, 2) pixel centres, the first at (0.5, 0.5)."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], -1)


def rays(uv: Array, K: Array) -> Array:
    """Camera-space ray (..., 3) with z = 1 through pixels (..., 2): point = z * ray."""
    xy = (uv - K[:2, 2]) / np.array([K[0, 0], K[1, 1]])
    return np.concatenate([xy, np.ones_like(xy[..., :1])], -1)


def unproject(z: Array, world_from_camera: Array, K: Array) -> Array:
    """World points (h, w, 3) of a z-depth map (h, w)."""
    h, w = z.shape
    return apply(world_from_camera, rays(pixel_grid(w, h), K) * z[..., None])


def essential(world_from_a: Array, world_from_b: Array) -> Array:
    """The (3, 3) matrix E with q^T E p = 0 for rays p seen by camera a and q by b."""
    b_from_a = invert(world_from_b) @ world_from_a
    return np.cross(b_from_a[:3, 3], b_from_a[:3, :3], axisb=0, axisc=0)


def epipolar_distance(E: Array, p: Array, q: Array) -> Array:
    """Signed distance (n,) of rays p, q (n, 3), z = 1, from their epipolar lines; first order
    (Sampson), in focal lengths."""
    line, back = p @ E.T, q @ E
    steep = (line[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1)
    return (q * line).sum(1) / np.sqrt(np.maximum(steep, 1e-20))


def quaternion_from_rotation(R: Array) -> Array:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation (3, 3)."""
    from scipy.spatial.transform import Rotation

    q = Rotation.from_matrix(R).as_quat()
    q = np.array([q[3], q[0], q[1], q[2]])
    return q if q[0] >= 0 else -q


def rotation_from_quaternion(q: Array) -> Array:
    """Rotation (3, 3) of a quaternion (w, x, y, z) of any positive norm."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = np.asarray(q, float)
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def rotation_angle_deg(R: Array) -> Array:
    """Angle of rotations (..., 3, 3) in degrees, accurate for small angles too."""
    s = np.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1
    )
    trace = R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2]
    return np.degrees(np.arctan2(np.linalg.norm(s, axis=-1), trace - 1.0))


def nearest_rotation(M: Array) -> Array:
    """The proper rotation nearest to M (3, 3) in the Frobenius norm."""
    u, _, vt = np.linalg.svd(M)
    d = np.sign(np.linalg.det(u @ vt))
    return u @ np.diag([1.0, 1.0, d]) @ vt


def umeyama(
    points_a: Array, points_b: Array, weights: Array | None = None, with_scale: bool = True
) -> Array:
    """Least-squares similarity (or rigid) `b_from_a` (4, 4) of paired points (n, 3).

    Umeyama, PAMI 1991. The determinant is positive always: never a reflection. Raises
    ValueError when fewer than 3 points are given or all of them lie on one line.
    """
    a, b = np.asarray(points_a, float), np.asarray(points_b, float)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    if len(a) < 3:
        raise ValueError(f"an alignment needs at least 3 point pairs, got {len(a)}")
    w = w / w.sum()
    ma, mb = w @ a, w @ b
    ca, cb = a - ma, b - mb
    spread = np.linalg.svd(ca * np.sqrt(w)[:, None], compute_uv=False)
    if spread[1] <= 1e-9 * max(spread[0], 1e-300):
        raise ValueError("the points lie on one line, so they do not fix the rotation")
    u, s, vt = np.linalg.svd(cb.T @ (ca * w[:, None]))
    d = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    R = u @ np.diag(d) @ vt
    scale = float((s * d).sum() / (w @ (ca**2).sum(1))) if with_scale else 1.0
    return compose(R, mb - scale * R @ ma, scale)


def triangulate(
    uv: Array, point_of: Array, view_of: Array, world_from_camera: Array, K: Array, start: Array
) -> Array:
    """Points (m, 3) nearest to the pixels that saw them, from `start` (m, 3) by Gauss-Newton.

    Observation k: point, view, pixel uv (k, 2). A point that a step would take behind a camera, or
    out of a region in which steps are small, stays where it was.
    """
    out = np.array(start, float)
    R, centre = world_from_camera[view_of, :3, :3], world_from_camera[view_of, :3, 3]
    for _ in range(4):
        local = np.einsum("kji,kj->ki", R, out[point_of] - centre)
        local[local[:, 2] <= 0] = np.nan
        pixels, slope = pinhole(local, K)
        miss, J = uv - pixels, slope @ R.transpose(0, 2, 1)
        normal, pull = np.zeros((len(out), 3, 3)), np.zeros((len(out), 3))
        np.add.at(normal, point_of, np.einsum("kai,kaj->kij", J, J))
        np.add.at(pull, point_of, np.einsum("kai,ka->ki", J, miss))
        good = np.isfinite(pull).all(1) & np.isfinite(normal).all((1, 2))
        trace = np.trace(normal, axis1=1, axis2=2)
        good &= trace > 0
        normal[~good], pull[~good] = np.eye(3), 0
        damp = 1e-9 * np.where(good, trace, 1.0)
        step = np.linalg.solve(normal + damp[:, None, None] * np.eye(3), pull[..., None])[..., 0]
        nearest = np.full(len(out), np.inf)
        np.minimum.at(nearest, point_of, np.nan_to_num(local[:, 2], nan=0.0))
        small = np.linalg.norm(step, axis=1) < 0.1 * nearest
        out = np.where(small[:, None], out + step, out)
    return out


def align_cameras(world_from_camera_a: Array, world_from_camera_b: Array) -> Array:
    """Similarity `b_from_a` of two sets of the same cameras (n, 4, 4).

    The rotation is averaged from the orientations (so that a straight path leaves no freedom of
    roll), then scale and translation come from the centres. Robust to bad cameras: the rotation is
    the L1 mean (Hartley et al., IJCV 2013, by re-weighting), the centres are re-weighted too.
    """
    Ra, Rb = world_from_camera_a[:, :3, :3], world_from_camera_b[:, :3, :3]
    each = np.einsum("nij,nkj->nik", Rb, Ra)
    R = nearest_rotation(each.sum(0))
    for _ in range(30):
        angle = np.radians(rotation_angle_deg(np.einsum("ji,njk->nik", R, each)))
        R = nearest_rotation((each / np.maximum(angle, 1e-6)[:, None, None]).sum(0))
    ca, cb = world_from_camera_a[:, :3, 3] @ R.T, world_from_camera_b[:, :3, 3]
    w = np.ones(len(ca))
    scale, t = 1.0, np.zeros(3)
    for _ in range(3):
        w = w / w.sum()
        ma, mb = w @ ca, w @ cb
        num = (w * ((ca - ma) * (cb - mb)).sum(1)).sum()
        den = (w * ((ca - ma) ** 2).sum(1)).sum()
        scale = float(num / den) if den > 0 else 1.0
        t = mb - scale * ma
        r = np.linalg.norm(scale * ca + t - cb, axis=1)
        s = max(1.4826 * float(np.median(r)), 1e-12)
        w = 1.0 / (1.0 + (r / (3 * s)) ** 2)
    return compose(R, t, scale)


def scale_of(b_from_a: Array) -> float:
    """The scale factor of a similarity (4, 4)."""
    return float(np.cbrt(np.linalg.det(b_from_a[:3, :3])))


def transform_pose(b_from_a: Array, a_from_camera: Array) -> Array:
    """Poses (..., 4, 4) moved by a similarity: rotations stay rotations, centres are mapped."""
    s = scale_of(b_from_a)
    out = np.array(b_from_a @ a_from_camera)
    out[..., :3, :3] /= s
    return out
