"""Dark strips beside an occlusion edge given to the surface behind.

Where a wall ends before a deep lumen, what lies just behind its rim is seen by few frames, and
matching and field draw the wall over it, tens of pixels wide. The light sits on the camera: at the
wall's depth the strip would be tissue many times darker than the wall beside it, at the depth
behind it is tissue like any other; and the picture has its edge at the true rim, not where the
depth steps. A pixel goes behind when all of this speaks for it: it can be reached from the far side
without crossing a third of the contrast that parts it from its own side, and its albedo (brightness
times the square of depth) is twice as alike behind as in front, where it would be a dark spot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLUR = 1.5  # of the picture, pixels
BESIDE = 3  # pixels from the step of depth at which the far side is taken for sure
LEVELS = 0.004 * 1.5 ** np.arange(9)  # contrasts a pixel (display values, 0..1) that may be crossed
PARTED = 0.02  # contrast to its own side below which a pixel is no strip ...
TIMES = 3.0  # ... and so many times that to the far side
ALIKE = 0.5  # the log of its albedo misses that behind by this share of what it misses in front ...
DARKER = 1.0  # ... where it would be darker by this, at least (log)
GAMMA = 2.2  # of display values, about
FEWEST = 20  # pixels of a side that can judge


def behind(z: Array, picture: Array, reach: int, jump: float) -> tuple[Array, Array]:
    """Depths (h, w) float32 with dark strips put behind, and which pixels these are (h, w) bool.

    z: NaN = unknown; picture: (h, w, 3) uint8; reach: widest strip in pixels; jump: relative step
    of depth that makes an occlusion edge.
    """
    import cv2

    known = np.isfinite(z) & (z > 0)
    log: Array = np.log(np.where(known, z, 1)).astype(np.float32)
    window = np.ones((5, 5), np.uint8)
    deepest = cv2.dilate(np.where(known, log, -99).astype(np.float32), window)
    nearest = cv2.erode(np.where(known, log, 99).astype(np.float32), window)
    step = np.log1p(jump)
    front_rim, back_rim = known & (deepest - log > step), known & (log - nearest > step)
    if min(front_rim.sum(), back_rim.sum()) < FEWEST:
        return z, np.zeros_like(known)
    to_front, front = _nearest(front_rim)
    to_back, back = _nearest(back_rim)
    to_rim = np.minimum(to_front, to_back)
    is_front = known & (np.abs(log - log.ravel()[front]) < np.abs(log - log.ravel()[back]))
    is_back = known & ~is_front
    band = is_front & (to_rim <= reach)
    own = is_front & (to_rim > reach) & (to_rim <= reach + 3)
    far = is_back & (to_rim >= BESIDE) & (to_rim <= BESIDE + 3)
    if min(own.sum(), far.sum(), band.sum()) < FEWEST:
        return z, np.zeros_like(known)
    contrast = _contrast(picture)
    from_far = _least_contrast(contrast, far, band | (is_back & (to_rim <= BESIDE + 3)))
    from_own = _least_contrast(contrast, own, band | own)
    strip = band & (TIMES * from_far <= from_own) & (from_own >= PARTED)
    _, there = _nearest(is_back & (to_rim >= BESIDE))
    _, here = _nearest(is_front & (to_rim > reach))
    grey = cv2.GaussianBlur(picture.astype(np.float32).mean(2) / 255, (0, 0), 2.0)
    bright: Array = GAMMA * np.log(grey + 0.01)
    albedo = bright + 2 * log
    miss_here = albedo - albedo.ravel()[here]
    miss_there = bright - bright.ravel()[there]  # of one depth with what it is held against
    strip &= (miss_here < -DARKER) & (np.abs(miss_there) < ALIKE * np.abs(miss_here))
    return np.where(strip, z.ravel()[there], z).astype(np.float32), strip


def _nearest(mask: Array) -> tuple[Array, Array]:
    """Distance (h, w) to the nearest pixel of a mask, and the flat index of that pixel."""
    import cv2

    distance, label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index = np.zeros(int(label.max()) + 1, np.int64)
    index[label[mask]] = np.flatnonzero(mask)
    return distance, index[label]


def _contrast(picture: Array) -> Array:
    """Change of display values (0..1) a pixel, all channels together; (h, w)."""
    import cv2

    g = cv2.GaussianBlur(picture.astype(np.float32) / 255, (0, 0), BLUR)
    dx, dy = (cv2.Sobel(g, cv2.CV_32F, *d, scale=0.125) for d in ((1, 0), (0, 1)))
    return np.asarray(np.sqrt((dx**2 + dy**2).sum(2)))


def _least_contrast(contrast: Array, seeds: Array, domain: Array) -> Array:
    """The smallest of LEVELS over which a path within `domain` leads from a seed; inf: none."""
    import cv2

    out = np.full(contrast.shape, np.inf, np.float32)
    out[domain] = 2 * LEVELS[-1]  # beyond all levels everything is crossed
    for level in LEVELS[::-1]:
        open_ = ((contrast < level) & domain) | seeds
        _, part = cv2.connectedComponents(open_.astype(np.uint8), connectivity=8)
        reached = np.zeros(int(part.max()) + 1, bool)
        reached[part[seeds]] = True
        out[reached[part] & open_] = level
    return out
