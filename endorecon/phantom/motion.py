"""How the surgeon moves: continuous, collision-free camera paths.

Conventions: world_from_camera (n, 4, 4), OpenCV axes, LPS mm, one pose an instant. A rigid shaft
passes near a fixed entry point (the nostril), so the tip sweeps when the shaft turns; a flexible
one follows the lumen and bends. Ingredients: advance, retract, pause, sweep across the cavity, a
look round, rotation about the shaft, tremor. The scope's own tilt (0, 30 degrees) turns the optical
axis away from the shaft. Tip positions closer to a wall than the clearance are pushed off it and
the path is smoothed again, so that there is no corner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.anatomy import Route
from endorecon.phantom.implicit import Distance, gradient

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

Array = NDArray[Any]


def wander(rng: np.random.Generator, t: Array, period_s: float, channels: int) -> Array:
    """Smooth random signals (len(t), channels), about unit size, that wander in about a period."""
    out = np.zeros((len(t), channels))
    for k in range(3):
        f = (0.6 + 0.55 * k) / period_s
        phase = rng.uniform(0, 2 * np.pi, channels)
        weight = rng.uniform(0.6, 1.0, channels) / (1 + 0.6 * k)
        out += weight * np.sin(2 * np.pi * f * t[:, None] + phase)
    return out / 1.2


def progress(rng: np.random.Generator, t: Array, length_mm: float, speed_mm_s: float) -> Array:
    """Insertion along the route in [0, 1]: all the way in, a pause, half out, in again, out a bit.

    A clip too short for the whole way at this speed begins deeper; a long one goes to and fro.
    """
    from scipy.interpolate import PchipInterpolator

    levels = [0.52, 0.49, 1.0, 1.0, 0.60, 0.95]
    way_in = 0.80 * (t[-1] - t[0]) - 0.5  # seconds left for the first way in
    start = max(0.0, 1.0 - max(way_in, 0.0) * speed_mm_s / length_mm)
    first = float(np.clip(start + rng.uniform(0.0, 0.02), 0.0, 0.95))
    keys, values = [float(t[0]), float(t[0]) + 0.3], [first, first + 0.01]
    k = 0
    while keys[-1] <= t[-1] or len(keys) < 5:
        level = levels[k % 6] + rng.uniform(-0.04, 0.04)
        k += 1
        if k <= 2 and level < values[-1] + 0.05:
            continue  # the clip began deeper than that
        pause = 0.6 if k % 6 == 4 else 0.25
        keys.append(keys[-1] + pause + abs(level - values[-1]) * length_mm / speed_mm_s)
        values.append(float(np.clip(level, 0.0, 1.0)))
    return np.clip(PchipInterpolator(keys, values)(t), 0.0, 1.0)


def make_path(
    rng: np.random.Generator,
    route: Route,
    distance: Distance,
    times: Array,
    config: PhantomConfig,
    clearance_of: Callable[[Array], Array] | None = None,
) -> Array:
    """world_from_camera (n, 4, 4) at times (n,) in seconds, increasing.

    clearance_of: true distance (n,) of points (n, 3) from the wall; the implicit distance if None.
    """
    from scipy.ndimage import gaussian_filter1d

    clear = clearance_of or distance
    margin = config.clearance_mm if route.clearance_mm is None else route.clearance_mm
    line = _middle(route.waypoints, distance, clear, margin)
    length = float(line.x[-1])
    # Work on a regular fine time grid (60 Hz), so that smoothing means the same for any frame rate.
    grid = np.arange(times[0], times[-1] + 1 / 30, 1 / 60)
    if len(grid) < 4:
        grid = np.linspace(times[0], times[0] + 0.1, 7)
    s = length * progress(rng, grid, length, config.speed_mm_s)
    tip, along = line(s), line(s, 1)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    right = np.cross(along, route.up)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    high = np.cross(right, along)
    width = config.sweep_mm if route.sweep_mm is None else route.sweep_mm
    sweep = width * wander(rng, grid, config.sweep_period_s, 2)
    tip = tip + sweep[:, :1] * right + sweep[:, 1:] * high * 0.7
    for _ in range(40):
        lack = margin + 0.4 - clear(tip)
        if lack.max() <= 0.3:
            break
        g = gradient(distance, tip, 0.3)
        # Aside, not back: a push along the way would make the tip stop and then jump.
        g -= 0.8 * np.einsum("ij,ij->i", g, along)[:, None] * along
        g /= np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-6)
        tip = tip + np.clip(lack, 0, 0.6)[:, None] * g
        tip = gaussian_filter1d(tip, 5.0, axis=0, mode="nearest")
    if route.rigid:
        deep = (s / length)[:, None]  # the nostril gives
        pivot = route.entry[0] + deep * (route.entry[-1] - route.entry[0])
        entry = pivot + 1.0 * wander(rng, grid, 2.5, 3)
        shaft = tip - entry
    else:
        ahead = line(np.minimum(s + 0.30 * length, 1.25 * length))
        shaft = ahead - tip
    shaft /= np.linalg.norm(shaft, axis=1, keepdims=True)
    look = np.radians(config.look_deg) * wander(rng, grid, 1.9, 2)
    side = np.cross(shaft, route.up)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, shaft)
    z = shaft + look[:, :1] * side + look[:, 1:] * up
    z = gaussian_filter1d(z, 4.0, axis=0, mode="nearest")
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    roll = np.radians(config.roll_deg) * wander(rng, grid, 3.0, 1)[:, 0]
    # Tremor of the hand, 6-10 Hz, hundredths of a millimetre and tenths of a degree.
    tremor = np.stack(
        [np.sin(2 * np.pi * f * grid + rng.uniform(0, 6.3)) for f in rng.uniform(6, 10, 6)], 1
    )
    tip = tip + 0.02 * config.tremor * tremor[:, :3]
    z = z + 0.0012 * config.tremor * tremor[:, 3:]
    poses = _poses(tip, z, route.up, roll, np.radians(config.scope_deg))
    return _at(grid, poses, times)


def _middle(waypoints: Array, distance: Distance, clear: Distance, margin: float) -> CubicSpline:
    """The way through the waypoints (n, 3) by arc length in mm, moved aside where it is narrow."""
    from scipy.interpolate import CubicSpline
    from scipy.ndimage import gaussian_filter1d

    def by_length(p: Array) -> CubicSpline:
        s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
        return CubicSpline(s, p, bc_type="natural")

    line = by_length(waypoints)
    wanted = line(np.linspace(0.0, line.x[-1], 80))
    p = wanted.copy()
    for _ in range(60):
        lack = margin + 1.0 - clear(p)
        if lack.max() <= 0.0:
            break
        along = np.gradient(p, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        g = gradient(distance, p, 0.3)
        g -= np.einsum("ij,ij->i", g, along)[:, None] * along
        p = p + 0.5 * np.clip(lack, 0.0, 0.5)[:, None] * g
        p = wanted + gaussian_filter1d(p - wanted, 1.5, axis=0, mode="nearest")
    return by_length(by_length(p)(np.linspace(0.0, by_length(p).x[-1], 24)))


def _poses(tip: Array, z: Array, up: Array, roll: Array, tilt: float) -> Array:
    """Poses from tips, shaft directions, roll about the shaft, tilt of the optics (radians)."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    x = np.cross(z, up)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.cross(z, x)  # down
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    x, y = c * x + s * y, c * y - s * x
    # An angled scope looks up from the shaft; rolling it swings the view round.
    z, y = np.cos(tilt) * z - np.sin(tilt) * y, np.cos(tilt) * y + np.sin(tilt) * z
    out = np.zeros((len(tip), 4, 4))
    out[:, :3, 0], out[:, :3, 1], out[:, :3, 2], out[:, :3, 3] = x, y, z, tip
    out[:, 3, 3] = 1.0
    return out


def _at(grid: Array, poses: Array, times: Array) -> Array:
    """Poses interpolated from a fine grid to the times asked for."""
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, Slerp

    t = np.clip(times, grid[0], grid[-1])
    out = np.zeros((len(t), 4, 4))
    out[:, :3, :3] = Slerp(grid, Rotation.from_matrix(poses[:, :3, :3]))(t).as_matrix()
    out[:, :3, 3] = CubicSpline(grid, poses[:, :3, 3])(t)
    out[:, 3, 3] = 1.0
    return out
