"""What is too bright to tell anything: highlights, and pixels clipped at the white of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_CLIPPED = 247  # second channel from which a pixel is white, where white is 255
_WHITE_LEAST = 200  # no camera clips lower
_PILE = 1.5  # the brightest values are so much more frequent than those below


def white_level(images: Sequence[Array] | Array, inside: Array) -> int:
    """The value from which on a middle channel is clipped, of images (h, w, 3), inside (h, w).

    Not every camera's white is 255: knee curves and the limited range of video end lower. White is
    the value on which the brightest pixels pile up, far more often than the values just below.
    A white that goes unnoticed is a patch without texture that stays with the light, as if it hung
    before the lens: walls under it came out a third too near.
    """
    counts = np.zeros(256)
    for image in images[:: max(1, len(images) // 32)]:
        counts += np.bincount(ordered(image)[1][inside], minlength=256)
    total = counts.sum()
    for white in range(254, _WHITE_LEAST, -1):  # what piles up at 255 is clipped in any case
        pile, above = counts[white - 2 : white + 1].sum(), counts[white + 1 :].sum()
        usual = counts[white - 12 : white - 2].mean()
        if pile > max(3 * _PILE * usual, 5 * above, 1e-3 * total):
            first = white - 4 + int(np.argmax(counts[white - 4 : white + 1] > _PILE * usual))
            return min(_CLIPPED, first)
    return _CLIPPED


def ordered(image: Array) -> tuple[Array, Array, Array]:
    """The least, the second and the largest of the three channels of an image (h, w, 3).

    Where the second is clipped, two are: colour and shading are lost.
    """
    import cv2

    red, green, blue = cv2.split(image)  # cv2: numpy's reduction over 3 channels is 20 times slower
    a, b = cv2.min(red, green), cv2.max(red, green)
    low, middle, high = cv2.min(a, blue), cv2.max(a, cv2.min(b, blue)), cv2.max(b, blue)
    return np.asarray(low), np.asarray(middle), np.asarray(high)


def highlights(image: Array, clipped_from: int = _CLIPPED) -> Array:
    """(h, w) bool: clipped pixels, and white spots much brighter than their surroundings."""
    import cv2

    low, middle, high = ordered(image)
    clipped = middle >= clipped_from
    grey = cv2.addWeighted(middle, 0.5, low, 0.5, 0.0)
    around: Any = cv2.blur(grey, (max(3, image.shape[1] // 30 | 1),) * 2)
    excess = cv2.addWeighted(grey, 1.0, around, -1.28, 0.0)  # saturates at 0
    white = cv2.addWeighted(low, 1.0, high, -0.6, 0.0)
    spot = (grey > 140) & (excess > 0) & (white > 0)
    return np.asarray(clipped | spot)
