"""The CT brought up to date by the video: tissue that the camera looked through is set to air.

As viCT does it (arXiv 2603.06956), but from depth maps with sigma and trust: every depth map says
which places in front of its surface are free (truncated signed distance, Curless & Levoy 1996);
near the registered surface the distance to the surface itself is used. Only regions opened
deeper than noise are touched, with partial volume at their border; all other voxels keep their
bytes. Nothing is ever filled: tissue that seems to have grown stays as the CT has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.errors import NotEnoughInformation
from endorecon.evaluate.icp import Target
from endorecon.evaluate.register import observed_part
from endorecon.geometry import apply, scale_of
from endorecon.io.ct import CtVolume
from endorecon.scene import DepthMap, Surface

Array = NDArray[Any]
_AIR_HU = -1000.0
_SPAN_MM = 2.0  # truncation of the signed distance
_MIN_TRUST = 0.25


@dataclass(frozen=True)
class CtUpdate:
    """The updated volume, which voxels (k, j, i) were opened, and how much that is."""

    volume: CtVolume
    opened: Array
    opened_mm3: float


def update_ct(
    ct: CtVolume,
    depths: Iterable[DepthMap],
    surface: Surface,
    ct_from_recon: Array,
    air_hu: float,
    config: EvaluateConfig,
) -> CtUpdate:
    """Open the CT where the run saw air. `surface` is registered to LPS mm; depths are the run's.

    air_hu: what lies below it is air.

    Raises NotEnoughInformation when no trusted depth map looks into the CT.
    """
    from scipy import ndimage

    box, points = _box(ct, surface)
    free, seen = _free_space(points, depths, ct_from_recon)
    if not seen.any():
        raise NotEnoughInformation("No depth map looks into the CT", "see the run's warnings")
    distance = _sharpened(points, free, surface)
    shape = tuple(s.stop - s.start for s in box)
    distance, seen = distance.reshape(shape), seen.reshape(shape)
    old = ct.hu[box]
    voxel = float(np.cbrt(np.prod(ct.spacing)))
    sigma = float(np.median(surface.sigma[surface.sigma > 0])) if (surface.sigma > 0).any() else 0.0
    deep = max(0.75 * voxel, 3 * sigma, config.update_margin_mm)
    core = (old > air_hu) & seen & (distance > deep)
    core = ndimage.binary_opening(core, ndimage.generate_binary_structure(3, 1)) & core
    region = ndimage.binary_dilation(core, ndimage.generate_binary_structure(3, 3), iterations=3)
    region &= seen & (distance > -voxel)
    tissue = ndimage.maximum_filter(old, size=3)
    share = np.clip(0.5 - distance / voxel, 0.0, 1.0)  # of tissue in the voxel
    model = _AIR_HU + share * (np.minimum(tissue, np.maximum(old, 60.0)) - _AIR_HU)
    new = np.where(region, np.minimum(old, model), old).astype(ct.hu.dtype)
    hu = ct.hu.copy()
    hu[box] = new
    opened = np.zeros(ct.hu.shape, bool)
    opened[box] = (old > air_hu) & (new <= air_hu)
    size = abs(float(np.linalg.det(ct.lps_from_index[:3, :3])))
    volume = replace(ct, hu=hu, study=f"{ct.study}-updated")
    return CtUpdate(volume, opened, float(opened.sum()) * size)


def _box(ct: CtVolume, surface: Surface) -> tuple[tuple[slice, slice, slice], Array]:
    """Index box round the surface, as slices (k, j, i), and its voxel centres (n, 3) in LPS."""
    index = apply(np.linalg.inv(ct.lps_from_index), surface.vertices[np.unique(surface.faces)])
    size = np.array(ct.hu.shape[::-1])
    a = np.clip(np.floor(index.min(0)).astype(int) - 3, 0, size)
    b = np.clip(np.ceil(index.max(0)).astype(int) + 4, 0, size)
    if (b <= a).any():
        raise NotEnoughInformation("The surface lies outside the CT", "give the CT that covers it")
    box = (slice(a[2], b[2]), slice(a[1], b[1]), slice(a[0], b[0]))
    k, j, i = np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")
    return box, apply(ct.lps_from_index, np.stack([i, j, k], -1).reshape(-1, 3).astype(float))


def _free_space(
    points: Array, depths: Iterable[DepthMap], ct_from_recon: Array
) -> tuple[Array, Array]:
    """Signed distance (n,) in mm, positive in front of the surfaces seen, and which were seen."""
    scale = scale_of(ct_from_recon)
    back = apply(np.linalg.inv(ct_from_recon), points)
    total, weight = np.zeros(len(points)), np.zeros(len(points))
    through = np.zeros(len(points), np.int32)
    for depth in depths:
        p = apply(np.linalg.inv(depth.world_from_camera), back)
        z = p[:, 2]
        ahead = z > 1e-6
        uv = p[:, :2] / np.where(ahead, z, 1.0)[:, None]
        u = uv[:, 0] * depth.K[0, 0] + depth.K[0, 2]
        v = uv[:, 1] * depth.K[1, 1] + depth.K[1, 2]
        h, w = depth.z.shape
        inside = ahead & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        row = np.floor(np.where(inside, v, 0)).astype(int)
        column = np.floor(np.where(inside, u, 0)).astype(int)
        there = depth.z[row, column].astype(float)
        trust = np.where(inside, depth.trust[row, column], 0.0)
        gradient = np.hypot(*np.gradient(depth.z.astype(float)))[row, column]
        slope = gradient * depth.K[0, 0] / np.where(there > 0, there, 1.0)
        cosine = 1.0 / np.sqrt(1.0 + np.where(np.isfinite(slope), slope, 10.0) ** 2)
        good = inside & np.isfinite(there) & (trust >= _MIN_TRUST)
        clear = (there - z) * scale * cosine
        use = good & (clear > -_SPAN_MM)
        wt = np.where(use, trust * cosine**2, 0.0)
        total += wt * np.clip(np.where(use, clear, 0.0), -_SPAN_MM, _SPAN_MM)
        weight += wt
        through += good & (clear > 0.9 * _SPAN_MM)
    seen = weight > 0
    free = np.where(seen, total / np.where(seen, weight, 1.0), -_SPAN_MM)
    # two views that look clean through a place outvote a third that stops short of it
    return np.where(through >= 2, np.maximum(free, 0.5 * _SPAN_MM), free), seen


def _sharpened(points: Array, free: Array, surface: Surface) -> Array:
    """`free` with the exact distance to the registered surface where that is near."""
    vertices, faces = observed_part(surface)
    target = Target(vertices, faces)
    near = np.abs(free) < 0.99 * _SPAN_MM
    out = free.copy()
    closest, face = target.closest(points[near])
    offset = points[near] - closest
    distance = np.linalg.norm(offset, axis=1)
    along = np.einsum("ni,ni->n", offset, target.normals[face])
    true = (distance < 0.75 * _SPAN_MM) & ~target.rim[face] & (np.abs(along) > 0.5 * distance)
    out[near] = np.where(true, np.sign(along) * distance, free[near])
    return out


def dice(a: Array, b: Array) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0
