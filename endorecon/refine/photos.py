"""Real frames as the matcher sees them, and which of them to compare with which.

Conventions: depth z, pixel centres at .5, one pinhole for all photos, world_from_camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import project
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
            parallax = min(angle / 5.0, 1.0) * min(1.0, (14.0 / max(angle, 1e-6)) ** 2)
            # A frame much nearer or farther shows the place at another scale: windows differ.
            ratio = np.median(np.log(np.linalg.norm(b, axis=1) / np.linalg.norm(a, axis=1)))
            alike = np.exp(-((float(ratio) / 0.3) ** 2))
            scores[j] = both.sum() / own.sum() * parallax * alike
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


def linked(neighbours: list[list[int]]) -> list[list[int]]:
    """For each frame its neighbours, then the frames that chose it."""
    out: list[list[int]] = []
    for i, mine in enumerate(neighbours):
        back = [j for j, theirs in enumerate(neighbours) if i in theirs and j not in mine]
        out.append(mine + back)
    return out
