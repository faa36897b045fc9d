"""Looking through the endoscope's own camera, the video frame laid over the rendering.

VTK has no principal point and no focal length: the view angle is the window's, and the principal
point is moved by `SetWindowCenter`. The frame fills the window as far as its aspect allows; one
image pixel is `s` window pixels, so that window offset = s * (pixel - image centre).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry

Array = NDArray[Any]


def look_through(
    camera: Any, pose: Array, K: Array, width: int, height: int, window: tuple[int, int],
    distance: float,
) -> None:  # fmt: skip
    """Give a VTK camera the pose (OpenCV axes) and lens of a pinhole; `distance` sets the focus."""
    W, H = window
    s = min(W / width, H / height)
    centre, R = pose[:3, 3], pose[:3, :3]
    camera.SetParallelProjection(False)
    camera.SetPosition(*centre)
    camera.SetFocalPoint(*(centre + distance * R[:, 2]))
    camera.SetViewUp(*(-R[:, 1]))
    camera.SetViewAngle(float(np.degrees(2 * np.arctan(0.5 * H / (K[1, 1] * s)))))
    camera.SetWindowCenter(-2 * (K[0, 2] - width / 2) * s / W, 2 * (K[1, 2] - height / 2) * s / H)
    from vtkmodules.vtkCommonTransforms import vtkTransform

    pixels = vtkTransform()  # pixels that are not square
    pixels.Scale(float(K[0, 0] / K[1, 1]), 1.0, 1.0)
    camera.SetUserViewTransform(pixels)


def look_freely(camera: Any) -> None:
    """Undo what `look_through` did to the lens; the place stays."""
    camera.SetWindowCenter(0, 0)
    camera.SetUserViewTransform(None)
    camera.SetViewAngle(30.0)


def frame_quad(pose: Array, K: Array, width: int, height: int, distance: float) -> Any:
    """The image plane (PolyData with texture coordinates) at a z-depth before the camera."""
    import pyvista as pv

    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    points = geometry.apply(pose, distance * geometry.rays(corners, K))
    quad = pv.PolyData(points, faces=[4, 0, 1, 2, 3])
    quad.active_texture_coordinates = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)
    return quad


def nearest_in_view(
    vertices: Array, pose: Array, K: Array, width: int, height: int
) -> tuple[float, float]:
    """Least and median z-depth of the vertices in the picture (1, 1 when there are none)."""
    uv, z = geometry.project(vertices, pose, K)
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    if not inside.any():
        return 1.0, 1.0
    return float(z[inside].min()), float(np.median(z[inside]))


def click_ray(uv: Array, pose: Array, K: Array, far: float) -> tuple[Array, Array]:
    """Segment from the camera through a pixel (2,) of its image to z-depth `far`."""
    ray = geometry.rays(np.asarray(uv, float), K)
    return pose[:3, 3].copy(), geometry.apply(pose, far * ray)
