"""Camera calibrations: reading, writing, moving to another image size, undistorting.

Conventions: inside, pixel centres lie at (0.5, 0.5). OpenCV and ROS put the first centre at
(0, 0), so their cx, cy get + 0.5 here, at the door. Our own files (`calibration.yaml`,
`cameras.json`) say `pixel_centre: 0.5` or are COLMAP-like and are taken as they are. Fisheye is
Kannala-Brandt (cv2.fisheye, ROS "equidistant", COLMAP OPENCV_FISHEYE).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.scene import Camera, CameraModel

Array = NDArray[Any]

ASPECT_TOLERANCE = 0.01  # relative; 1920x1080 against 1920x1088 is another crop, not a rescale
_REMEDY = (
    "give an OpenCV YAML/JSON (camera_matrix), a ROS camera_info or {width, height, fx, fy, cx, cy}"
)


def read_camera(path: Path) -> Camera:
    """The camera of a calibration file; InputRefused when it is none or contradicts itself."""
    path = Path(path)
    if not path.is_file():
        raise InputRefused("this calibration file does not exist", "check its name", path)
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputRefused(
            "this is not a calibration file that I can read", _REMEDY, path
        ) from error
    try:
        return camera_from_mapping(_parse(text))
    except InputRefused as error:
        raise InputRefused(error.what, error.remedy, path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"this calibration file makes no sense ({error})", _REMEDY, path
        ) from error


def write_camera(camera: Camera, path: Path, extra: dict[str, Any] | None = None) -> None:
    """Write our own `calibration.yaml`; `extra` holds what else is known (error, date, scope)."""
    import yaml

    from endorecon.io.atomic import write_text

    data = {
        "format": "endorecon-calibration-1",
        "width": camera.width,
        "height": camera.height,
        "model": camera.model,
        "fx": float(camera.fx),
        "fy": float(camera.fy),
        "cx": float(camera.cx),
        "cy": float(camera.cy),
        "distortion": [float(k) for k in camera.distortion],
        "pixel_centre": 0.5,
        **(extra or {}),
    }
    write_text(Path(path), yaml.safe_dump(data, sort_keys=False))


def _parse(text: str) -> dict[str, Any]:
    """JSON, YAML, or OpenCV's YAML dialect (a %YAML:1.0 line and !!opencv-matrix tags)."""
    import yaml

    if text.lstrip().startswith("{"):
        data = json.loads(text)
    else:
        lines = [line for line in text.splitlines() if not line.startswith("%YAML")]
        plain = "\n".join(lines).replace("!!opencv-matrix", "")
        try:
            data = yaml.safe_load(plain)
        except yaml.YAMLError as error:
            raise ValueError("neither JSON nor YAML") from error
    if not isinstance(data, dict):
        raise ValueError("no names and values in it")
    return data


def _numbers(value: Any) -> list[float]:
    """Flat numbers of a list, a nested list or an OpenCV / ROS matrix {rows, cols, data}."""
    if isinstance(value, dict):
        value = value["data"]
    return [float(x) for x in np.asarray(value, float).ravel()]


def _first(data: dict[str, Any], *names: str) -> Any:
    return next((data[n] for n in names if n in data), None)


def camera_from_mapping(data: dict[str, Any]) -> Camera:
    """The camera that a parsed file describes; see `read_camera`."""
    width, height = (
        _first(data, "width", "image_width", "w"),
        _first(data, "height", "image_height", "h"),
    )
    size = _first(data, "image_size", "img_size", "resolution")
    if width is None and size is not None:
        width, height = _numbers(size)[:2]
    if width is None or height is None:
        raise InputRefused(
            "the calibration does not say for which image size it holds",
            "add image_width and image_height to it",
        )
    matrix = _first(data, "camera_matrix", "cameraMatrix", "K", "M1", "mtx")
    word = str(_first(data, "distortion_model", "camera_model", "model") or "").strip()
    if matrix is not None:
        k = _numbers(matrix)
        if len(k) != 9:
            raise ValueError(f"a camera matrix has 9 numbers, not {len(k)}")
        fx, fy, cx, cy = k[0], k[4], k[2], k[5]
        if abs(k[1]) > 1e-6 * fx:
            raise ValueError(f"a camera matrix with skew {k[1]:g} is not supported")
        # OpenCV has its first pixel centre at 0; the truth of our phantoms says that it does not
        half = 0.0 if "pixel centres at .5" in str(data.get("convention", "")) else 0.5
    elif "fx" in data or "fl_x" in data:
        fx = float(_first(data, "fx", "fl_x"))
        fy = float(_first(data, "fy", "fl_y") or fx)
        cx, cy = float(data["cx"]), float(data["cy"])
        half = 0.5 - float(data.get("pixel_centre", 0.5))
    else:
        raise InputRefused("no camera matrix in this calibration", _REMEDY)
    raw = _first(
        data,
        "distortion",
        "distortion_coefficients",
        "distCoeffs",
        "dist_coeffs",
        "dist",
        "D",
        "D1",
    )
    coefficients = [] if raw is None else _numbers(raw)
    if raw is None:
        coefficients = [float(data[n]) for n in ("k1", "k2", "k3", "k4") if n in data]
        if "p1" in data:
            extra = [float(data["k3"])] if "k3" in data else []
            coefficients = [float(data[n]) for n in ("k1", "k2", "p1", "p2")] + extra
    model, distortion = _model(word, coefficients, data)
    camera = Camera(
        round(float(width)), round(float(height)), fx, fy, cx + half, cy + half, model, distortion
    )
    _check_plausible(camera)
    return camera


def _model(
    word: str, coefficients: list[float], data: dict[str, Any]
) -> tuple[CameraModel, tuple[float, ...]]:
    """Our model and distortion numbers for a file's word for them; unknown words are refused."""
    name = word.lower()
    fisheye = bool(data.get("fisheye", False)) or name.startswith(
        ("opencv_fisheye", "fisheye", "equidistant", "kannala")
    )
    known = ("opencv", "plumb_bob", "rational", "radtan", "pinhole", "simple_radial", "brown")
    if name and not fisheye and not name.startswith(known):
        raise InputRefused(
            f"the distortion model {word!r} is not known to me",
            "known are plumb_bob, rational_polynomial, equidistant, OPENCV and OPENCV_FISHEYE",
        )
    if fisheye:
        return "OPENCV_FISHEYE", tuple((coefficients + [0.0] * 4)[:4])
    if not any(coefficients):
        return "PINHOLE", ()
    if len(coefficients) > 8 and any(coefficients[8:]):
        raise InputRefused(
            f"a distortion of {len(coefficients)} numbers (thin prism, tilt) is not supported",
            "calibrate with at most 8 (k1 k2 p1 p2 k3 k4 k5 k6)",
        )
    coefficients = coefficients[:8]
    length = next(n for n in (4, 5, 8) if n >= len(coefficients))
    return "OPENCV", tuple(coefficients + [0.0] * (length - len(coefficients)))


def _check_plausible(camera: Camera) -> None:
    inside = 0 <= camera.cx <= camera.width and 0 <= camera.cy <= camera.height
    if not inside or not 0.05 * camera.width < camera.fx < 50 * camera.width:
        raise InputRefused(
            f"this calibration does not fit its image size ({camera.width}x{camera.height}: "
            f"f = {camera.fx:.0f}, centre {camera.cx:.0f}, {camera.cy:.0f})",
            "check image_width, image_height and the camera matrix",
        )


def for_size(camera: Camera, width: int, height: int) -> tuple[Camera, str]:
    """The camera for images of another size and a warning ("" when the size is the same).

    Raises InputRefused when the aspect differs: then it is another crop, and no factor is right.
    """
    if (camera.width, camera.height) == (width, height):
        return camera, ""
    fx, fy = width / camera.width, height / camera.height
    sizes = f"{camera.width}x{camera.height} and the video is {width}x{height}"
    if abs(fx / fy - 1) > ASPECT_TOLERANCE:
        raise InputRefused(
            f"the calibration was made for {sizes}: the aspect differs, so it does not apply",
            "calibrate at the video's own resolution and zoom",
        )
    moved = replace(camera.scaled(fx, fy), width=width, height=height)
    return moved, f"The calibration is for {sizes}; it was rescaled by {fx:.4g}."


def _distort(camera: Camera, xy: Array) -> Array:
    """Pixels (..., 2) in the distorted image of normalised pinhole coordinates (..., 2)."""
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    if camera.model == "OPENCV_FISHEYE":
        r = np.sqrt(r2)
        t = np.arctan(r)
        t2 = t * t
        k1, k2, k3, k4 = camera.distortion
        bent = t * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        factor = np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)
        xd, yd = x * factor, y * factor
    elif camera.model == "OPENCV":
        k = list(camera.distortion) + [0.0] * (8 - len(camera.distortion))
        k1, k2, p1, p2, k3, k4, k5, k6 = k
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    else:
        xd, yd = x, y
    return np.stack([camera.fx * xd + camera.cx, camera.fy * yd + camera.cy], -1)


def distort_pixels(camera: Camera, pinhole: Camera, uv: Array) -> Array:
    """Pixels (..., 2) of the pinhole image -> pixels of the distorted image."""
    uv = np.asarray(uv, float)
    xy = (uv - [pinhole.cx, pinhole.cy]) / [pinhole.fx, pinhole.fy]
    return _distort(camera, xy)


def undistort_pixels(camera: Camera, pinhole: Camera, uv: Array) -> Array:
    """Pixels (..., 2) of the distorted image -> pixels of the pinhole image (NaN past its field).

    Newton on the forward model with a numerical Jacobian; points where it does not converge to
    a hundredth of a pixel are NaN.
    """
    uv = np.asarray(uv, float)
    if camera.model == "PINHOLE":
        xy = (uv - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        return xy * [pinhole.fx, pinhole.fy] + [pinhole.cx, pinhole.cy]
    xy = (uv - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    if camera.model == "OPENCV_FISHEYE":  # a good start for wide angles
        t = np.linalg.norm(xy, axis=-1, keepdims=True)
        xy = xy * np.where(t > 1e-9, np.tan(np.minimum(t, 1.5)) / np.maximum(t, 1e-9), 1.0)
    h = 1e-6
    right, down = np.array([h, 0.0]), np.array([0.0, h])
    with np.errstate(all="ignore"):
        for _ in range(30):
            f = _distort(camera, xy)
            e = uv - f
            jx = (_distort(camera, xy + right) - f) / h
            jy = (_distort(camera, xy + down) - f) / h
            det = jx[..., 0] * jy[..., 1] - jx[..., 1] * jy[..., 0]
            dx = (e[..., 0] * jy[..., 1] - e[..., 1] * jy[..., 0]) / det
            dy = (jx[..., 0] * e[..., 1] - jx[..., 1] * e[..., 0]) / det
            step = np.stack([dx, dy], -1)
            limit = 0.5 * np.maximum(1.0, np.linalg.norm(xy, axis=-1, keepdims=True))
            size = np.maximum(np.linalg.norm(step, axis=-1, keepdims=True), 1e-30)
            xy = xy + step * np.minimum(1.0, limit / size)
        bad = ~(np.linalg.norm(_distort(camera, xy) - uv, axis=-1) < 0.01)
    out = xy * [pinhole.fx, pinhole.fy] + [pinhole.cx, pinhole.cy]
    out[bad] = np.nan
    return out


def pinhole_for(
    camera: Camera, mask: Array | None = None, max_half_angle_deg: float = 60.0
) -> Camera:
    """A PINHOLE camera for the undistorted view: the same focal length, cut to what is seen.

    `mask` (h, w) limits the view to the content area. The window holds every valid pixel but
    nothing past `max_half_angle_deg`, where a pinhole image stretches without end.
    """
    if camera.model == "PINHOLE":
        return camera
    pinhole = replace(camera, model="PINHOLE", distortion=())
    u, v = np.meshgrid(
        np.linspace(0.5, camera.width - 0.5, 65), np.linspace(0.5, camera.height - 0.5, 65)
    )
    uv = np.stack([u.ravel(), v.ravel()], -1)
    if mask is not None and mask.any():
        edge = mask[uv[:, 1].astype(int), uv[:, 0].astype(int)]
        uv = uv[edge] if edge.sum() > 8 else uv
    out = undistort_pixels(camera, pinhole, uv)
    xy = (out - [pinhole.cx, pinhole.cy]) / [pinhole.fx, pinhole.fy]
    keep = np.isfinite(xy).all(-1) & (
        np.linalg.norm(xy, axis=-1) < np.tan(np.radians(max_half_angle_deg))
    )
    low, high = out[keep].min(0), out[keep].max(0)
    left, top = np.floor(low).astype(int)
    right, bottom = np.ceil(high).astype(int)
    return pinhole.cropped(int(left), int(top), int(right - left), int(bottom - top))


def undistort_maps(camera: Camera, pinhole: Camera) -> tuple[Array, Array]:
    """cv2.remap maps (h, w) float32 that make the pinhole image out of the distorted one.

    cv2 counts pixel centres from 0, hence the - 0.5 on the way out.
    """
    from endorecon.geometry import pixel_grid

    uv = distort_pixels(camera, pinhole, pixel_grid(pinhole.width, pinhole.height)) - 0.5
    return uv[..., 0].astype(np.float32), uv[..., 1].astype(np.float32)
