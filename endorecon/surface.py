"""Depth maps -> one surface: trust-weighted TSDF (Curless and Levoy 1996), holes stay holes.

Each pixel counts with trust / sigma^2. A vertex carries colour, the standard deviation of its
position along the view, and a status: OBSERVED where several maps agree on it, WEAK elsewhere.
Nothing is closed or guessed. Space and unit are those of the depth maps. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import kernels
from endorecon.config import SurfaceConfig
from endorecon.errors import NotEnoughInformation
from endorecon.geometry import invert, project, unproject
from endorecon.scene import OBSERVED, WEAK, DepthMap, Space, Surface, Unit

Array = NDArray[Any]
_FREE = 0.1  # weight of a node far in front of a surface beside one on it; cuda/tsdf.cpp: FREE


@dataclass(frozen=True)
class Grid:
    """A dense grid of nodes at origin + voxel * (ix, iy, iz); arrays are [nz, ny, nx]."""

    origin: Array
    voxel: float
    tsdf: Array  # float32, in truncations, 1 = free
    weight: Array  # float32, 0 = never seen


def fuse(
    depths: Sequence[DepthMap],
    images: Sequence[Array],
    config: SurfaceConfig,
    unit: Unit,
    space: Space = "reconstruction",
) -> Surface:
    """The surface that the depth maps agree on; images are (h, w, 3) uint8 of any size.

    Raises NotEnoughInformation when nothing trusted is left to fuse.
    """
    usable = [_trusted(d, config) for d in depths]
    if not usable or sum(int((w > 0).sum()) for w in usable) < 100:
        raise NotEnoughInformation(
            "No depth is trusted enough to make a surface",
            "film slower, keep the tip 10-30 mm from tissue, and move sideways",
        )
    grid = _make_grid(depths, usable, config)
    truncation = config.truncation * grid.voxel
    for depth, weight in zip(depths, usable, strict=True):
        _integrate(grid, depth, weight, truncation)
    vertices, faces = _extract(grid)
    faces = _without_islands(faces, len(vertices), config.min_faces)
    vertices, faces = _compact(vertices, faces)
    if len(faces) == 0:
        raise NotEnoughInformation(
            "The depth maps do not overlap enough to make a surface",
            "film the same place from several sides",
        )
    colors, status, sigma = _judge(vertices, depths, images, config)
    return Surface(vertices, faces, colors, status, sigma, unit, space)


def _trusted(depth: DepthMap, config: SurfaceConfig) -> Array:
    """Weight (h, w) float32: trust / sigma^2, 0 where the map is not to be used."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ok = np.isfinite(depth.z) & (depth.trust >= config.min_trust) & (depth.sigma > 0)
        # Relative to the depth, so that the numbers do not depend on the unit.
        relative = np.maximum(depth.sigma / depth.z, 1e-3)
        weight = np.where(ok, depth.trust * (0.01 / relative) ** 2, 0)
    # A depth edge is a pixel between two surfaces: it belongs to neither.
    z = np.where(ok, depth.z, np.nan)
    step = np.zeros(z.shape, bool)
    for axis in (0, 1):
        with np.errstate(invalid="ignore"):
            jump = np.abs(np.diff(np.log(z), axis=axis)) > 0.04
        pad = [(0, 0), (0, 0)]
        pad[axis] = (1, 0)
        step |= np.pad(jump, pad)
        pad[axis] = (0, 1)
        step |= np.pad(jump, pad)
    return np.where(step, 0, weight).astype(np.float32)


def _make_grid(depths: Sequence[DepthMap], weights: Sequence[Array], config: SurfaceConfig) -> Grid:
    """A grid round all trusted points (but for far outliers), of at most max_voxels."""
    clouds, footprint = [], []
    for depth, weight in zip(depths, weights, strict=True):
        z = np.where(weight > 0, depth.z, np.nan)[::4, ::4]
        K = depth.K.copy()
        K[:2] /= 4
        points = unproject(z, depth.world_from_camera, K)
        clouds.append(points[np.isfinite(z)])
        if np.isfinite(z).any():
            footprint.append(float(np.nanmedian(z)) / depth.K[0, 0])
    cloud = np.concatenate(clouds)
    lo, hi = np.quantile(cloud, [0.002, 0.998], axis=0)
    voxel = config.voxel if config.voxel > 0 else 1.5 * float(np.median(footprint))
    margin = 6 * voxel + 0.01 * (hi - lo)
    lo, hi = lo - margin, hi + margin
    while np.prod(np.ceil((hi - lo) / voxel) + 1) > config.max_voxels:
        voxel *= 1.05
    shape = (np.ceil((hi - lo) / voxel).astype(int) + 1)[::-1]
    return Grid(lo, float(voxel), np.ones(shape, np.float32), np.zeros(shape, np.float32))


def _integrate(grid: Grid, depth: DepthMap, weight: Array, truncation: float) -> None:
    """Add one map to the grid, in place."""
    z = np.ascontiguousarray(np.nan_to_num(depth.z), np.float32)
    m = np.ascontiguousarray(depth.K @ invert(depth.world_from_camera)[:3], np.float64)
    library = kernels.load("tsdf")
    if library is None:
        _integrate_plain(grid, z, weight, m, truncation)
        return
    import ctypes

    nz, ny, nx = grid.tsdf.shape
    h, w = z.shape
    at = kernels.address
    library.endorecon_tsdf(
        nx, ny, nz, at(np.ascontiguousarray(grid.origin, np.float64), "float64"),
        ctypes.c_double(grid.voxel), ctypes.c_float(truncation), h, w, at(z, "float32"),
        at(weight, "float32", (h, w)), at(m, "float64"), at(grid.tsdf, "float32"),
        at(grid.weight, "float32"),
    )  # fmt: skip


def _integrate_plain(grid: Grid, z: Array, weight: Array, m: Array, truncation: float) -> None:
    """What cuda/tsdf.cpp does, slab by slab."""
    nz, ny, nx = grid.tsdf.shape
    h, w = z.shape
    y, x = np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij")
    for k in range(nz):
        p = grid.origin + grid.voxel * np.stack([x, y, np.full_like(x, k)], -1)
        q = p @ m[:, :3].T + m[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = q[..., 0] / q[..., 2], q[..., 1] / q[..., 2]
            inside = (q[..., 2] > 1e-9) & (u >= 0) & (v >= 0) & (u < w) & (v < h)
        iu = np.where(inside, u, 0).astype(int)
        iv = np.where(inside, v, 0).astype(int)
        g = np.where(inside, weight[iv, iu], 0)
        s = z[iv, iu] - q[..., 2]
        g = g * np.maximum(1 - np.abs(s) / truncation, np.where(s < 0, 0, _FREE))
        use = (g > 0) & (s >= -truncation)
        total = grid.weight[k] + g
        with np.errstate(invalid="ignore", divide="ignore"):
            new = (grid.tsdf[k] * grid.weight[k] + np.minimum(s / truncation, 1) * g) / total
        grid.tsdf[k][use] = new[use]
        grid.weight[k][use] = total[use]


def _extract(grid: Grid) -> tuple[Array, Array]:
    """Zero level by marching cubes; vertices next to a node that was never seen are dropped."""
    from skimage.measure import marching_cubes

    if not (grid.tsdf.min() < 0 < grid.tsdf.max()):
        return np.zeros((0, 3)), np.zeros((0, 3), int)
    nodes, faces, _, _ = marching_cubes(grid.tsdf, 0.0)
    low, high = np.floor(nodes).astype(int), np.ceil(nodes).astype(int)
    seen = (grid.weight[tuple(low.T)] > 0) & (grid.weight[tuple(high.T)] > 0)
    # Where a truncated free node meets a node behind the surface, the crossing is no measurement.
    a, b = grid.tsdf[tuple(low.T)], grid.tsdf[tuple(high.T)]
    seen &= np.maximum(np.abs(a), np.abs(b)) < 0.999
    faces = faces[seen[faces].all(1)][:, ::-1]  # outward = towards the cameras
    return grid.origin + grid.voxel * nodes[:, ::-1].astype(np.float64), faces.astype(np.int64)


def _without_islands(faces: Array, count: int, min_faces: int) -> Array:
    """Drop connected parts of fewer faces."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(faces) == 0:
        return faces
    i, j = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(i), np.int8), (i, j)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    size = np.bincount(label[faces[:, 0]], minlength=label.max() + 1)
    return faces[size[label[faces[:, 0]]] >= min_faces]


def _compact(vertices: Array, faces: Array) -> tuple[Array, Array]:
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    new = np.cumsum(used) - 1
    return vertices[used], new[faces]


def _judge(
    vertices: Array, depths: Sequence[DepthMap], images: Sequence[Array], config: SurfaceConfig
) -> tuple[Array, Array, Array]:
    """Colour, status and sigma of each vertex from the maps that see it."""
    n = len(vertices)
    color, color_weight = np.zeros((n, 3)), np.zeros(n)
    weight, views, best = np.zeros(n), np.zeros(n), np.full(n, np.inf)
    offset2 = np.zeros(n)
    for depth, image in zip(depths, images, strict=True):
        uv, z = project(vertices, depth.world_from_camera, depth.K)
        h, w = depth.z.shape
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (uv >= 0).all(1) & (uv[:, 0] < w) & (uv[:, 1] < h)
        x, y = (np.where(inside, uv[:, k], 0).astype(int) for k in (0, 1))
        zm, sm, tm = depth.z[y, x], depth.sigma[y, x], depth.trust[y, x]
        with np.errstate(invalid="ignore"):
            see = inside & (np.abs(zm - z) < np.maximum(3 * sm, 0.02 * z)) & (sm > 0)
        see &= tm > 0
        if not see.any():
            continue
        g = np.where(see, tm / np.where(see, sm, 1) ** 2, 0)
        weight += g
        offset2 += g * np.where(see, zm - z, 0) ** 2
        views += see & (tm >= config.min_trust)
        best = np.where(see, np.minimum(best, sm), best)
        ih, iw = image.shape[:2]
        xi = np.minimum((np.where(inside, uv[:, 0], 0) * iw / w).astype(int), iw - 1)
        yi = np.minimum((np.where(inside, uv[:, 1], 0) * ih / h).astype(int), ih - 1)
        g_color = np.where(see, tm / np.maximum(z, 1e-9) ** 2, 0)
        color += image[yi, xi] * g_color[:, None]
        color_weight += g_color
    known = weight > 0
    safe = np.where(known, weight, 1)
    # Maps share frames, poses and the field: their errors are not independent, so the mean of n
    # maps is not sqrt(n) better. The square root of n is allowed up to a few maps only.
    independent = np.clip(views, 1, config.independent_views)
    single = np.sqrt(np.maximum(views, 1) / safe)
    scatter = np.sqrt(offset2 / safe)
    sigma = np.where(known, np.sqrt((single**2 + scatter**2) / independent), np.inf)
    scale = float(np.median(best[np.isfinite(best)])) if np.isfinite(best).any() else 1.0
    sigma = np.where(np.isfinite(sigma), sigma, 10 * scale)
    observed = (views >= config.observed_views) & (sigma < config.weak_sigma * _typical(depths))
    status = np.where(observed, OBSERVED, WEAK).astype(np.uint8)
    rgb = np.where(color_weight[:, None] > 0, color / np.maximum(color_weight, 1e-30)[:, None], 128)
    return rgb.round().astype(np.uint8), status, sigma.astype(np.float32)


def _typical(depths: Sequence[DepthMap]) -> float:
    """Median depth of all maps."""
    return float(np.median([np.nanmedian(d.z) for d in depths if np.isfinite(d.z).any()]))
