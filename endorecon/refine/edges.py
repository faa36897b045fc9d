"""Occlusion edges of a depth map moved to where the picture has them.

A matching window near an edge holds two surfaces, and the textured one in front wins: it comes out
several pixels too wide, and the far wall beside it millimetres too near. The light sits on the
camera, so that the surface in front is brighter, too: colour tells which of the two a pixel belongs
to. Weighted median of the depths round it, weights by likeness of colour, after Ma et al.,
"Constant time weighted median filtering for stereo matching and beyond" (ICCV 2013).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

REACH = 3  # samples on each side of the pixel, in x and y


def snap(z: Array, picture: Array, near_edge: Array, radius: int, likeness: float) -> Array:
    """Depths (h, w) float32 with those at `near_edge` (h, w) bool replaced by their median.

    picture: (h, w, 3) uint8; radius: half width of the window in pixels; likeness: standard
    deviation of display values (0..1) of one surface. Unknown depths (NaN) stay unknown, and count
    for nobody.
    """
    rows, columns = np.nonzero(near_edge & np.isfinite(z))
    if len(rows) == 0:
        return z
    h, w = z.shape
    known = np.isfinite(z)
    colour = picture.astype(np.float32) / np.float32(255)
    here = colour[rows, columns]
    steps = np.round(np.linspace(-radius, radius, 2 * REACH + 1)).astype(int)
    count = len(steps) ** 2
    depth = np.zeros((count, len(rows)), np.float32)
    weight = np.zeros((count, len(rows)), np.float32)
    for k, (dy, dx) in enumerate((dy, dx) for dy in steps for dx in steps):
        y, x = rows + dy, columns + dx
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        y, x = np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)
        usable = inside & known[y, x]
        unlike = ((colour[y, x] - here) ** 2).sum(1)
        depth[k] = np.where(usable, z[y, x], 0)
        weight[k] = np.where(usable, np.exp(-unlike / np.float32(2 * likeness**2)), 0)
    order = np.argsort(depth, axis=0, kind="stable")
    depth = np.take_along_axis(depth, order, 0)
    below = np.cumsum(np.take_along_axis(weight, order, 0), axis=0)
    middle = (below < 0.5 * below[-1]).sum(0)
    out = z.copy()
    out[rows, columns] = depth[middle, np.arange(len(rows))]
    return out
