"""Clinical measures of named points and surfaces, each with a propagated 95 % interval.

Lengths in mm, areas in mm^2, angles in degrees; the unit is part of the kind's name, because the
columns of measurements.csv are shared. Intervals are first order: gradient of the measure with
respect to its points, their covariances, and the relative uncertainty of scale times the power of
length in the measure. Geodesics by edge flips (Sharp & Crane, 2020; potpourri3d). Surfaces are
Surface nouns in LPS mm; a measure over guessed surface is refused, never returned.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EnvironmentFault, InputRefused
from endorecon.scene import GUESSED, Surface

Array = NDArray[Any]
LENGTH_POWER = {
    "point-to-point": 1,
    "polyline": 1,
    "geodesic": 1,
    "angle_deg": 0,
    "ostium-area_mm2": 2,
    "ostium-diameter": 1,
    "cross-section_mm2": 2,
}
_POINTS_NEEDED = {"angle_deg": 3, "ostium-area_mm2": 3, "ostium-diameter": 3}
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Plan:
    """One line of distances.yaml: what to measure between which landmarks."""

    name: str
    kind: str
    points: tuple[str, ...]
    known_mm: float | None = None  # a length known in the scene: a source of scale, not a result
    known_sigma_mm: float = 0.0


def read_plans(path: Path) -> list[Plan]:
    """distances.yaml: `{name, from, to}`, or `{name, kind, points: [...]}`, or with `known_mm`.

    Raises InputRefused naming the entry that is wrong.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputRefused("The list of distances does not exist", "check it", path) from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputRefused("The list of distances is no YAML", "correct it", path) from error
    if isinstance(entries, dict) and "distances" in entries:
        entries = entries["distances"]
    if not isinstance(entries, list) or not entries:
        raise InputRefused(
            "The list of distances is empty", "write `- {name: ..., from: A, to: B}`", path
        )
    plans = []
    for number, entry in enumerate(entries, start=1):
        try:
            points = entry["points"] if "points" in entry else [entry["from"], entry["to"]]
            kind = str(entry.get("kind", "point-to-point"))
            plan = Plan(
                str(entry.get("name") or " to ".join(map(str, points))),
                kind,
                tuple(str(p) for p in points),
                float(entry["known_mm"]) if "known_mm" in entry else None,
                float(entry.get("known_sigma_mm", 0.0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(
                f"Entry {number} of the distances is wrong", "write {name, from, to}", path
            ) from error
        if kind not in LENGTH_POWER:
            raise InputRefused(
                f"Entry {number} asks for {kind!r}", f"known: {', '.join(LENGTH_POWER)}", path
            )
        if len(plan.points) < _POINTS_NEEDED.get(kind, 2):
            raise InputRefused(
                f"Entry {number} ({plan.name}) has too few points for {kind}", "add some", path
            )
        plans.append(plan)
    if len({p.name for p in plans}) < len(plans):
        raise InputRefused("Two distances have one name", "rename one of them", path)
    return plans


def value(kind: str, points: Array, surface: Surface | None = None) -> float:
    """The measure `kind` of points (n, 3); NaN where the surface does not allow it."""
    if kind == "point-to-point":
        return float(np.linalg.norm(points[-1] - points[0]))
    if kind == "polyline":
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    if kind == "angle_deg":
        return angle_deg(points[0], points[1], points[2])
    if kind == "ostium-area_mm2":
        return ring_area(points)
    if kind == "ostium-diameter":
        return float(2 * np.sqrt(ring_area(points) / np.pi))  # of the circle of equal area
    if surface is None:
        return float("nan")
    if kind == "geodesic":
        legs = [geodesic(surface, a, b) for a, b in itertools.pairwise(points)]
        return float(sum(np.linalg.norm(np.diff(leg, axis=0), axis=1).sum() for leg in legs))
    if kind == "cross-section_mm2":
        return cross_section(surface, points[0], points[1] - points[0])
    raise KeyError(kind)


def angle_deg(a: Array, apex: Array, b: Array) -> float:
    """Angle in degrees at `apex`."""
    u, v = a - apex, b - apex
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)))


def ring_area(points: Array) -> float:
    """Area of a closed ring of points (n, 3), projected on its own mean plane."""
    following = np.roll(points, -1, axis=0)
    centre = points.mean(0)
    return float(np.linalg.norm(np.cross(points - centre, following - centre).sum(0)) / 2)


def geodesic(surface: Surface, a: Array, b: Array) -> Array:
    """The path (k, 3) along the surface from near a to near b, ends at a and b themselves.

    Raises EnvironmentFault without potpourri3d; an empty path where none connects them.
    """
    try:
        import potpourri3d
    except ImportError as error:
        raise EnvironmentFault(
            "Geodesic distances need potpourri3d", "pip install 'endorecon[measure]'"
        ) from error
    i, j = (int(((surface.vertices - p) ** 2).sum(1).argmin()) for p in (a, b))
    if i == j:
        return np.array([a, b])
    vertices, faces, renumber = _part_around(surface, i)
    if renumber[j] < 0:
        return np.full((2, 3), np.nan)
    try:
        solver = potpourri3d.EdgeFlipGeodesicSolver(vertices, faces)
        path = np.asarray(solver.find_geodesic_path(int(renumber[i]), int(renumber[j])))
    except (RuntimeError, ValueError):  # not a manifold: no honest answer
        return np.full((2, 3), np.nan)
    path[0], path[-1] = a, b
    return path


def _part_around(surface: Surface, vertex: int) -> tuple[Array, Array, Array]:
    """The connected part of the observed and weak surface that holds a vertex."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces = surface.faces[(surface.status[surface.faces] != GUESSED).all(1)]
    n = len(surface.vertices)
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (n, n))
    _, label = connected_components(graph, directed=False)
    faces = faces[label[faces[:, 0]] == label[vertex]]
    used = np.unique(faces)
    renumber = np.full(n, -1)
    renumber[used] = np.arange(len(used))
    return surface.vertices[used], renumber[faces], renumber


def cross_section(surface: Surface, centre: Array, normal: Array) -> float:
    """Area in mm^2 of the closed contour round `centre` in the plane; NaN when it is open."""
    import pyvista as pv

    mesh = pv.PolyData.from_regular_faces(surface.vertices, surface.faces)
    cut = mesh.slice(normal=normal / np.linalg.norm(normal), origin=centre)
    if cut.n_points == 0:
        return float("nan")
    contours = cut.strip(join=True)
    axis = normal / np.linalg.norm(normal)
    side = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.9 else [0, 1.0, 0])
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(axis, side)], -1)
    best = np.nan
    lines, k = np.asarray(contours.lines), 0
    while k < len(lines):
        index = lines[k + 1 : k + 1 + lines[k]]
        k += 1 + int(lines[k])
        ring = (np.asarray(contours.points)[index] - centre) @ frame
        if len(ring) < 4 or np.linalg.norm(ring[0] - ring[-1]) > 1e-3:
            continue
        turn = np.unwrap(np.arctan2(ring[:, 1], ring[:, 0]))
        if abs(turn[-1] - turn[0]) < np.pi:  # the contour does not go round the centre
            continue
        x, y = ring.T
        area = abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2
        best = area if np.isnan(best) else min(best, area)
    return best


def volume_between(surface: Surface, signed: Array) -> tuple[float, float]:
    """Volumes in mm^3 (outside, inside) between a surface and another one.

    `signed` (v,): signed distance of each vertex to the other surface, NaN outside the overlap.
    Integral over the area, so it holds for layers that are thin against the curvature.
    """
    corners = surface.vertices[surface.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    height = signed[surface.faces].mean(1)
    good = np.isfinite(height)
    layer = area[good] / 2 * height[good]
    return float(layer[layer > 0].sum()), float(-layer[layer < 0].sum())


def interval(
    kind: str,
    points: Array,
    covariances: Array,
    surface: Surface | None,
    log_scale_sigma: float,
    joint: Array | None = None,
) -> tuple[float, float]:
    """The measure in mm and its standard deviation.

    points (n, 3) and covariances (n, 3, 3) in mm, log_scale_sigma the relative uncertainty of
    scale (one standard deviation), joint (3 n, 3 n) a further covariance that links the points.
    """
    measured = value(kind, points, surface)
    gradient = _gradient(kind, points, covariances, surface)
    variance = float(np.einsum("ni,nij,nj->", gradient, covariances, gradient))
    if joint is not None:
        variance += float(gradient.ravel() @ joint @ gradient.ravel())
    variance += (LENGTH_POWER[kind] * measured * log_scale_sigma) ** 2
    return measured, float(np.sqrt(variance))


def bounds(measured: float, sigma: float) -> tuple[float, float]:
    """The central 95 % interval; a length or area is not negative."""
    return max(measured - _Z95 * sigma, 0.0), measured + _Z95 * sigma


def _gradient(kind: str, points: Array, covariances: Array, surface: Surface | None) -> Array:
    out = np.zeros_like(points, dtype=float)
    if kind == "geodesic" and surface is not None:
        for k in range(len(points) - 1):
            path = geodesic(surface, points[k], points[k + 1])
            far = min(4, len(path) - 1)  # first edges of the path are shorter than the noise
            out[k] += _unit(path[0] - path[far])
            out[k + 1] += _unit(path[-1] - path[-1 - far])
        return out
    for k in range(len(points)):
        step = float(np.sqrt(np.trace(covariances[k]) / 3)) or 1e-3
        for axis in range(3):
            a, b = points.astype(float).copy(), points.astype(float).copy()
            a[k, axis] += step / 2
            b[k, axis] -= step / 2
            out[k, axis] = (value(kind, a, surface) - value(kind, b, surface)) / step
    return out


def _unit(v: Array) -> Array:
    length = float(np.linalg.norm(v))
    return v / length if length > 0 else v
