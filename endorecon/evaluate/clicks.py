"""Clicks in video frames, lifted to 3D with their covariance.

A click (frame, u, v) is a pixel of the SOURCE video, pixel centres at .5, distortion and all. It
becomes a ray of that frame's camera; the rays of several frames and the local tangent plane of
each frame's depth map are combined by least squares. A plane, not a depth: the plane does not move
when the click does, so both errors are independent. Click noise (px) and a factor on the depth
maps' own sigma are estimated from the residuals by variance components (Helmert; hat-matrix trace
for the lost degrees of freedom), so that intervals do not rest on assumed noise.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.geometry import rays
from endorecon.scene import Camera, DepthMap, Landmarks, Space, Unit

Array = NDArray[Any]
COLUMNS = ("observer", "repeat", "landmark", "frame", "u", "v")
_WINDOW = 4  # half width in depth-map pixels of the local fit
_CONTRADICTS = 4.5  # residual of a plane in sigmas that throws it out
_PRIOR = 4.0  # pseudo-observations that hold estimated noise near its assumed value


@dataclass(frozen=True)
class Click:
    """One click on one landmark in one frame; u, v in source pixels."""

    observer: str
    repeat: int
    landmark: str
    frame: int
    u: float
    v: float


@dataclass(frozen=True)
class Lifted:
    """One landmark by one observer in one repeat: where, how surely, from how many frames."""

    observer: str
    repeat: int
    landmark: str
    xyz: Array  # (3,) in the run's space and unit
    covariance: Array  # (3, 3)
    frames: int
    status: str  # "ok", or why there is no point
    shared: Array = field(default_factory=lambda: np.zeros((3, 3)))  # part that repeats share


@dataclass(frozen=True)
class Noise:
    """What the residuals say: click noise in source pixels, factor on the depth maps' sigma."""

    click_px: float
    depth_factor: float
    clicks: int


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


@dataclass(frozen=True)
class _Sight:
    """One click as observations of its landmark."""

    pose: Array  # world_from_camera
    ray: Array  # (3,) z = 1, camera axes
    whiten: Array  # (2, 2): normalised plane -> source pixels
    plane: tuple[Array, Array, float] | None  # point, normal (world), sigma along the normal


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


def lift(
    clicks: list[Click],
    camera: Camera,
    poses: Mapping[int, Array],
    depths: Mapping[int, DepthMap],
    assumed_px: float,
) -> tuple[list[Lifted], Noise]:
    """Lift clicks to 3D in the run's space.

    camera: intrinsics of the SOURCE video; poses: frame_index -> world_from_camera (4, 4) in
    OpenCV axes; depths: frame_index -> DepthMap, where there is one. Raises InputRefused when no
    click lies in a frame of the run.
    """
    groups: dict[tuple[str, int, str], list[Click]] = {}
    for click in clicks:
        groups.setdefault((click.observer, click.repeat, click.landmark), []).append(click)
    directions, jacobians = source_rays(np.array([[c.u, c.v] for c in clicks]), camera)
    place = {id(click): k for k, click in enumerate(clicks)}
    sights = {
        key: [
            _Sight(
                poses[c.frame],
                directions[place[id(c)]],
                np.linalg.inv(jacobians[place[id(c)]]),
                local_plane(depths[c.frame], directions[place[id(c)]])
                if c.frame in depths
                else None,
            )
            for c in items
            if c.frame in poses
        ]
        for key, items in groups.items()
    }
    if not any(sights.values()):
        raise InputRefused(
            f"None of the {len(clicks)} clicks lies in a frame of this run",
            "click in frames listed as kept in frames.csv",
        )
    noise = Noise(assumed_px, 1.0, 0)
    for _ in range(4):
        solved = {key: _solve(s, noise) for key, s in sights.items()}
        noise = _components([x for x in solved.values() if x is not None], assumed_px)
    out = []
    for (observer, repeat, landmark), s in sights.items():
        found = solved[observer, repeat, landmark]
        if found is None:
            why = "not in a frame of the run" if not s else "seen once, where depth is unknown"
            nothing = np.full(3, np.nan)
            out.append(
                Lifted(observer, repeat, landmark, nothing, np.full((3, 3), np.nan), len(s), why)
            )
            continue
        apart = float(np.abs(found.click_residuals).max()) / noise.click_px
        status = "ok" if apart < 6 else "clicks in different frames disagree"
        shared = _common(s, noise)
        total = found.covariance + shared
        out.append(Lifted(observer, repeat, landmark, found.xyz, total, len(s), status, shared))
    return out, noise


def _common(sights: list[_Sight], noise: Noise) -> Array:
    """The depth maps' error that all frames share, as a covariance (3, 3) along the normal.

    Maps that agree with each other better than their own sigma allows have errors in common; the
    rest of that sigma does not average out, and no scatter between frames shows it.
    """
    planes = [s.plane for s in sights if s.plane is not None]
    share = max(1.0 - noise.depth_factor**2, 0.0)
    if not planes or share == 0.0:
        return np.zeros((3, 3))
    return share * np.mean([sigma**2 * np.outer(n, n) for _, n, sigma in planes], axis=0)


@dataclass(frozen=True)
class _Solution:
    xyz: Array
    covariance: Array
    click_residuals: Array  # px
    click_leverage: float
    plane_residuals: Array  # in sigmas of the depth maps
    plane_leverage: float


def _solve(sights: list[_Sight], noise: Noise) -> _Solution | None:
    """Least squares, without planes that contradict the rest (a click past a depth edge)."""
    planes = [s.plane for s in sights if s.plane is not None]
    while True:
        found = _solve_with(sights, planes, noise)
        if found is None or len(planes) < 2:
            return found
        off = np.abs(found.plane_residuals) / noise.depth_factor
        if off.max() < _CONTRADICTS:
            return found
        planes = [p for k, p in enumerate(planes) if k != int(off.argmax())]


def _solve_with(
    sights: list[_Sight], planes: list[tuple[Array, Array, float]], noise: Noise
) -> _Solution | None:
    if not sights or (len(sights) < 2 and not planes):
        return None
    x = _start(sights, planes)
    for _ in range(8):
        rows, values, is_click = [], [], []
        for s in sights:
            R, t = s.pose[:3, :3], s.pose[:3, 3]
            q = R.T @ (x - t)
            if q[2] <= 0:
                return None
            d = np.array([[1, 0, -q[0] / q[2]], [0, 1, -q[1] / q[2]]]) / q[2] @ R.T
            rows += list(s.whiten @ d / noise.click_px)
            values += list(s.whiten @ (q[:2] / q[2] - s.ray[:2]) / noise.click_px)
            is_click += [True, True]
        for point, normal, sigma in planes:
            scale = sigma * noise.depth_factor
            rows.append(normal / scale)
            values.append(float(normal @ (x - point)) / scale)
            is_click.append(False)
        A, b = np.array(rows), np.array(values)
        information = A.T @ A
        if np.linalg.cond(information) > 1e12:
            return None
        step = -np.linalg.solve(information, A.T @ b)
        x = x + step
        if np.linalg.norm(step) < 1e-9 * max(float(np.linalg.norm(x)), 1e-12):
            break
    covariance = np.linalg.inv(information)
    hat = np.einsum("ni,ij,nj->n", A, covariance, A)
    b = b + A @ step
    click = np.array(is_click)
    return _Solution(
        x,
        covariance,
        b[click] * noise.click_px,
        float(hat[click].sum()),
        b[~click] * noise.depth_factor,
        float(hat[~click].sum()),
    )


def _start(sights: list[_Sight], planes: list[tuple[Array, Array, float]]) -> Array:
    if planes:
        return np.median([p[0] for p in planes], axis=0)
    A, b = np.zeros((3, 3)), np.zeros(3)
    for s in sights:  # midpoint of the rays
        d = s.pose[:3, :3] @ s.ray
        M = np.eye(3) - np.outer(d, d) / (d @ d)
        A, b = A + M, b + M @ s.pose[:3, 3]
    return np.linalg.lstsq(A, b, rcond=None)[0]


def _components(solved: list[_Solution], assumed_px: float) -> Noise:
    """Noise levels from residuals, each held to three robust sigmas."""
    click = np.concatenate([s.click_residuals for s in solved] or [np.zeros(0)])
    plane = np.concatenate([s.plane_residuals for s in solved] or [np.zeros(0)])
    free_click = len(click) - sum(s.click_leverage for s in solved)
    free_plane = len(plane) - sum(s.plane_leverage for s in solved)
    px = _level(click, free_click, assumed_px)
    return Noise(px, _level(plane, free_plane, 1.0), len(click) // 2)


def _level(residuals: Array, free: float, assumed: float) -> float:
    if len(residuals) == 0:
        return assumed
    limit = max(3 * 1.4826 * float(np.median(np.abs(residuals))), 1e-9)
    bulk = np.minimum(np.abs(residuals), limit)
    total = float((bulk**2).sum()) + _PRIOR * assumed**2
    return float(np.sqrt(total / (max(free, 0.0) + _PRIOR)))


def mean_landmarks(lifted: list[Lifted], unit: Unit, space: Space) -> Landmarks:
    """One point a landmark: covariance-weighted over observers and repeats, good ones only."""
    names: list[str] = []
    points, covariances = [], []
    for name in dict.fromkeys(x.landmark for x in lifted):
        mine = [x for x in lifted if x.landmark == name and x.status == "ok"]
        if not mine:
            continue
        information = sum(np.linalg.inv(x.covariance) for x in mine)
        covariance = np.linalg.inv(information)
        weighted = sum(np.linalg.inv(x.covariance) @ x.xyz for x in mine)
        names.append(name)
        points.append(covariance @ weighted)
        covariances.append(covariance)
    xyz = np.array(points).reshape(-1, 3)
    return Landmarks(tuple(names), xyz, unit, space, np.array(covariances).reshape(-1, 3, 3))
