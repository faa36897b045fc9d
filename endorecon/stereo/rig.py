"""The virtual binocular: two eyes rendered inside the field, rectified by construction.

The left eye stands where a real camera stood, rolled about its optical axis so that its x axis
points where the real cameras moved: there the field interpolates. The right eye stands at
+baseline on that axis. A second pair, rolled by half a turn, looks past occlusions from the other
side. Both eyes see the light of the real camera. Roll leaves z-depth unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import StereoConfig
from endorecon.geometry import compose
from endorecon.scene import Camera, StereoPair, Views

Array = NDArray[Any]
# (K, world_from_camera, width, height, light position) -> rgb (h, w, 3) in 0..1, z (h, w)
Render = Callable[[Array, Array, int, int, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Eye:
    """A rolled pinhole that covers the whole content area, margin included."""

    camera: Camera
    roll: float  # radians; real_from_eye = rotation by roll about z
    world_from_eye: Array


def motion_direction(views: Views, i: int, neighbours: list[int]) -> float:
    """Angle in the image plane of view i along which the neighbouring cameras spread most."""
    if not neighbours:
        return 0.0
    R, c = views.world_from_camera[i, :3, :3], views.world_from_camera[i, :3, 3]
    offsets = (views.world_from_camera[neighbours, :3, 3] - c) @ R
    xy = offsets[:, :2]
    values, vectors = np.linalg.eigh(xy.T @ xy)
    if values[1] <= 1e-18:
        return 0.0
    x, y = vectors[:, 1]
    return float(np.arctan2(y, x))


def roll_eye(camera: Camera, content: Array, pose: Array, roll: float, margin: float) -> Eye:
    """An eye at `pose`, rolled, whose image holds the content area and a margin (share of width).

    content: (m, 2) pixels of the hull of the content area in `camera`.
    """
    x = (content[:, 0] - camera.cx) / camera.fx
    y = (content[:, 1] - camera.cy) / camera.fy
    c, s = np.cos(roll), np.sin(roll)
    f = 0.5 * (camera.fx + camera.fy)
    u, v = f * (c * x + s * y), f * (-s * x + c * y)
    pad = margin * camera.width
    left, right = u.min() - pad, u.max() + pad
    top, bottom = v.min() - 2, v.max() + 2
    width, height = int(np.ceil(right - left)), int(np.ceil(bottom - top))
    rolled = Camera(width, height, f, f, -left, -top)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return Eye(rolled, roll, pose @ compose(R, np.zeros(3)))


def content_hull(mask: Array) -> Array:
    """(m, 2) pixel positions of the convex hull of a mask (h, w)."""
    import cv2

    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    if len(points) == 0:
        h, w = mask.shape
        return np.array([[0, 0], [w, 0], [0, h], [w, h]], float)
    hull = cv2.convexHull(points)[:, 0].astype(float)
    return np.concatenate([hull, hull + 1])


def make_pairs(
    render: Render, camera: Camera, content: Array, pose: Array, roll: float, baseline: float
) -> list[tuple[Eye, StereoPair]]:
    """The two pairs (+b, -b) of one view; the centre is rendered once and turned for the second."""
    margin = 0.02
    eye = roll_eye(camera, content, pose, roll, margin)
    light = pose[:3, 3]
    w, h = eye.camera.width, eye.camera.height
    centre, z = render(eye.camera.K, eye.world_from_eye, w, h, light)
    centre = _to_bytes(centre)
    pairs = []
    for side in (1.0, -1.0):
        moved = eye.world_from_eye @ compose(np.eye(3), np.array([side * baseline, 0, 0]))
        other, _ = render(eye.camera.K, moved, w, h, light)
        other = _to_bytes(other)
        if side > 0:
            pair = StereoPair(centre, other, z, eye.camera.K, baseline, eye.world_from_eye)
            pairs.append((eye, pair))
        else:  # half a turn makes -b a +b again
            turned = Camera(
                w, h, eye.camera.fx, eye.camera.fy, w - eye.camera.cx, h - eye.camera.cy
            )
            pose_turned = eye.world_from_eye @ np.diag([-1.0, -1.0, 1.0, 1.0])
            back = Eye(turned, eye.roll + np.pi, pose_turned)
            a, b = _turn(centre), _turn(other)
            pairs.append(
                (back, StereoPair(a, b, _turn(z), turned.K, baseline, back.world_from_eye))
            )
    return pairs


def _turn(image: Array) -> Array:
    return np.ascontiguousarray(image[::-1, ::-1])


def _to_bytes(rgb: Array) -> Array:
    return np.clip(np.nan_to_num(rgb) * 255.0 + 0.5, 0, 255).astype(np.uint8)


def baseline_share(config: StereoConfig, round_: int) -> float:
    """Baseline of a round (1, 2, ...) as a share of the median depth: it grows."""
    return min(config.baseline * config.baseline_growth ** max(0, round_ - 1), config.baseline_max)
