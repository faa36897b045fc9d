"""A phantom of a real patient's airway: an Anatomy grown from a point in a CT.

Conventions: LPS mm; distance positive in air. The air (below `iso_hu`) that is connected with the
seed point inside a box round it becomes the cavity; the CT is resampled finer with cubic splines
before it is thresholded, the signed Euclidean distance is smoothed, and a cubic spline through it
is the implicit surface: C2, so normals and truth are smooth. Where the box cuts the airway it is
closed by the box. The flight follows the widest way from the seed to the farthest air.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.errors import InputRefused
from endorecon.io.ct import read_ct
from endorecon.phantom.anatomy import Anatomy, Route
from endorecon.phantom.implicit import march

Array = NDArray[Any]


def patient_anatomy(
    series: Path, seed_point: tuple[float, float, float], config: PhantomConfig
) -> Anatomy:
    """The airway round a point (LPS mm) of a CT; raises InputRefused if there is no air there."""
    from scipy.ndimage import (
        distance_transform_edt,
        gaussian_filter,
        label,
        map_coordinates,
        spline_filter,
    )

    ct = read_ct(series)
    seed = np.asarray(seed_point, float)
    cell, reach = config.patient_cell_mm, config.patient_reach_mm
    n = int(np.ceil(2 * reach / cell)) + 1
    low = seed - cell * (n // 2)
    index_from_lps = np.linalg.inv(ct.lps_from_index)
    at_seed = index_from_lps[:3, :3] @ seed + index_from_lps[:3, 3]
    shape = np.array(ct.hu.shape)[::-1]
    if (at_seed < 0).any() or (at_seed > shape - 1).any():
        raise InputRefused(
            "The seed point lies outside the CT", "give a point in LPS millimetres", series
        )
    inner = np.where(_outside(ct.hu, ct.spacing, config.patient_iso_hu), 300.0, ct.hu)
    soft = spline_filter(np.clip(inner, -1000.0, 300.0).astype(np.float32), order=3)
    hu = np.zeros((n, n, n), np.float32)
    y, z = np.meshgrid(low[1] + cell * np.arange(n), low[2] + cell * np.arange(n), indexing="ij")
    for i in range(n):
        p = np.stack([np.full_like(y, low[0] + cell * i), y, z], -1)
        ijk = p @ index_from_lps[:3, :3].T + index_from_lps[:3, 3]
        hu[i] = map_coordinates(
            soft,
            ijk[..., ::-1].transpose(2, 0, 1),
            order=3,
            mode="constant",
            cval=300.0,
            prefilter=False,
        )
    air = gaussian_filter(hu, 0.6) < config.patient_iso_hu
    # A shell of tissue closes the box where it cuts the airway.
    for axis in range(3):
        for side in (slice(0, 3), slice(-3, None)):
            cut = [slice(None)] * 3
            cut[axis] = side
            air[tuple(cut)] = False
    names, _ = label(air)
    name = names[n // 2, n // 2, n // 2]
    if name == 0:
        raise InputRefused(
            f"There is no air at the seed point (below {config.patient_iso_hu:.0f} HU)",
            "choose a point in the airway, in LPS millimetres",
            series,
        )
    cavity = names == name
    signed = distance_transform_edt(cavity) - distance_transform_edt(~cavity)
    # EDT measures to the next voxel's centre; the wall lies half a cell before it.
    signed = (signed - 0.5 * np.sign(signed)) * cell
    field = gaussian_filter(np.clip(signed, -8.0, 20.0), config.patient_smooth_mm / cell)
    # Where the wall is thinner than the blur, the blur would open holes: tissue stays tissue.
    field = np.where(~cavity, np.minimum(field, -0.05), field).astype(np.float32)
    coefficients = spline_filter(gaussian_filter(field, 0.5), order=3).astype(np.float32)

    def distance(p: Array) -> Array:
        q = (np.asarray(p) - low) / cell
        return map_coordinates(
            coefficients, q.T, order=3, mode="nearest", prefilter=False, output=np.float64
        )

    route = _route(field, low, cell, config)
    found = np.argwhere(field > 0)
    return Anatomy(
        family="sinus",
        distance=distance,
        low=low + cell * found.min(0) - 3.0,
        high=low + cell * found.max(0) + 3.0,
        route=route,
        landmarks=_landmarks(distance, route),
        distances=_PAIRS,
        parameters={"seed_x": seed[0], "seed_y": seed[1], "seed_z": seed[2], "cell_mm": cell},
    )


def _length(way: Array) -> float:
    """Length of a polyline (n, 3), smoothed first: a grid path is a staircase."""
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(way.astype(float), 2.0, axis=0, mode="nearest")
    return max(float(np.linalg.norm(np.diff(smooth, axis=0), axis=1).sum()), 1.0)


def _outside(hu: Array, spacing: Array, iso_hu: float, nostril_mm: float = 6.0) -> Array:
    """Air (k, j, i) round the head: what a ball of the radius of a nostril reaches from outside."""
    from scipy.ndimage import distance_transform_edt, label

    air = hu < iso_hu
    wide = distance_transform_edt(np.pad(air, 1, mode="edge"), sampling=spacing[::-1])
    wide = wide[1:-1, 1:-1, 1:-1] > nostril_mm
    names, _ = label(wide)
    # The lower end of the scan cuts the throat: only the four sides are outside for sure.
    sides = [names[:, 0], names[:, -1], names[:, :, 0], names[:, :, -1]]
    outer = np.isin(names, np.setdiff1d(np.concatenate([x.ravel() for x in sides]), [0]))
    if not outer.any():
        return outer
    return air & (distance_transform_edt(~outer, sampling=spacing[::-1]) < nostril_mm + 1.5)


def _route(field: Array, low: Array, cell: float, config: PhantomConfig) -> Route:
    """The widest way from the middle of the box to the farthest air that a tip can reach."""
    from skimage.graph import MCP_Geometric

    thin = max(1, round(1.0 / cell))
    d = field[::thin, ::thin, ::thin]
    tip = 1.0  # mm: half the tip of a thin scope
    cost = np.where(d > tip, 1.0 / np.minimum(np.maximum(d, tip), 6.0) ** 2, -1.0)
    start = np.array(d.shape) // 2
    near = np.argwhere(d > tip)
    if len(near) == 0:
        raise InputRefused(
            "The airway is too narrow for an endoscope at the seed point", "choose a wider place"
        )
    start = near[np.argmin(np.linalg.norm(near - start, axis=1))]
    mcp = MCP_Geometric(cost)
    costs, _ = mcp.find_costs([tuple(start)])
    reachable = np.isfinite(costs)
    gap = np.where(
        reachable, np.linalg.norm(np.indices(d.shape).T.transpose(2, 1, 0, 3) - start, axis=-1), -1
    )
    gap = np.where(gap * cell * thin <= config.patient_flight_mm, gap, -1)
    # Far, but straight: an endoscope does not turn round a corner into a side cavity.
    far = np.argwhere(gap > 0.5 * gap.max())
    ways = [np.array(mcp.traceback(end)) for end in far[:: max(1, len(far) // 300)]]
    worth = [np.linalg.norm(w[-1] - w[0]) ** 3 / _length(w) ** 2 for w in ways]
    path = ways[int(np.argmax(worth))] * cell * thin + low
    from scipy.ndimage import gaussian_filter1d

    path = gaussian_filter1d(path, 3.0, axis=0, mode="nearest")
    pick = np.linspace(0, len(path) - 1, max(3, min(8, len(path) // 4))).astype(int)
    return Route(
        path[:1], path[pick], False, np.array([0.0, 0.0, 1.0]), clearance_mm=1.6, sweep_mm=1.2
    )


_DIRECTIONS = {
    "right": (-1.0, 0.0, 0.0),
    "left": (1.0, 0.0, 0.0),
    "roof": (0.0, 0.0, 1.0),
    "floor": (0.0, 0.0, -1.0),
}
_STATIONS = {"anterior": 0.45, "posterior": 0.85}
_PAIRS = tuple(
    (f"{where} {what}", f"{where} {a}", f"{where} {b}")
    for where in _STATIONS
    for what, a, b in (("width", "right", "left"), ("height", "roof", "floor"))
)


def _landmarks(distance: Any, route: Route) -> dict[str, Array]:
    """Opposite walls at two stations of the way: what a reader of an unknown airway can name."""
    ways = route.waypoints
    out: dict[str, Array] = {}
    for station, share in _STATIONS.items():
        at = ways[round(share * (len(ways) - 1))]
        for name, direction in _DIRECTIONS.items():
            out[f"{station} {name}"] = march(distance, at, np.array(direction))
    return out
