"""Clicks lifted to 3D: rays of several frames and depth-map planes, solved landmark by landmark.

Each session (one observer, one repeat) has its own point; what they share is the depth maps' error
at that landmark. It is the same in all frames, because all maps come from one reconstruction, so
it does not average out: it is an unknown of its own, along the normal, held by the maps' sigma, and
the rays of all sessions correct it. A plane, not a depth: the plane does not move when the click
does, so both errors are independent. Click noise (px), the maps' scatter between frames and their
common error (both in units of their own sigma) are estimated from the residuals by variance
components (Helmert; hat-matrix trace for the lost degrees of freedom), so that intervals do not
rest on assumed noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.evaluate.clicks import Click, local_plane, source_rays
from endorecon.scene import Camera, DepthMap, Landmarks, Space, Unit

Array = NDArray[Any]
_Plane = tuple[int, Array, Array, float]  # session, point, unit normal (world), sigma along it
_CONTRADICTS = 4.5  # residual of a plane in sigmas that throws it out (a click past a depth edge)
_DISAGREES = 6.0  # residual of a click in sigmas that refuses its session
_TAIL = 3.0  # degrees of freedom of the common error: now and then the maps are simply wrong
_TAIL_95 = 3.18 / 1.96  # of t's and the Gaussian's 97.5 % quantiles
_TILT = 0.1  # a plane's normal and flatness are known to this, so it holds near its own click
_PRIOR = 4.0  # pseudo-observations that hold estimated noise near its assumed value


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
    shared: Array = field(default_factory=lambda: np.zeros((3, 3)))  # part that sessions share


@dataclass(frozen=True)
class Noise:
    """What the residuals say: click noise in source pixels; the depth maps' errors in sigmas."""

    click_px: float
    depth_factor: float  # scatter between frames
    depth_common: float  # what all frames have in common at one landmark
    clicks: int


@dataclass(frozen=True)
class _Sight:
    """One click as observations of its landmark."""

    pose: Array  # world_from_camera
    ray: Array  # (3,) z = 1, camera axes
    whiten: Array  # (2, 2): normalised plane -> source pixels
    plane: tuple[Array, Array, float] | None  # point, normal (world), sigma along the normal


@dataclass(frozen=True)
class _Solution:
    """A landmark: a point a session (s, 3), covariances, residuals and what they cost."""

    xyz: Array
    covariance: Array  # (s, 3, 3)
    shared: Array  # (s, 3, 3) part of it that all sessions have in common
    click_residuals: Array  # (clicks,) px, both axes together
    click_session: Array  # (clicks,)
    click_values: Array  # (2 clicks,) px
    click_leverage: float
    plane_residuals: Array  # (planes,) in sigmas of the depth maps
    plane_leverage: float
    common: float  # the maps' common error in their median sigma
    common_variance: float


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
    sights = _sights(clicks, camera, poses, depths)
    if not any(s for sessions in sights.values() for s in sessions.values()):
        raise InputRefused(
            f"None of the {len(clicks)} clicks lies in a frame of this run",
            "click in frames listed as kept in frames.csv",
        )
    able = {
        name: {k: s for k, s in sessions.items() if len(s) > 1 or any(x.plane for x in s)}
        for name, sessions in sights.items()
    }
    noise = Noise(assumed_px, 0.7, 0.7, 0)
    solved: dict[str, _Solution | None] = {}
    for _ in range(6):
        solved = {name: _solve(list(s.values()), noise) if s else None for name, s in able.items()}
        good = [x for x in solved.values() if x is not None]
        noise = _components(good, assumed_px, noise.depth_common)
    out = []
    for name, sessions in sights.items():
        found = solved[name]
        order = list(able[name])
        for key, s in sessions.items():
            if found is None or key not in order:
                why = "not in a frame of the run" if not s else "seen once, where depth is unknown"
                nothing, unknown = np.full(3, np.nan), np.full((3, 3), np.nan)
                out.append(Lifted(*key, name, nothing, unknown, len(s), why))
                continue
            k = order.index(key)
            apart = float(found.click_residuals[found.click_session == k].max()) / noise.click_px
            status = "ok" if apart < _DISAGREES else "clicks in different frames disagree"
            out.append(
                Lifted(
                    *key, name, found.xyz[k], found.covariance[k], len(s), status, found.shared[k]
                )
            )
    return out, noise


def _sights(
    clicks: list[Click],
    camera: Camera,
    poses: Mapping[int, Array],
    depths: Mapping[int, DepthMap],
) -> dict[str, dict[tuple[str, int], list[_Sight]]]:
    """landmark -> (observer, repeat) -> its clicks in frames that have a pose."""
    directions, jacobians = source_rays(np.array([[c.u, c.v] for c in clicks]), camera)
    out: dict[str, dict[tuple[str, int], list[_Sight]]] = {}
    for click, ray, jacobian in zip(clicks, directions, jacobians, strict=True):
        mine = out.setdefault(click.landmark, {}).setdefault((click.observer, click.repeat), [])
        if click.frame in poses:
            depth = depths.get(click.frame)
            plane = None if depth is None else local_plane(depth, ray)
            mine.append(_Sight(poses[click.frame], ray, np.linalg.inv(jacobian), plane))
    return out


def _solve(sessions: list[list[_Sight]], noise: Noise) -> _Solution | None:
    """Least squares, without planes that contradict the rest of their landmark."""
    planes = [
        (k, *s.plane) for k, sights in enumerate(sessions) for s in sights if s.plane is not None
    ]
    while True:
        found = _solve_with(sessions, planes, noise)
        if found is None or len(planes) < 2:
            return found
        off = np.abs(found.plane_residuals) / noise.depth_factor
        if off.max() < _CONTRADICTS:
            return found
        planes = [p for k, p in enumerate(planes) if k != int(off.argmax())]


def _solve_with(
    sessions: list[list[_Sight]], planes: list[_Plane], noise: Noise
) -> _Solution | None:
    """Gauss-Newton over a point a session and the maps' common error along the normal (last)."""
    count = len(sessions)
    sights = [(k, s) for k, mine in enumerate(sessions) for s in mine]
    x = np.array([_start(mine, planes) for mine in sessions])
    size = float(np.median([p[3] for p in planes])) if planes else 1.0
    width, common = noise.depth_common * size, 0.0
    for turn in range(30):
        found = _equations(sights, planes, x, common, noise)
        if found is None:
            return None
        A, b = found
        # Student's t by reweighting: a large common error is believed when the rays insist on it;
        # the first turns let them speak
        held = width / np.sqrt(_weight(common / width)) if turn > 4 else 100 * width
        A[-1, -1], b[-1] = 1.0 / held, common / held
        information = A.T @ A
        unit = np.sqrt(np.diag(information))
        if (unit == 0).any() or np.linalg.cond(information / np.outer(unit, unit)) > 1e12:
            return None
        step = -np.linalg.solve(information, A.T @ b)
        x, common = x + step[:-1].reshape(count, 3), common + float(step[-1])
        b = b + A @ step
        if turn > 5 and np.linalg.norm(step[:-1]) < 1e-6 * max(float(np.linalg.norm(x)), 1e-12):
            break
    hat = np.einsum("ni,ij,nj->n", A, np.linalg.inv(information), A)
    A[-1, -1] /= _TAIL_95  # the weighted curvature knows nothing of the tails
    covariance = np.linalg.inv(A.T @ A)
    n = 2 * len(sights)
    blocks = [slice(3 * k, 3 * k + 3) for k in range(count)]
    on_common = covariance[:-1, -1].reshape(count, 3)
    pixels = b[:n] * noise.click_px
    return _Solution(
        x,
        np.array([covariance[s, s] for s in blocks]),
        np.einsum("si,sj->sij", on_common, on_common) / covariance[-1, -1],
        np.abs(pixels.reshape(-1, 2)).max(1),
        np.array([k for k, _ in sights]),
        pixels,
        float(hat[:n].sum()),
        b[n:-1] * noise.depth_factor,
        float(hat[n:-1].sum()),
        common / size,
        float(covariance[-1, -1]) / size**2,
    )


def _equations(
    sights: list[tuple[int, _Sight]], planes: list[_Plane], x: Array, common: float, noise: Noise
) -> tuple[Array, Array] | None:
    """Jacobian and residuals at x (s, 3) in standard deviations; the last row is left empty.

    None when a point lies behind one of its cameras.
    """
    A = np.zeros((2 * len(sights) + len(planes) + 1, 3 * len(x) + 1))
    b = np.zeros(len(A))
    for row, (k, s) in enumerate(sights):
        R, t = s.pose[:3, :3], s.pose[:3, 3]
        q = R.T @ (x[k] - t)
        if q[2] <= 0:
            return None
        d = np.array([[1, 0, -q[0] / q[2]], [0, 1, -q[1] / q[2]]]) / q[2] @ R.T
        rows = slice(2 * row, 2 * row + 2)
        A[rows, 3 * k : 3 * k + 3] = s.whiten @ d / noise.click_px
        b[rows] = s.whiten @ (q[:2] / q[2] - s.ray[:2]) / noise.click_px
    if planes:  # one normal: planes tilted against each other would seem to fix a point between
        facing = [p[2] * np.sign(p[2] @ planes[0][2]) for p in planes]
        normal = np.mean(facing, axis=0)
        normal /= np.linalg.norm(normal)
    for row, (k, point, _, sigma) in enumerate(planes, start=2 * len(sights)):
        away = float(np.linalg.norm(np.cross(normal, x[k] - point)))
        scale = np.hypot(sigma * noise.depth_factor, _TILT * away)
        A[row, 3 * k : 3 * k + 3] = normal / scale
        A[row, -1] = -1.0 / scale
        b[row] = float(normal @ (x[k] - point) - common) / scale
    return A, b


def _weight(deviation: float) -> float:
    """Weight of an error (in standard deviations) under Student's t."""
    return min((_TAIL + 1.0) / (_TAIL + deviation**2), 1.0)


def _start(sights: list[_Sight], planes: list[_Plane]) -> Array:
    if planes:
        return np.asarray(np.median([p[1] for p in planes], axis=0))
    A, b = np.zeros((3, 3)), np.zeros(3)
    for s in sights:  # midpoint of the rays
        d = s.pose[:3, :3] @ s.ray
        M = np.eye(3) - np.outer(d, d) / (d @ d)
        A, b = A + M, b + M @ s.pose[:3, 3]
    return np.asarray(np.linalg.lstsq(A, b, rcond=None)[0])


def _components(solved: list[_Solution], assumed_px: float, before: float) -> Noise:
    """Noise levels from residuals, each held to three robust sigmas."""
    click = np.concatenate([s.click_values for s in solved] or [np.zeros(0)])
    plane = np.concatenate([s.plane_residuals for s in solved] or [np.zeros(0)])
    free_click = len(click) - sum(s.click_leverage for s in solved)
    free_plane = len(plane) - sum(s.plane_leverage for s in solved)
    known = [s for s in solved if len(s.plane_residuals)]
    # expectation of the squared common error (EM); without evidence the maps' sigma is believed
    common = _PRIOR + sum(
        _weight(s.common / before) * (s.common**2 + s.common_variance) for s in known
    )
    return Noise(
        _level(click, free_click, assumed_px),
        _level(plane, free_plane, 0.7),
        float(np.sqrt(common / (len(known) + _PRIOR))),
        len(click) // 2,
    )


def _level(residuals: Array, free: float, assumed: float) -> float:
    if len(residuals) == 0:
        return assumed
    limit = max(3 * 1.4826 * float(np.median(np.abs(residuals))), 1e-9)
    bulk = np.minimum(np.abs(residuals), limit)
    total = float((bulk**2).sum()) + _PRIOR * assumed**2
    return float(np.sqrt(total / (max(free, 0.0) + _PRIOR)))


def mean_landmarks(lifted: list[Lifted], unit: Unit, space: Space) -> Landmarks:
    """One point a landmark: weighted over observers and repeats, good ones only.

    The weights and the averaged part leave out what sessions share; that part is added whole.
    """
    names: list[str] = []
    points, covariances = [], []
    for name in dict.fromkeys(x.landmark for x in lifted):
        mine = [x for x in lifted if x.landmark == name and x.status == "ok"]
        if not mine:
            continue
        weights = [np.linalg.inv(x.covariance - x.shared) for x in mine]
        own = np.linalg.inv(sum(weights))
        names.append(name)
        points.append(own @ sum(w @ x.xyz for w, x in zip(weights, mine, strict=True)))
        covariances.append(own + np.mean([x.shared for x in mine], axis=0))
    xyz = np.array(points).reshape(-1, 3)
    return Landmarks(tuple(names), xyz, unit, space, np.array(covariances).reshape(-1, 3, 3))
