"""What every matcher of grey images needs: the image it matches, and the left-right check."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import StereoConfig
from endorecon.refine.photos import grey
from endorecon.scene import Disparity

Array = NDArray[Any]


def stretched(image: Array) -> Array:
    """Grey of an RGB image stretched to 8 bits by local contrast: renders are smooth and dark."""
    import cv2

    g = grey(image)
    mean = cv2.GaussianBlur(g, (0, 0), 12.0)
    spread = np.sqrt(np.maximum(cv2.GaussianBlur((g - mean) ** 2, (0, 0), 24.0), 4.0))
    return np.clip(128 + 40 * (g - mean) / spread, 0, 255).astype(np.uint8)


def contrast(image: Array) -> Array:
    """Local standard deviation (grey levels, 9 x 9) of an 8-bit grey image."""
    import cv2

    g = image.astype(np.float32)
    mean = cv2.blur(g, (9, 9))
    return np.sqrt(np.maximum(cv2.blur(g * g, (9, 9)) - mean * mean, 0))


def left_right(d: Array, d_right: Array, left: Array, config: StereoConfig) -> Disparity:
    """The disparities of the left eye that the right eye's confirm, with their sigma.

    d, d_right: (h, w), NaN = unknown; left: the 8-bit grey image that was matched. What is flat,
    negative, or seen from outside of the right image has no answer.
    """
    w = d.shape[1]
    x = np.arange(w)[None, :] - d
    column = np.clip(np.nan_to_num(np.rint(x)), 0, w - 1).astype(int)
    gap = np.abs(np.take_along_axis(d_right, column, 1) - d)
    bad = ~(gap <= config.left_right_px) | (x < 0) | (d < 0)
    bad |= contrast(left) < config.min_contrast
    sigma = np.sqrt(config.sigma_px**2 + (0.5 * gap) ** 2)
    kept, wide = (np.where(bad, np.nan, a).astype(np.float32) for a in (d, sigma))
    return Disparity(kept, wide)
