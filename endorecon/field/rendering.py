"""Whole views rendered inside a field: display colour, median depth, spread, opacity.

The depth of a pixel is the z where the transmittance falls below 1/2 (never the expected depth: fog
before a surface drags that off). It is NaN where that happens only in the last, opaque sample: the
field then knows no surface there. Spread is half the distance between the 16 % and 84 % quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from endorecon.field.nerf import NerfField
from endorecon.field.twin import RayBatch
from endorecon.geometry import pixel_grid

Array = NDArray[np.float64]
QUANTILES = (0.16, 0.5, 0.84)
CHUNK = 8192  # rays a call: scratch of a few tens of megabytes


@dataclass(frozen=True)
class Rendering:
    """One view. z and spread have the unit of the poses."""

    rgb: NDArray[np.float32]  # (h, w, 3) display values in [0, 1]
    z: NDArray[np.float32]  # (h, w), NaN = unknown
    spread: NDArray[np.float32]  # (h, w), NaN where z is
    opacity: NDArray[np.float32]  # (h, w) in [0, 1], without the last sample


def render(
    field: NerfField,
    K: Array,
    world_from_camera: Array,
    width: int,
    height: int,
    near_far: Array | None = None,
    frame: int | None = None,
    light_position: Array | None = None,
) -> Rendering:
    """One view of `field` as a pinhole K (3, 3) at world_from_camera (4, 4) sees it.

    near_far (h, w, 2): z bounds of a band that gets most samples, NaN: none. frame: the view whose
    exposure is used (None: the mean exposure). light_position (3,) in the world: where the light
    is, so that a second eye sees the first one's illumination (None: at this camera).
    """
    uv = pixel_grid(width, height).reshape(-1, 2)
    out = render_rays(field, uv, K, world_from_camera, near_far, frame, light_position)
    rgb, z, spread, opacity = (a.reshape(height, width, *a.shape[1:]) for a in out)
    return Rendering(rgb, z, spread, opacity)


def render_rays(
    field: NerfField,
    uv: Array,
    K: Array,
    world_from_camera: Array,
    near_far: Array | None = None,
    frame: int | None = None,
    light_position: Array | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """Colour (n, 3), z (n,), spread (n,), opacity (n,) of pixels (n, 2); see `render`."""
    n = len(uv)
    colour, depth = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
    opacity, far = np.zeros(n, np.float32), np.zeros(n, np.float32)
    bands = None if near_far is None else np.reshape(near_far, (n, 2))
    for at in range(0, n, CHUNK):
        part = slice(at, min(at + CHUNK, n))
        band = None if bands is None else bands[part]
        batch = _batch(field, uv[part], K, world_from_camera, band, frame, light_position)
        c, d, o = field.look(batch, QUANTILES)
        colour[part], depth[part] = c.cpu().numpy(), d.cpu().numpy()
        opacity[part], far[part] = o.cpu().numpy(), batch.edges[:, -1].cpu().numpy()
    known = (depth[:, 1] < far) & np.isfinite(depth).all(1)
    scale = np.float32(field.depth)
    z = np.where(known, depth[:, 1] * scale, np.float32(np.nan))
    spread = np.where(known, 0.5 * (depth[:, 2] - depth[:, 0]) * scale, np.float32(np.nan))
    return np.clip(colour, 0.0, 1.0), z, spread, opacity


def _batch(
    field: NerfField,
    uv: Array,
    K: Array,
    world_from_camera: Array,
    band: Array | None,
    frame: int | None,
    light_position: Array | None,
) -> RayBatch:
    origin, direction, view, norm = field.rays(uv, K, world_from_camera)
    R, device = len(uv), field.device
    zbands = None
    if band is not None:
        b = np.nan_to_num(np.asarray(band, np.float64) / field.depth, nan=0.0)
        zbands = torch.from_numpy(np.ascontiguousarray(b, np.float32)).to(device)
    jitter = torch.full((R,), 0.5, device=device)
    edges = field.edges(
        origin, direction, norm, zbands, jitter, field.config.samples, field.config.uniform_last
    )
    falloff = None
    if light_position is not None:
        off = (world_from_camera[:3, 3] - np.asarray(light_position, float)) / field.depth
        d = view.double().cpu().numpy() * norm.double().cpu().numpy()[:, None]
        terms = np.stack([np.full(R, off @ off), 2.0 * (d @ off), (d**2).sum(1)], 1)
        falloff = torch.from_numpy(terms.astype(np.float32)).to(device)
    zero = torch.zeros(R, device=device)
    return RayBatch(
        origin, direction, view, norm,
        torch.full((R,), -1 if frame is None else frame, dtype=torch.int32, device=device),
        edges, torch.zeros((R, 3), device=device), zero, zero, torch.ones_like(zero), zero, falloff,
    )  # fmt: skip
