"""Implicit surfaces: primitives, smooth set operations, and the mesh of the zero level.

Conventions: points (..., 3) in mm; a distance is POSITIVE in air and negative in tissue, about 1 mm
a mm near the wall (the compositions are not exact distances; `march` and `project` do not rely on
it). The mesh's normals point into the air, where the endoscope is. Smooth minimum: the quadratic
polynomial of I. Quilez, "Smooth minimum".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Distance = Callable[[Array], Array]  # (n, 3) -> (n,)

_CHUNK = 32768  # points a call: temporaries stay in the cache


def smooth_max(a: Array, b: Array, k: float) -> Array:
    """Maximum with a rounded seam about k mm wide (the union of air where air is positive)."""
    h = np.maximum(k - np.abs(a - b), 0.0)
    return np.maximum(a, b) + h * h * (0.25 / k)


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Minimum with a rounded seam about k mm wide."""
    return -smooth_max(-a, -b, k)


def inside_ellipsoid(p: Array, centre: Array, radii: Array) -> Array:
    """Positive inside; first-order distance near the wall."""
    q = (p - centre) / radii
    k0 = np.linalg.norm(q, axis=-1)
    k1 = np.linalg.norm(q / radii, axis=-1)
    return -k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)


def inside_capsule(p: Array, a: Array, b: Array, radius: float) -> Array:
    """Positive inside a round-ended cylinder from a to b."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    ab = b - a
    t = np.clip((p - a) @ ab / (ab @ ab), 0.0, 1.0)
    return radius - np.linalg.norm(p - a - t[..., None] * ab, axis=-1)


def inside_box(p: Array, centre: Array, half: Array, rounding: float) -> Array:
    """Positive inside a box with rounded edges; half includes the rounding."""
    q = np.abs(p - centre) - (np.asarray(half, float) - rounding)
    outside = np.linalg.norm(np.maximum(q, 0.0), axis=-1)
    return rounding - outside - np.minimum(q.max(-1), 0.0)


def evaluate(distance: Distance, points: Array, threads: int = 2) -> Array:
    """distance at points (n, 3), in cache-sized chunks on a few threads; same bits always."""
    chunks = [points[i : i + _CHUNK] for i in range(0, len(points), _CHUNK)]
    if len(chunks) <= 1:
        return distance(points)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(distance, chunks)))


_TETRA = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], float)


def gradient(distance: Distance, points: Array, step: float = 0.01) -> Array:
    """Gradient (n, 3) by a tetrahedral central difference; points into the air."""
    values = [evaluate(distance, points + step * corner) for corner in _TETRA]
    return sum(v[:, None] * c for v, c in zip(values, _TETRA, strict=True)) / (4.0 * step)


def project(distance: Distance, points: Array, steps: int = 4, limit: float = 0.3) -> Array:
    """Points (n, 3) moved on to the zero level by Newton steps of at most `limit` mm."""
    p = np.array(points, float)
    for i in range(steps):
        if i % 2 == 0:
            g = gradient(distance, p)
            g /= np.maximum((g * g).sum(-1, keepdims=True), 1e-3)
        move = -evaluate(distance, p)[:, None] * g
        length = np.linalg.norm(move, axis=1, keepdims=True)
        p += move * np.minimum(1.0, limit / np.maximum(length, 1e-12))
    return p


def rise(distance: Distance, start: Array, clearance: float, steps: int = 60) -> Array:
    """A point (3,) near start whose distance is at least `clearance`, found by climbing."""
    p = np.array(start, float)[None]
    for _ in range(steps):
        lack = clearance - float(distance(p)[0])
        if lack <= 0:
            break
        g = gradient(distance, p, 0.2)
        p = p + np.clip(lack, 0.05, 0.5) * g / np.maximum(np.linalg.norm(g), 1e-9)
    return p[0]


def march(distance: Distance, start: Array, direction: Array, reach: float = 80.0) -> Array:
    """First point (3,) of the wall from a start along a direction (unit or not).

    A start in tissue is first moved into the air nearby.

    Raises ValueError when the start is in tissue or no wall lies within reach (mm): our mistake.
    """
    start, u = rise(distance, start, 0.3), np.asarray(direction, float)
    u = u / np.linalg.norm(u)
    t = np.arange(0.0, reach, 0.05)
    d = distance(start + t[:, None] * u)
    if d[0] <= 0:
        raise ValueError(f"the ray starts in tissue at {start.round(2)}")
    hits = np.flatnonzero(d <= 0)
    if len(hits) == 0:
        raise ValueError(f"no wall within {reach} mm of {start.round(2)}")
    low, high = t[hits[0] - 1], t[hits[0]]
    for _ in range(40):
        mid = 0.5 * (low + high)
        if distance(start[None] + mid * u)[0] > 0:
            low = mid
        else:
            high = mid
    return start + 0.5 * (low + high) * u


@dataclass(frozen=True)
class Volume:
    """distance on a grid: value [i, j, k] at origin + spacing * (i, j, k), in mm."""

    values: Array  # (nx, ny, nz) float32
    origin: Array  # (3,)
    spacing: float


@dataclass(frozen=True)
class Mesh:
    """The wall: vertices (v, 3) mm, faces (f, 3), unit normals (v, 3) into the air."""

    vertices: Array
    faces: Array
    normals: Array


def sample_volume(
    distance: Distance, low: Array, high: Array, spacing: float, coarse: int = 4
) -> Volume:
    """distance on a fine grid: exact near the wall, interpolated from a coarse one elsewhere.

    coarse: fine cells a coarse cell. The band that is evaluated exactly is wide enough that no
    sign can be wrong where |gradient| <= 2.
    """
    from scipy.ndimage import zoom

    low, high = np.asarray(low, float), np.asarray(high, float)
    cells = np.ceil((high - low) / (spacing * coarse)).astype(int)
    axes = [low[i] + spacing * coarse * np.arange(cells[i] + 1) for i in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    rough = evaluate(distance, grid.reshape(-1, 3)).reshape(grid.shape[:3]).astype(np.float32)
    shape = cells * coarse + 1
    fine = zoom(rough, shape / np.array(rough.shape), order=1, grid_mode=False).astype(np.float32)
    band = np.abs(fine) < 2.2 * spacing * coarse
    where = np.argwhere(band)
    fine[band] = evaluate(distance, low + spacing * where)
    return Volume(fine, low, spacing)


def extract_mesh(distance: Distance, volume: Volume) -> Mesh:
    """The zero level of a volume as a mesh whose vertices lie on the implicit surface.

    Pieces that do not belong to the largest connected surface are left out.
    """
    import open3d as o3d
    from skimage.measure import marching_cubes

    v, f, _, _ = marching_cubes(volume.values, 0.0, spacing=(volume.spacing,) * 3)
    v = v + volume.origin
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(v), o3d.utility.Vector3iVector(f.astype(np.int32))
    )
    label, count, _ = mesh.cluster_connected_triangles()
    f = f[np.asarray(label) == int(np.argmax(np.asarray(count)))]
    used, f = np.unique(f, return_inverse=True)
    v, f = project(distance, v[used], limit=0.5 * volume.spacing), f.reshape(-1, 3)
    n = gradient(distance, v)
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
    # Faces wind so that their geometric normal points into the air too.
    g = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    if float(np.einsum("ij,ij->i", g, n[f[:, 0]]).mean()) < 0:
        f = f[:, ::-1]
    return Mesh(v, np.ascontiguousarray(f.astype(np.int32)), n)
