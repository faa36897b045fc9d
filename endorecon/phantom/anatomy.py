"""Procedural anatomy: one seed, one implicit cavity, its landmarks and its clinical distances.

Conventions: LPS millimetres (x to the patient's left, y posterior, z superior); distance positive
in air (see implicit.py). Two families. `sinus`: one nasal cavity after endoscopic sinus surgery:
septum, inferior and middle turbinate, opened ethmoid cells below the skull base, maxillary
antrostomy and sinus, sphenoidotomy and sphenoid sinus with carotid and optic prominences and the
recess between them. `colon`: a lumen with haustral folds and polyps. Sizes follow textbook means
(ethmoid about 35 mm long and 20 mm high, nasal sill to sphenoid face about 62 mm) times `size`.
Inside the builders a local frame is used: x away from the septum, y posterior, z up from the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.phantom.implicit import (
    Distance,
    inside_box,
    inside_capsule,
    inside_ellipsoid,
    march,
    smooth_max,
    smooth_min,
)
from endorecon.phantom.noise import make_tile

Array = NDArray[Any]


@dataclass(frozen=True)
class Route:
    """Where the endoscope goes, LPS mm. A rigid shaft turns about `entry`; a flexible one bends."""

    entry: Array  # (3,) where the shaft passes
    waypoints: Array  # (n, 3) tip positions from shallow to deep
    rigid: bool
    up: Array  # (3,) what a surgeon holds upwards
    clearance_mm: float | None = None  # in a narrow place: overrides the config's
    sweep_mm: float | None = None


@dataclass(frozen=True)
class Anatomy:
    """A cavity with everything that is known of it."""

    family: str
    distance: Distance  # LPS mm -> mm, positive in air
    low: Array  # (3,) bounds of the cavity with a margin
    high: Array
    route: Route
    landmarks: dict[str, Array]  # name -> (3,) LPS mm, on the wall
    distances: tuple[tuple[str, str, str], ...]  # (name, from landmark, to landmark)
    parameters: dict[str, float] = field(default_factory=dict)
    looks: dict[str, Array] = field(default_factory=dict)  # centres of spots the texture knows


@dataclass(frozen=True)
class _Draft:
    """An anatomy in its local frame, before it is put into the patient."""

    distance: Distance
    low: Array
    high: Array
    entry: Array
    waypoints: Array
    rigid: bool
    probes: dict[str, tuple[Array, Array]]  # landmark -> (start in air, direction)
    distances: tuple[tuple[str, str, str], ...]
    parameters: dict[str, float]
    looks: dict[str, Array]


def make_anatomy(
    family: str, seed: int, size: float = 1.0, asymmetry: float = 1.0, roughness: float = 1.0
) -> Anatomy:
    """The anatomy of a seed; same arguments, same anatomy.

    size: factor on all lengths; asymmetry: how far individuals differ from the mean (0 = the mean
    itself); roughness: factor on the unevenness of the wall. Raises ValueError on a family it does
    not know.
    """
    families: dict[str, Callable[[np.random.Generator, float, float], _Draft]] = {
        "sinus": _sinus,
        "colon": _colon,
    }
    if family not in families:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(families)}")
    rng = np.random.default_rng([seed, list(families).index(family)])
    draft = families[family](rng, asymmetry, roughness)
    # The patient: a right or left side, somewhere in the scanner's frame.
    side = -1.0 if family == "sinus" and rng.random() < 0.5 else 1.0
    scale = size * np.array([side, 1.0, 1.0])
    offset = rng.uniform([-4, -60, -30], [4, -40, 10])

    def place(p: Array) -> Array:
        return np.asarray(p, float) * scale + offset

    def distance(p: Array) -> Array:
        return size * draft.distance((p - offset) / scale)

    landmarks = {
        name: march(distance, place(start), np.asarray(u, float) * scale)
        for name, (start, u) in draft.probes.items()
    }
    corners = np.stack([place(draft.low), place(draft.high)])
    parameters = {"size": size, "asymmetry": asymmetry, "roughness": roughness, "side": side}
    return Anatomy(
        family=family,
        distance=distance,
        low=corners.min(0),
        high=corners.max(0),
        route=Route(
            place(draft.entry), place(draft.waypoints), draft.rigid, np.array([0.0, 0.0, 1.0])
        ),
        landmarks=landmarks,
        distances=draft.distances,
        parameters=parameters | draft.parameters,
        looks={name: place(p) for name, p in draft.looks.items()},
    )


def _unevenness(rng: np.random.Generator, roughness: float) -> Distance:
    """Smooth displacement of the wall in mm: swellings of 7-15 mm, dimples of 2-5 mm."""
    large = make_tile(rng, 48, 0.9, (7.0, 15.0), 0.5)
    small = make_tile(rng, 48, 0.35, (2.2, 5.0), 0.8)

    def displacement(p: Array) -> Array:
        return roughness * (0.42 * large.sample(p, 3) + 0.055 * small.sample(p, 3))

    return displacement


def _sinus(rng: np.random.Generator, asymmetry: float, roughness: float) -> _Draft:
    def vary(mean: float, spread: float) -> float:
        return mean + asymmetry * spread * float(rng.uniform(-1, 1))

    p: dict[str, float] = {
        "cavity_width": vary(14.5, 1.0),
        "cavity_height": vary(42.0, 2.0),
        "sphenoid_face_y": vary(62.0, 3.0),
        "ethmoid_length": vary(35.0, 3.0),
        "ethmoid_width": vary(15.0, 1.5),
        "inferior_turbinate_radius": vary(4.0, 0.6),
        "middle_turbinate_x": vary(4.6, 0.5),
        "maxillary_ostium_radius": vary(5.2, 0.8),
        "sphenoid_ostium_radius": vary(4.4, 0.7),
        "septal_deviation": vary(0.0, 1.6),
        "spur_height": vary(1.2, 1.0),
        "carotid_radius": vary(3.6, 0.5),
        "optic_radius": vary(2.2, 0.3),
    }
    w, h, face = p["cavity_width"], p["cavity_height"], p["sphenoid_face_y"]
    roof, length = h + 1.0, p["ethmoid_length"]
    cells = []
    for k in range(9):  # opened cells along the roof and the lamina papyracea
        y = face - length + (k % 5 + 0.5) * length / 5 + vary(0, 1.5)
        if k < 5:
            centre = np.array([vary(8.0, 1.5), y, roof - vary(3.2, 1.0)])
        else:
            centre = np.array([p["ethmoid_width"] - vary(1.5, 1.0), y + 2.5, vary(32.0, 3.0)])
        cells.append((centre, np.array([vary(4.6, 1.0), vary(4.4, 0.9), vary(4.2, 0.9)])))
    deviation_y, deviation_z = vary(28.0, 10.0), vary(20.0, 8.0)
    spur_y = vary(34.0, 8.0)
    ostium_y, ostium_z = face - length * 0.72, vary(17.5, 1.0)
    ostium = np.array([w, ostium_y, ostium_z])
    maxillary = np.array([w + 13.5, ostium_y + 2.0, ostium_z - 7.0])
    sphenoid = np.array([7.0, face + 12.0, 33.0])
    hole = np.array([6.2, face, 32.0])
    bumps = _unevenness(rng, roughness)

    def distance(q: Array) -> Array:
        x, y, z = q[:, 0], q[:, 1], q[:, 2]
        d = inside_box(q, np.array([w / 2, face / 2 - 1, h / 2]), np.array([w / 2, face / 2 + 1, h / 2]), 4.0)  # fmt: skip
        # The cavity narrows upwards in front (nasal vault) and is closed above the ethmoid roof.
        vault = (22.0 + 0.55 * (y + 4.0) - z) * 0.87
        d = smooth_min(d, vault, 4.0)
        d = smooth_max(d, inside_capsule(q, (6.0, -14.0, 5.0), (7.0, 8.0, 9.0), 5.5), 3.0)
        width = p["ethmoid_width"]
        ethmoid = inside_box(
            q,
            np.array([width / 2 + 1.0, face - length / 2, 32.0]),
            np.array([width / 2, length / 2, 9.0]),
            3.5,
        )
        d = smooth_max(d, ethmoid, 2.0)
        for centre, radii in cells:
            d = smooth_max(d, inside_ellipsoid(q, centre, radii), 0.7)
        # Septum: a wall at x = 0 that bulges, with a spur low down.
        bulge = p["septal_deviation"] * np.exp(
            -(((y - deviation_y) / 14) ** 2) - ((z - deviation_z) / 11) ** 2
        )
        d = smooth_min(d, x - 0.4 - bulge, 1.0)
        r = p["inferior_turbinate_radius"]
        lower = -inside_capsule(q, (w - 2.6, 13.0, 8.5), (w - 3.0, face - 8.0, 7.5), r)
        d = smooth_min(d, lower, 2.0)
        m = p["middle_turbinate_x"]
        blade = -inside_box(
            q,
            np.array([m, face - length * 0.62, 36.0]),
            np.array([2.1, length * 0.34, 13.5]),
            2.0,
        )
        rim = -inside_capsule(
            q, (m, face - length * 0.93, 24.5), (m - 0.6, face - length * 0.33, 23.0), 2.7
        )
        d = smooth_min(d, smooth_min(blade, rim, 4.0), 1.5)
        spur = -inside_ellipsoid(q, np.array([0.0, spur_y, 5.5]), np.array([1.0 + p["spur_height"], 9.0, 2.2]))  # fmt: skip
        d = smooth_min(d, spur, 1.5)
        antrum = inside_ellipsoid(q, maxillary, np.array([12.0, 14.0, 13.0]))
        window = inside_capsule(
            q, ostium - (3.0, 0, 0), ostium + (6.0, 0, -1.0), p["maxillary_ostium_radius"]
        )
        d = smooth_max(d, smooth_max(antrum, window, 1.5), 1.2)
        cave = inside_ellipsoid(q, sphenoid, np.array([9.0, 10.0, 9.5]))
        carotid = -inside_capsule(
            q,
            sphenoid + (8.2, 7.5, -9.0),
            sphenoid + (8.4, 5.0, 1.0),
            p["carotid_radius"],
        )
        optic = -inside_capsule(
            q, sphenoid + (9.0, -6.0, 7.8), sphenoid + (3.5, 9.0, 6.8), p["optic_radius"]
        )
        cave = smooth_min(cave, smooth_min(carotid, optic, 0.8), 1.2)
        d = smooth_max(d, cave, 1.0)
        door = inside_capsule(q, hole - (0, 5.0, 0), hole + (0, 5.0, 0.5), p["sphenoid_ostium_radius"])  # fmt: skip
        d = smooth_max(d, door, 0.9)
        return d + bumps(q)

    x_axis, y_axis, z_axis = np.eye(3)
    roof_y = face - length * np.array([0.85, 0.15])
    mid_x = 8.5
    probes: dict[str, tuple[Array, Array]] = {
        "nasal sill": (np.array([6.3, 0.0, 6.5]), -z_axis),
        "inferior turbinate head": (np.array([w - 3.2, 5.5, 9.5]), y_axis),
        "middle turbinate head": (
            np.array([m_ := p["middle_turbinate_x"], face - length - 5, 23.0]),
            y_axis,
        ),
        "septal spur": (np.array([5.5, spur_y, 6.2]), -x_axis),
        "maxillary ostium anterior": (ostium + (1.2, 0, 0), -y_axis),
        "maxillary ostium posterior": (ostium + (1.2, 0, 0), y_axis),
        "maxillary ostium superior": (ostium + (1.2, 0, 0), z_axis),
        "maxillary ostium inferior": (ostium + (1.2, 0, 0), -z_axis),
        "ethmoid roof anterior": (np.array([mid_x, roof_y[0], 33.0]), z_axis),
        "ethmoid roof posterior": (np.array([mid_x, roof_y[1], 33.0]), z_axis),
        "lamina papyracea": (np.array([mid_x, face - length / 2, 32.0]), x_axis),
        "ethmoid anterior wall": (np.array([mid_x, face - length * 0.7, 33.0]), -y_axis),
        "sphenoid face": (np.array([10.0, face - 12.0, 25.0]), y_axis),
        "sphenoid ostium medial": (hole + (0, 0.8, 0), -x_axis),
        "sphenoid ostium lateral": (hole + (0, 0.8, 0), x_axis),
        "sphenoid ostium superior": (hole + (0, 0.8, 0), z_axis),
        "sphenoid ostium inferior": (hole + (0, 0.8, 0), -z_axis),
        "carotid prominence": (sphenoid, np.array([8.2, 6.0, -2.5])),
        "optic prominence": (sphenoid, np.array([5.5, 3.5, 6.4])),
        "optic-carotid recess": (sphenoid, np.array([7.6, 4.4, 3.1])),
    }
    del m_
    distances = (
        ("ethmoid length", "ethmoid roof anterior", "ethmoid roof posterior"),
        ("ethmoid height", "ethmoid roof anterior", "middle turbinate head"),
        ("maxillary ostium length", "maxillary ostium anterior", "maxillary ostium posterior"),
        ("maxillary ostium height", "maxillary ostium superior", "maxillary ostium inferior"),
        ("sphenoid ostium width", "sphenoid ostium medial", "sphenoid ostium lateral"),
        ("sphenoid ostium height", "sphenoid ostium superior", "sphenoid ostium inferior"),
        ("nasal sill to sphenoid face", "nasal sill", "sphenoid face"),
        ("sphenoid ostium to carotid", "sphenoid ostium lateral", "carotid prominence"),
        ("skull base to ostium", "ethmoid roof posterior", "sphenoid ostium superior"),
        ("lamina papyracea to turbinate", "lamina papyracea", "middle turbinate head"),
        ("turbinate head to sphenoid face", "inferior turbinate head", "sphenoid face"),
    )
    tip_x = (p["middle_turbinate_x"] + p["ethmoid_width"]) / 2 + 0.8
    return _Draft(
        distance=distance,
        low=np.array([-4.0, -23.0, -4.0]),
        high=np.array([w + 29.0, face + 26.0, h + 9.0]),
        entry=np.array([6.4, -6.0, 8.0]),
        waypoints=np.array(
            [
                [6.6, 9.0, 14.0],
                [7.2, face - length - 8.0, 21.0],
                [tip_x - 0.5, face - length + 4.0, 28.0],
                [tip_x, face - length * 0.58, 31.5],
            ]
        ),
        rigid=True,
        probes=probes,
        distances=distances,
        parameters=p,
        looks={"pale": np.array([0.0, 30.0, 18.0]), "inflamed": ostium},
    )


def _colon(rng: np.random.Generator, asymmetry: float, roughness: float) -> _Draft:
    def vary(mean: float, spread: float) -> float:
        return mean + asymmetry * spread * float(rng.uniform(-1, 1))

    length = 120.0
    p: dict[str, float] = {
        "length": length,
        "radius": vary(17.0, 1.5),
        "bend_x": vary(9.0, 3.0),
        "bend_z": vary(6.0, 3.0),
        "phase_x": vary(0.0, np.pi),
        "phase_z": vary(0.0, np.pi),
        "fold_height": vary(5.0, 1.0),
        "fold_spacing": vary(19.0, 2.0),
    }

    def centre(y: Array) -> Array:
        """Centreline: (n, 3) points at abscissae y."""
        x = p["bend_x"] * np.sin(y / 38.0 + p["phase_x"])
        z = p["bend_z"] * np.sin(y / 31.0 + p["phase_z"])
        return np.stack([x, y, z], -1)

    folds = []
    y = 14.0 + vary(0.0, 3.0)
    while y < length - 12:
        folds.append(
            (y, vary(1.0, 0.3) * p["fold_height"], vary(0, np.pi), vary(2.4, 0.4), vary(0, 4.0))
        )
        y += p["fold_spacing"] * vary(1.0, 0.2)
    polyps = []
    for k in range(4):
        yk = length * (k + 0.75) / 4.4 + vary(0, 5.0)
        phi = vary(0, np.pi)
        radius = vary(3.2, 1.2)
        polyps.append((yk, phi, radius))
    bumps = _unevenness(rng, 0.8 * roughness)

    def profile(phi: Array, y: Array) -> Array:
        """Lumen radius in direction phi at abscissa y."""
        out = p["radius"] * (1.0 + 0.07 * np.cos(3 * phi + 0.02 * y))
        for at, height, turn, width, skew in folds:
            s = (y - at - skew * np.cos(phi - turn)) / width
            part = 0.62 + 0.38 * np.cos(2 * (phi - turn)) * np.cos(phi - turn)
            out = out - height * part / (1.0 + s * s) ** 2
        return out

    def wall_point(y: float, phi: float) -> Array:
        c = centre(np.array([y]))[0]
        u = np.array([np.cos(phi), 0.0, np.sin(phi)])
        return c + float(profile(np.array([phi]), np.array([y]))[0]) * u

    balls = [(wall_point(yk, phi), r) for yk, phi, r in polyps]

    def distance(q: Array) -> Array:
        c = centre(q[:, 1])
        rel = q - c
        r = np.hypot(rel[:, 0], rel[:, 2])
        phi = np.arctan2(rel[:, 2], rel[:, 0])
        d = 0.9 * (profile(phi, q[:, 1]) - r)
        d = smooth_min(d, q[:, 1] + 0.0, 6.0)
        d = smooth_min(d, length - q[:, 1], 9.0)
        for at, radius in balls:
            d = smooth_min(d, np.linalg.norm(q - at, axis=-1) - radius, 1.6)
        return d + bumps(q)

    probes: dict[str, tuple[Array, Array]] = {}
    for k, (at, _r) in enumerate(balls):
        c = centre(at[None, 1])[0]
        probes[f"polyp {k + 1} apex"] = (c, at - c)
        side = np.array([0.0, 1.0, 0.0])
        u = (at - c) / np.linalg.norm(at - c)
        across = np.cross(u, side)
        reach = 1.35 * polyps[k][2]
        probes[f"polyp {k + 1} base left"] = (c, at + reach * across - c)
        probes[f"polyp {k + 1} base right"] = (c, at - reach * across - c)
    for k, (at_y, _h, turn, _w, skew) in enumerate(folds):
        c = centre(np.array([at_y + skew]))[0]
        probes[f"fold {k + 1} crest"] = (c, np.array([np.cos(turn), 0.0, np.sin(turn)]))
    distances = tuple(
        (f"polyp {k + 1} width", f"polyp {k + 1} base left", f"polyp {k + 1} base right")
        for k in range(len(balls))
    ) + tuple(
        (f"fold {k + 1} to fold {k + 2}", f"fold {k + 1} crest", f"fold {k + 2} crest")
        for k in range(len(folds) - 1)
    )
    pad = p["radius"] * 1.2 + 6.0
    xs, zs = abs(p["bend_x"]) + pad, abs(p["bend_z"]) + pad
    ways = centre(np.array([14.0, 26.0, 38.0, 50.0, 62.0]))
    return _Draft(
        distance=distance,
        low=np.array([-xs, -6.0, -zs]),
        high=np.array([xs, length + 6.0, zs]),
        entry=centre(np.array([4.0]))[0],
        waypoints=ways,
        rigid=False,
        probes=probes,
        distances=distances,
        parameters=p,
        looks={},
    )
