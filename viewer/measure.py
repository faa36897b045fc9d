"""Measurements on the reconstruction and their 95 % intervals; refusals are sentences.

The interval comes from the surface's own sigma at the picked points (independent, isotropic: the
sigma lies along the line of sight, so this is an upper bound), by first-order propagation. It
holds that of the registered scale too, but neither the error of the hand that picks nor that of
the registration's place (the TRE stands beside it). Angles in degrees. An outline's area is that of
its projection on the best plane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import NotEnoughInformation
from endorecon.scene import GUESSED, WEAK

from .mesh import Spot, SurfaceMesh

Array = NDArray[Any]
Kind = Literal["point", "distance", "angle", "area", "note"]
NEEDED = {"point": 1, "note": 1, "distance": 2, "angle": 3, "area": 3}
Z95 = 1.959964


@dataclass(frozen=True)
class Taken:
    """One measurement: points in display space, value(s) with the half width of the interval."""

    name: str
    kind: Kind
    spots: tuple[Spot, ...]
    value: float = float("nan")  # straight distance, degrees, or area
    half: float = float("nan")
    along: float = float("nan")  # distance along the surface
    along_half: float = float("nan")
    why_no_along: str = ""
    path: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    text: str = ""  # a note
    frame: int | None = None  # when it was clicked in a video frame
    weak: bool = False

    @property
    def points(self) -> Array:
        return np.array([s.xyz for s in self.spots])


def take(kind: Kind, name: str, spots: tuple[Spot, ...], mesh: SurfaceMesh, text: str = "",
         frame: int | None = None) -> Taken:  # fmt: skip
    """Measure. Raises NotEnoughInformation where the surface was guessed, not seen."""
    weak = any(s.status >= WEAK for s in spots)
    if any(s.status == GUESSED for s in spots) and kind != "note":
        raise NotEnoughInformation(
            "This point lies on surface that no frame has seen (hatched)",
            "measure only where the camera has looked",
        )
    P = np.array([s.xyz for s in spots])
    sigma = np.array([s.sigma for s in spots])
    if kind == "distance":
        return _distance(name, spots, P, sigma, mesh, weak)
    if kind == "angle":
        value, slope = _angle(P)
        return Taken(name, kind, spots, value, _half(slope, sigma), weak=weak)
    if kind == "area":
        value, slope = _area(P)
        text = "" if value == 0 else _flatness(P, value)
        half = _with_scale(_half(slope, sigma), 2 * value, mesh)
        return Taken(name, kind, spots, value, half, text=text, weak=weak)
    return Taken(name, kind, spots, text=text, frame=frame, weak=weak)


def _half(slope: Array, sigma: Array) -> float:
    """Half the 95 % interval from the gradient (n, 3) by each point and its sigma (n,)."""
    return float(Z95 * np.sqrt(((np.linalg.norm(slope, axis=1) * sigma) ** 2).sum()))


def _with_scale(half: float, value: float, mesh: SurfaceMesh) -> float:
    """The half width with the registered scale's own uncertainty added."""
    return float(np.hypot(half, Z95 * mesh.scale_sigma * value))


def _distance(
    name: str, spots: tuple[Spot, ...], P: Array, sigma: Array, mesh: SurfaceMesh, weak: bool
) -> Taken:
    value = float(np.linalg.norm(P[1] - P[0]))
    if mesh.guessed_beside(P):
        raise NotEnoughInformation(
            "This distance runs across surface that no frame has seen (hatched)",
            "it is not measured; choose points with seen surface between them",
        )
    ends = float(Z95 * np.sqrt((sigma**2).sum()))
    half = _with_scale(ends, value, mesh)
    path = mesh.way(spots[0], spots[1])
    if path is None:
        why, along, line = "no way leads along the surface", float("nan"), P
    elif mesh.guessed_beside(path):
        why, along, line = "the way along the surface crosses guessed surface", float("nan"), P
    else:
        why, line = "", path
        along = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    a, b, c = line.T.tolist()
    return Taken(
        name, "distance", spots, value, half, along, _with_scale(ends, along, mesh), why,
        tuple(zip(a, b, c)), weak=weak,
    )  # fmt: skip


def _angle(P: Array) -> tuple[float, Array]:
    """Angle (degrees) at the second of three points, and its gradient by each point."""
    u, v = P[0] - P[1], P[2] - P[1]
    nu, nv = np.linalg.norm(u), np.linalg.norm(v)
    if min(nu, nv) == 0:
        raise NotEnoughInformation("Two of the three points are the same", "pick three places")
    normal = np.cross(u, v)
    angle = float(np.arctan2(np.linalg.norm(normal), u @ v))
    n = normal / max(float(np.linalg.norm(normal)), 1e-15)
    # Moving an end across its arm turns that arm by 1 / length.
    du, dv = np.cross(u, n) / nu**2, np.cross(n, v) / nv**2
    return float(np.degrees(angle)), np.degrees(np.stack([du, -du - dv, dv]))


def _area(P: Array) -> tuple[float, Array]:
    """Area of a closed outline on its best plane (shoelace), and its gradient by each point."""
    Q = P - P.mean(0)
    normal = np.linalg.svd(Q, full_matrices=False)[2][2]
    vector = 0.5 * np.cross(Q, np.roll(Q, -1, 0)).sum(0)
    sign = 1.0 if vector @ normal >= 0 else -1.0
    slope = 0.5 * sign * np.cross(np.roll(Q, -1, 0) - np.roll(Q, 1, 0), normal)
    return float(abs(vector @ normal)), slope


def _flatness(P: Array, area: float) -> str:
    """A warning when the outline is far from plane, so that "the" area is a matter of taste."""
    Q = P - P.mean(0)
    off = float(np.sqrt(np.mean((Q @ np.linalg.svd(Q, full_matrices=False)[2][2]) ** 2)))
    bent = off / np.sqrt(area / np.pi)
    return f"outline is not plane (off by {100 * bent:.0f} % of its radius)" if bent > 0.2 else ""


def again(t: Taken, mesh: SurfaceMesh) -> Taken | None:
    """The same measurement on another surface (a new round), None where that refuses."""
    spots = tuple(mesh.nearest(np.array(s.xyz)) for s in t.spots)
    try:
        return take(t.kind, t.name, spots, mesh, t.text, t.frame)
    except NotEnoughInformation:
        return None
