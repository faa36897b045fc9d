"""A depth swept in a narrow band against real frames, and depth maps that check each other.

Hypotheses are 1/z = (1 + t) / z0 with |t| <= band: windows follow the slant of the prior. Each is
warped into the neighbour frames and scored by masked NCC; the relative depth is smoothed
semi-globally (Hirschmueller, PAMI 2008) and a parabola through the raw cost gives the fraction of a
step. The arithmetic is cuda/sweep.cpp; `twin` is its plain definition, and runs without a compiler.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import kernels
from endorecon.config import RefineConfig
from endorecon.geometry import invert
from endorecon.refine import twin
from endorecon.refine.photos import Photos

Array = NDArray[Any]


@dataclass(frozen=True)
class Sweep:
    """What one sweep says of one frame, all (h, w) float32."""

    z: Array  # NaN = no answer
    score: Array  # mean NCC of the views that agree
    curvature: Array  # d2 cost / dt2, t = relative inverse depth
    support: Array  # number of views that agree
    edge: Array  # bool, the best hypothesis lies on the rim of the band


def warps(photos: Photos, i: int, others: Sequence[int], inverse: bool = False) -> Array:
    """(v, 12) float32: projection of ref pixels (x, y, 1, 1/z) into the others (or back)."""
    K = photos.camera.K
    out = np.zeros((len(others), 3, 4))
    for k, j in enumerate(others):
        a, b = (j, i) if inverse else (i, j)
        b_from_a = invert(photos.world_from_camera[b]) @ photos.world_from_camera[a]
        out[k, :, :3] = K @ b_from_a[:3, :3] @ np.linalg.inv(K)
        out[k, :, 3] = K @ b_from_a[:3, 3]
    return np.ascontiguousarray(out.reshape(-1, 12), np.float32)


def sweep(
    photos: Photos,
    i: int,
    neighbours: Sequence[int],
    z0: Array,
    band: Array,
    config: RefineConfig,
    steps: int,
) -> Sweep:
    """Sharpen the prior z0 (h, w) of photo i within `band` (h, w) against the neighbours."""
    h, w = photos.grey.shape[1:]
    z0 = np.ascontiguousarray(z0, np.float32)
    band = np.ascontiguousarray(band, np.float32)
    out = {k: np.zeros((h, w), np.float32) for k in ("z", "score", "curvature", "support")}
    edge = np.zeros((h, w), np.uint8)
    if not neighbours:
        out["z"].fill(np.nan)
        return Sweep(**out, edge=edge.astype(bool))
    images, weights = _finer(photos, neighbours, config.finer)
    there = warps(photos, i, neighbours)
    there[:, :8] *= config.finer  # the rows of u and v
    settings = (config.noise**2, config.smooth_small, config.smooth_large, config.jump)
    at, f32 = kernels.address, "float32"
    call = (
        h, w, at(photos.grey[i], f32), at(photos.weight[i], f32), at(z0, f32, (h, w)),
        at(band, f32, (h, w)), len(neighbours), config.finer, at(images, f32), at(weights, f32),
        at(there, f32), steps, config.radius, *(ctypes.c_float(x) for x in settings),
        *(at(out[k], f32) for k in ("z", "score", "curvature", "support")), at(edge, "uint8"),
    )  # fmt: skip
    if not kernels.run("sweep", "endorecon_sweep", call, config.machine, "sweep"):
        return Sweep(
            *twin.sweep(
                photos.grey[i], photos.weight[i], z0, band, images, weights, there, steps,
                config.radius, *settings,
            )
        )  # fmt: skip
    return Sweep(**out, edge=edge.astype(bool))


def _finer(photos: Photos, chosen: Sequence[int], times: int) -> tuple[Array, Array]:
    """Grey values and weights of the chosen photos at `times` their size.

    Reading between pixels in a straight line blurs, the more the farther between: windows look
    more alike where the shifts are whole pixels. Between finer pixels there is little to blur.
    """
    import cv2

    grey, weight = photos.grey[list(chosen)], photos.weight[list(chosen)]
    if times > 1:
        h, w = (times * size for size in grey.shape[1:])
        grey = np.stack([cv2.resize(g, (w, h), interpolation=cv2.INTER_CUBIC) for g in grey])
        weight = weight.repeat(times, 1).repeat(times, 2)
    return np.ascontiguousarray(grey), np.ascontiguousarray(weight)


def beside(
    photos: Photos, i: int, others: Sequence[int], z: Array, sigma: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Map i (z and sigma), the others' (v, h, w), and the warps to them and back, as kernels take
    them; z, sigma: (n, h, w) of all photos."""
    chosen = list(others)
    mine, theirs = (z[i], sigma[i]), (z[chosen], sigma[chosen])
    zi, si, zs, ss = (np.ascontiguousarray(a, np.float32) for a in (*mine, *theirs))
    return zi, si, zs, ss, warps(photos, i, others), warps(photos, i, others, inverse=True)


def fuse(
    photos: Photos, i: int, others: Sequence[int], z: Array, sigma: Array, tolerance: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Average map i with the other maps where they agree (z, sigma: (n, h, w) of all photos).

    Returns z, spread of the estimates, sigma of the mean were they independent, number of maps
    that agree, number that contradict; each (h, w) float32.
    """
    h, w = z.shape[1:]
    out = [np.zeros((h, w), np.float32) for _ in range(5)]
    zi, si, zs, ss, there, back = beside(photos, i, others, z, sigma)
    if not others:
        return zi, out[1], si, out[3], out[4]
    library = kernels.load("sweep")
    if library is None:
        return twin.fuse(zi, si, zs, ss, there, back, tolerance)
    at, f32 = kernels.address, "float32"
    library.endorecon_fuse(
        h, w, at(zi, f32), at(si, f32), len(others), at(zs, f32), at(ss, f32), at(there, f32),
        at(back, f32), ctypes.c_float(tolerance), *(at(o, f32) for o in out),
    )  # fmt: skip
    return out[0], out[1], out[2], out[3], out[4]


def in_parallel(function: Any, count: int) -> list[Any]:
    """function(0), ..., function(count - 1) on as many threads as there are cores, in order.

    The kernels release the interpreter and are single-threaded: results do not depend on this.
    """
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(function, range(count)))
