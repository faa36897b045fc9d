"""Depth sharpened and judged in real neighbour frames, so that the loop cannot confirm itself.

A prior depth is swept in a narrow band (1/z = (1 + t) / z0, |t| <= band): windows follow the slant
of the prior, each hypothesis is warped into real neighbour frames and scored by masked NCC, the
relative depth is smoothed semi-globally (Hirschmueller, PAMI 2008), and a parabola through the raw
cost gives the fraction of a step. Then the maps of all frames check each other. The arithmetic is
cuda/sweep.cpp; `refine_twin` is its plain definition, and runs where there is no compiler.

Conventions: depth z, pixel centres at .5, one pinhole K for all photos. No torch.
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

from endorecon import kernels, refine_twin
from endorecon.config import RefineConfig
from endorecon.geometry import invert, project
from endorecon.scene import Camera, Views

Array = NDArray[Any]


@dataclass(frozen=True)
class Photos:
    """Real frames as the matcher sees them: grey, locally zero-mean, with weights 0..1."""

    camera: Camera
    grey: Array  # (n, h, w) float32
    weight: Array  # (n, h, w) float32, 0 = masked
    world_from_camera: Array  # (n, 4, 4)


@dataclass(frozen=True)
class Sweep:
    """What one sweep says of one frame, all (h, w) float32."""

    z: Array  # NaN = no answer
    score: Array  # mean NCC of the views that agree
    curvature: Array  # d2 cost / dt2, t = relative inverse depth
    support: Array  # number of views that agree
    edge: Array  # bool, the best hypothesis lies on the rim of the band


def prepare(views: Views, width: int) -> Photos:
    """Photos of `width` pixels (never wider than the views)."""
    import cv2

    factor = min(1.0, width / views.camera.width)
    camera = views.camera.scaled(factor) if factor < 1 else views.camera
    fx, fy = camera.width / views.camera.width, camera.height / views.camera.height
    camera = Camera(
        camera.width,
        camera.height,
        views.camera.fx * fx,
        views.camera.fy * fy,
        views.camera.cx * fx,
        views.camera.cy * fy,
    )
    n, h, w = len(views), camera.height, camera.width
    grey, weight = np.zeros((n, h, w), np.float32), np.zeros((n, h, w), np.float32)
    for i in range(n):
        rgb = views.images[i].astype(np.float32) / 255.0
        # Vessels and mucosa differ most in green; red is often saturated.
        g = rgb @ np.array([0.25, 0.6, 0.15], np.float32)
        m = views.masks[i].astype(np.float32)
        if factor < 1:
            g = cv2.resize(g, (w, h), interpolation=cv2.INTER_AREA)
            m = (cv2.resize(m, (w, h), interpolation=cv2.INTER_AREA) > 0.99).astype(np.float32)
        g = cv2.GaussianBlur(g, (0, 0), 0.6)
        weight[i] = m
        grey[i] = g - cv2.GaussianBlur(g, (0, 0), 12.0)
    return Photos(camera, grey, weight, views.world_from_camera)


def choose_neighbours(views: Views, count: int) -> list[list[int]]:
    """For each view the real frames to compare it with: much shared surface, real parallax.

    Greedy: the score is shared share x parallax (best at 3-12 degrees), less for a frame that
    stands where a chosen one stands already.
    """
    points, centres = views.points.xyz, views.world_from_camera[:, :3, 3]
    K, n = views.camera.K, len(views)
    if len(points) > 1500:
        points = points[:: len(points) // 1500 + 1]
    seen = np.zeros((n, len(points)), bool)
    for i in range(n):
        uv, z = project(points, views.world_from_camera[i], K)
        inside = (z > 0) & (uv > 0).all(1) & (uv < [views.camera.width, views.camera.height]).all(1)
        where = np.clip(np.nan_to_num(uv), 0, 1e6).astype(int)
        x = np.minimum(where[:, 0], views.camera.width - 1)
        y = np.minimum(where[:, 1], views.camera.height - 1)
        seen[i] = inside & views.masks[i][y, x]
    chosen: list[list[int]] = []
    for i in range(n):
        own = seen[i]
        scores = np.zeros(n)
        offset = np.zeros((n, 3))
        for j in range(n):
            both = own & seen[j]
            if j == i or both.sum() < 12:
                continue
            a, b = points[both] - centres[i], points[both] - centres[j]
            cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
            angle = float(np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
            parallax = min(angle / 4.0, 1.0) * min(1.0, (14.0 / max(angle, 1e-6)) ** 2)
            scores[j] = both.sum() / own.sum() * parallax
            offset[j] = (centres[j] - centres[i]) / float(np.median(np.linalg.norm(a, axis=1)))
        mine: list[int] = []
        worth = scores.copy()
        while len(mine) < count and worth.max() > 0.02:
            j = int(worth.argmax())
            mine.append(j)
            worth[j] = 0.0
            distance = np.linalg.norm(offset - offset[j], axis=1)
            worth *= 1.0 - 0.6 * np.exp(-((distance / 0.04) ** 2))
        chosen.append(mine)
    return chosen


def _warps(photos: Photos, i: int, others: Sequence[int], inverse: bool = False) -> Array:
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
    images = np.ascontiguousarray(photos.grey[list(neighbours)])
    weights = np.ascontiguousarray(photos.weight[list(neighbours)])
    warps = _warps(photos, i, neighbours)
    library = kernels.load("sweep")
    settings = (config.noise**2, config.smooth_small, config.smooth_large, config.jump)
    if library is None:
        return Sweep(
            *refine_twin.sweep(
                photos.grey[i], photos.weight[i], z0, band, images, weights, warps, steps,
                config.radius, *settings,
            )
        )  # fmt: skip
    at, f32 = kernels.address, "float32"
    library.endorecon_sweep(
        h, w, at(photos.grey[i], f32), at(photos.weight[i], f32), at(z0, f32, (h, w)),
        at(band, f32, (h, w)), len(neighbours), at(images, f32), at(weights, f32), at(warps, f32),
        steps, config.radius, *(ctypes.c_float(x) for x in settings),
        *(at(out[k], f32) for k in ("z", "score", "curvature", "support")), at(edge, "uint8"),
    )  # fmt: skip
    return Sweep(**out, edge=edge.astype(bool))


def fuse(
    photos: Photos, i: int, others: Sequence[int], z: Array, sigma: Array, tolerance: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Average map i with the other maps where they agree (z, sigma: (n, h, w) of all photos).

    Returns z, spread of the estimates, sigma of the mean were they independent, number of maps
    that agree, number that contradict; each (h, w) float32.
    """
    h, w = z.shape[1:]
    out = [np.zeros((h, w), np.float32) for _ in range(5)]
    zi = np.ascontiguousarray(z[i], np.float32)
    si = np.ascontiguousarray(sigma[i], np.float32)
    if not others:
        return zi, out[1], si, out[3], out[4]
    zs = np.ascontiguousarray(z[list(others)], np.float32)
    ss = np.ascontiguousarray(sigma[list(others)], np.float32)
    there, back = _warps(photos, i, others), _warps(photos, i, others, inverse=True)
    library = kernels.load("sweep")
    if library is None:
        return refine_twin.fuse(zi, si, zs, ss, there, back, tolerance)
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


def condition(z: Array, trust: Array, mask: Array) -> Array:
    """A prior that a sweep can start from: holes filled, specks removed, edges kept. (h, w)."""
    import cv2
    from scipy.ndimage import distance_transform_edt

    good = np.isfinite(z) & (z > 0) & (trust > 0)
    if good.sum() < 16:
        return np.full_like(z, np.nan)
    logz: Array = np.log(np.where(good, z, 1.0)).astype(np.float32)
    if not good.all():
        logz = _fill(logz, good)
    logz = cv2.medianBlur(logz, 5)
    for _ in range(2):
        logz = cv2.bilateralFilter(logz, 9, 0.03, 3.0)
    # Far outside of everything that is known, a guess helps nobody.
    far = distance_transform_edt(~good) > 0.15 * z.shape[1]
    out = np.exp(logz)
    out[far | ~mask] = np.nan
    return out.astype(np.float32)


def _fill(values: Array, good: Array) -> Array:
    """Fill holes by pull-push (coarse to fine normalised averages)."""
    import cv2

    v: Array = np.where(good, values, 0).astype(np.float32)
    m: Array = good.astype(np.float32)
    levels = [(v, m)]
    while min(v.shape) > 4:
        size = ((v.shape[1] + 1) // 2, (v.shape[0] + 1) // 2)
        s = cv2.resize(v * m, size, interpolation=cv2.INTER_AREA)
        m = cv2.resize(m, size, interpolation=cv2.INTER_AREA)
        v = np.where(m > 1e-6, s / np.maximum(m, 1e-6), 0).astype(np.float32)
        levels.append((v, (m > 1e-6).astype(np.float32)))
        m = levels[-1][1]
    v, m = levels[-1]
    v = np.where(m > 0, v, v[m > 0].mean() if (m > 0).any() else 0).astype(np.float32)
    for finer, known in reversed(levels[:-1]):
        up = cv2.resize(v, (finer.shape[1], finer.shape[0]), interpolation=cv2.INTER_LINEAR)
        v = np.where(known > 0, finer, up).astype(np.float32)
    return v
