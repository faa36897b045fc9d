"""Making a depth map fit to start a sweep from: holes filled, specks removed, edges kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def condition(z: Array, trust: Array, mask: Array, usable: float = 0.0) -> Array:
    """A prior that a sweep can start from: holes filled, specks removed, edges kept. (h, w).

    Depths with trust of `usable` or less give way to trusted ones within a few pixels; farther
    away they are all there is, and stay.
    """
    import cv2
    from scipy.ndimage import distance_transform_edt

    good = np.isfinite(z) & (z > 0) & (trust > 0)
    if good.sum() < 16:
        return np.full_like(z, np.nan)
    sure = good & (trust > usable)
    if sure.any() and not sure.all():
        good = sure | (good & (distance_transform_edt(~sure) > 0.02 * z.shape[1]))
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
