"""Real frames as the matcher sees them.

Conventions: depth z, pixel centres at .5, one pinhole for all photos, world_from_camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.scene import Camera, Views

Array = NDArray[Any]

_SLOW = 12.0  # pixels: changes of light over more than this are taken out
_LEAST = 0.02  # of the weight round a pixel, below which its light is not known


@dataclass(frozen=True)
class Photos:
    """Real frames as the matcher sees them: grey, locally zero-mean, with weights 0..1."""

    camera: Camera
    grey: Array  # (n, h, w) float32
    weight: Array  # (n, h, w) float32, 0 = masked
    world_from_camera: Array  # (n, 4, 4)
    colour: Array | None = None  # (n, h, w, 3) uint8, for the edges of depth; None: they stay
    rim: int = 0  # pixels beyond the masks where depth is still told

    @property
    def content(self) -> Array:
        """(h, w) bool, where any frame sees: a highlight hides a pixel in one, and its window still
        tells where the surface is. So do those of the rim that the masks leave out."""
        import cv2

        seen = np.asarray((self.weight > 0).any(0), np.uint8)
        size = 2 * self.rim + 1
        return cv2.dilate(seen, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0


def prepare(views: Views, width: int, rim: float = 0.0) -> Photos:
    """Photos of `width` pixels (never wider than the views); rim: a share of the width."""
    import cv2

    full = views.camera
    factor = min(1.0, width / full.width)
    size = full.scaled(factor)
    # The focal length follows the size in whole pixels, as the resized image does.
    camera = full.scaled(size.width / full.width, size.height / full.height)
    n, h, w = len(views), camera.height, camera.width
    seen, weight = np.zeros((n, h, w), np.float32), np.zeros((n, h, w), np.float32)
    colour = np.zeros((n, h, w, 3), np.uint8)
    for i in range(n):
        g: Array = grey(views.images[i]) / 255
        m = views.masks[i].astype(np.float32)
        if factor < 1:
            g = cv2.resize(g, (w, h), interpolation=cv2.INTER_AREA)
            m = (cv2.resize(m, (w, h), interpolation=cv2.INTER_AREA) > 0.99).astype(np.float32)
        colour[i] = cv2.resize(views.images[i], (w, h), interpolation=cv2.INTER_AREA)
        weight[i] = m
        seen[i] = high_pass(g, m)
    return Photos(camera, seen, weight, views.world_from_camera, colour, int(rim * w))


def grey(image: Array) -> Array:
    """Grey 0..255 (h, w) float32 of RGB uint8: mucosa differs most in green, red saturates."""
    return image.astype(np.float32) @ np.array([0.25, 0.6, 0.15], np.float32)


def high_pass(image: Array, weight: Array) -> Array:
    """A grey image (h, w) without its slow changes of light, float32; 0 where nothing is known.

    weight: (h, w) 0..1. What is masked takes no part: the black beside the picture and white
    highlights would darken or brighten everything round them, and the black stays with the camera.
    """
    import cv2

    light = cv2.GaussianBlur(image * weight, (0, 0), _SLOW)
    known = cv2.GaussianBlur(weight, (0, 0), _SLOW)
    slow = light / np.maximum(known, _LEAST)
    return np.where(known > _LEAST, image - slow, 0).astype(np.float32)
