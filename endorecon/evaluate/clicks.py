"""Clicks in video frames: the file, their rays, and the depth map's tangent plane under them.

A click (frame, u, v) is a pixel of the SOURCE video, pixel centres at .5, distortion and all. How
rays and planes become a point with a covariance is lifting.py's matter.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.geometry import rays
from endorecon.scene import Camera, DepthMap

Array = NDArray[Any]
COLUMNS = ("observer", "repeat", "landmark", "frame", "u", "v")
_WINDOW = 4  # half width in depth-map pixels of the local fit


@dataclass(frozen=True)
class Click:
    """One click on one landmark in one frame; u, v in source pixels."""

    observer: str
    repeat: int
    landmark: str
    frame: int
    u: float
    v: float


def read_clicks(path: Path) -> list[Click]:
    """clicks.csv. Raises InputRefused for missing columns and lines that are not numbers."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
            if missing:
                raise InputRefused(
                    f"The clicks lack the columns {', '.join(missing)}",
                    f"write {','.join(COLUMNS)} into the first line",
                    path,
                )
            out = []
            for number, row in enumerate(reader, start=2):
                try:
                    u, v = float(row["u"]), float(row["v"])
                    click = Click(
                        row["observer"].strip(), int(row["repeat"]), row["landmark"].strip(),
                        int(row["frame"]), u, v,
                    )  # fmt: skip
                except (ValueError, TypeError, AttributeError) as error:
                    raise InputRefused(
                        f"Line {number} of the clicks is damaged", "correct it", path
                    ) from error
                if not np.isfinite([u, v]).all():
                    raise InputRefused(f"Line {number} of the clicks has no place", "", path)
                out.append(click)
    except FileNotFoundError as error:
        raise InputRefused("The file of clicks does not exist", "check the name", path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused("The file of clicks cannot be read", "save it as CSV", path) from error
    if not out:
        raise InputRefused("The file of clicks is empty", "click some landmarks", path)
    return out


def source_rays(uv: Array, camera: Camera) -> tuple[Array, Array]:
    """Rays (n, 3) with z = 1 of source pixels (n, 2), and d(x, y)/d(u, v) there (n, 2, 2)."""
    step = 0.5
    offsets = np.array([[0, 0], [step, 0], [-step, 0], [0, step], [0, -step]])
    xy = _undistort((uv[:, None] + offsets).reshape(-1, 2), camera).reshape(-1, 5, 2)
    jacobian = np.stack([xy[:, 1] - xy[:, 2], xy[:, 3] - xy[:, 4]], -1) / (2 * step)
    return np.concatenate([xy[:, 0], np.ones((len(uv), 1))], 1), jacobian


def _undistort(uv: Array, camera: Camera) -> Array:
    if camera.model == "PINHOLE" or not any(camera.distortion):
        return rays(uv, camera.K)[:, :2]
    import cv2

    # K and pixels both have centres at .5, so the half pixels cancel and cv2 needs no shift
    points, D = uv.reshape(-1, 1, 2).astype(float), np.array(camera.distortion, float)
    if camera.model == "OPENCV_FISHEYE":
        return cv2.fisheye.undistortPoints(points, camera.K, D).reshape(-1, 2)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-12)
    return cv2.undistortPoints(points, camera.K, D, criteria=stop).reshape(-1, 2)


def local_plane(depth: DepthMap, ray: Array) -> tuple[Array, Array, float] | None:
    """Tangent plane (point, unit normal, sigma) of a depth map where a camera ray meets it.

    None outside the image, where most of the window is unknown, or on a depth edge.
    """
    u, v = (depth.K @ ray)[:2]
    h, w = depth.z.shape
    i, j = int(np.floor(v)), int(np.floor(u))
    if not (0 <= i < h and 0 <= j < w):
        return None
    rows = slice(max(i - _WINDOW, 0), min(i + _WINDOW + 1, h))
    columns = slice(max(j - _WINDOW, 0), min(j + _WINDOW + 1, w))
    z = depth.z[rows, columns].astype(float)
    good = np.isfinite(z) & (depth.trust[rows, columns] > 0)
    if good.mean() < 0.5:
        return None
    jj, ii = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    pixels = np.stack([jj + 0.5 - u, ii + 0.5 - v], -1)[good]
    inverse = 1.0 / z[good]  # inverse depth of a plane is linear in the pixel ...
    x, y = pixels.T  # ... and of a curved surface quadratic, else the plane sinks below it
    A = np.column_stack([np.ones(len(x)), x, y, x * x, x * y, y * y])
    keep = np.ones(len(inverse), bool)
    c = np.zeros(6)
    for _ in range(3):
        c = np.linalg.lstsq(A[keep], inverse[keep], rcond=None)[0]
        r = np.abs(A @ c - inverse)
        keep = r <= max(3 * 1.4826 * float(np.median(r)), 1e-12)
    spread = float(np.std((A @ c - inverse)[keep]) / c[0]) if c[0] > 0 else np.inf
    if c[0] <= 0 or keep.mean() < 0.6 or spread > 0.05:
        return None
    z0 = 1.0 / c[0]
    # tangent: 1/z = c0 + c1 (K00 x + K02 - u) + c2 (K11 y + K12 - v); times z, n . X = 1
    n = np.array([
        c[1] * depth.K[0, 0],
        c[2] * depth.K[1, 1],
        c[0] + c[1] * (depth.K[0, 2] - u) + c[2] * (depth.K[1, 2] - v),
    ])  # fmt: skip
    length = float(np.linalg.norm(n))
    n = n / length
    misfit = z0 * float(np.sqrt((((A @ c - inverse)[keep] * z0) ** 2).mean()))
    sigma = float(np.hypot(np.median(depth.sigma[rows, columns][good]), misfit))
    sigma *= abs(float(n @ ray))
    R, t = depth.world_from_camera[:3, :3], depth.world_from_camera[:3, 3]
    return R @ (z0 * ray) + t, R @ n, max(sigma, 1e-9 * z0)
