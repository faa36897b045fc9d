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


@dataclass(frozen=True)
class Photos:
    """Real frames as the matcher sees them: grey, locally zero-mean, with weights 0..1."""

    camera: Camera
    grey: Array  # (n, h, w) float32
    weight: Array  # (n, h, w) float32, 0 = masked
    world_from_camera: Array  # (n, 4, 4)
    colour: Array | None = None  # (n, h, w, 3) uint8, for the edges of depth; None: they stay

    @property
    def content(self) -> Array:
        """(h, w) bool, where any frame sees: a highlight hides a pixel in one, and its window still
        tells where the surface is."""
        return np.asarray((self.weight > 0).any(0))


def prepare(views: Views, width: int) -> Photos:
    """Photos of `width` pixels (never wider than the views)."""
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
        seen[i] = high_pass(cv2.GaussianBlur(g, (0, 0), 0.6))
    return Photos(camera, seen, weight, views.world_from_camera, colour)


def grey(image: Array) -> Array:
    """Grey 0..255 (h, w) float32 of RGB uint8: mucosa differs most in green, red saturates."""
    return image.astype(np.float32) @ np.array([0.25, 0.6, 0.15], np.float32)


def high_pass(image: Array) -> Array:
    """A grey image without its slow changes of light, (h, w) float32."""
    import cv2

    return (image - cv2.GaussianBlur(image, (0, 0), 12.0)).astype(np.float32)
