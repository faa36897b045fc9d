"""Where the eye stands, what is cut away before it, and the path that the endoscope took."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.io.rundir import Cameras
from endorecon.scene import Surface

from .endoscope import look_freely
from .layers import add_lines, camera_lines
from .overlay import LETTERS
from .style import CYAN, YELLOW

Array = NDArray[Any]
FRUSTA = 14  # drawn along the path; more hide what they look at


def look_from(camera: Any, v: Array | None, window: tuple[int, int], way: str = "") -> None:
    """Stand so that all vertices (v, 3) are seen; `way`: one of L R A P S I, "" is oblique."""
    look_freely(camera)
    signs = {letter: (k, 1 if j == 0 else -1) for k, pair in enumerate(LETTERS)
             for j, letter in enumerate(pair)}  # fmt: skip
    axis, sign = signs.get(way, (1, -1))
    side = np.zeros(3)
    side[axis] = sign
    if not way:  # from the front, a little from the patient's left and above
        side = np.array([0.75, -1.0, 0.55])
    middle = np.zeros(3) if v is None else (v.min(0) + v.max(0)) / 2
    camera.SetFocalPoint(*middle)
    side /= np.linalg.norm(side)
    up = np.array([0.0, -1, 0] if axis == 2 and way else [0.0, 0, 1])
    far = 3.0 if v is None else _distance_to_see(camera, window, v - middle, side, up)
    camera.SetPosition(*(middle + far * side))
    camera.SetViewUp(*up)


def _distance_to_see(
    camera: Any, window: tuple[int, int], p: Array, side: Array, up: Array
) -> float:
    """How far from the middle the eye must be to see all points, with a margin."""
    p = p[:: max(1, len(p) // 20_000)]
    right = np.cross(up, side)
    right /= np.linalg.norm(right)
    W, H = window
    if min(W, H) <= 1:  # the window is not yet on the screen
        W, H = 4, 3
    half = np.tan(np.radians(camera.GetViewAngle()) / 2) * 0.74  # writing needs room
    wide, high = np.abs(p @ right) / (half * W / H), np.abs(p @ np.cross(side, right))
    return float((np.maximum(wide, high / half) + p @ side).max())


def clip_planes(
    surface: Surface | None, camera: Any, mode: str, at: float, box: list[float]
) -> list[tuple[Array, Array]]:
    """Points and normals of the half-spaces kept by a clip mode of `Session.set_clip`."""
    if surface is None or mode == "off":
        return []
    v = surface.vertices
    low, high = v.min(0), v.max(0)
    if mode == "box":
        planes = []
        for k in range(3):
            n = np.eye(3)[k]
            a, b = sorted(box[2 * k : 2 * k + 2])
            planes += [(low + a * (high - low), n), (low + b * (high - low), -n)]
        return planes
    n = np.array(camera.GetDirectionOfProjection())
    if mode in ("x", "y", "z"):
        n = np.eye(3)["xyz".index(mode)]
    reach = (v[:: max(1, len(v) // 50_000)] - v.mean(0)) @ n
    return [(v.mean(0) + (reach.min() + at * (reach.max() - reach.min())) * n, n)]


def add_path(plotter: Any, c: Cameras | None, k: int, diagonal: float) -> list[Any]:
    """Actors of the path with a frustum at every few cameras, that of frame k in yellow."""
    if c is None or not len(c.frame_index):
        return []
    poses, size = c.world_from_camera, 0.025 * diagonal
    some = poses[:: -(-len(poses) // FRUSTA)]
    lines = camera_lines(some, c.K, c.width, c.height, size)
    now = camera_lines(poses[[k]], c.K, c.width, c.height, 1.6 * size)
    actors = [
        add_lines(plotter, *lines, CYAN, 1.5, "frusta"),
        add_lines(plotter, *now, YELLOW, 4, "frustum"),
    ]
    n = len(poses)
    if n > 1:
        path = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
        actors.append(add_lines(plotter, poses[:, :3, 3], path, CYAN, 3, "path"))
    return actors
