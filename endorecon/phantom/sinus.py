"""The sinus family: one nasal cavity after endoscopic sinus surgery.

Septum with a deviation and a spur, inferior and middle turbinate, opened ethmoid cells below the
skull base, maxillary antrostomy and sinus, sphenoidotomy and sphenoid sinus with carotid and optic
prominences and the recess between them. Local frame, mm: x away from the septum, y posterior from
the nasal sill, z up from the floor. Sizes follow textbook means: ethmoid about 35 mm long and 20 mm
high, nasal sill to sphenoid face about 62 mm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.phantom.anatomy import Draft
from endorecon.phantom.implicit import (
    inside_box,
    inside_capsule,
    inside_ellipsoid,
    smooth_max,
    smooth_min,
)
from endorecon.phantom.noise import unevenness

Array = NDArray[Any]


def at(x: float, y: float, z: float) -> Array:
    """A point or a shift in the local frame."""
    return np.array([x, y, z], float)


def draft_sinus(rng: np.random.Generator, asymmetry: float, roughness: float) -> Draft:
    """A nasal cavity; asymmetry scales how far it departs from the mean."""

    def vary(mean: float, spread: float) -> float:
        return mean + asymmetry * spread * float(rng.uniform(-1, 1))

    p: dict[str, float] = {
        "cavity_width": vary(14.5, 1.0),
        "cavity_height": vary(42.0, 2.0),
        "sphenoid_face_y": vary(62.0, 3.0),
        "ethmoid_length": vary(35.0, 3.0),
        "ethmoid_width": vary(15.0, 1.5),
        "inferior_turbinate_radius": vary(4.0, 0.6),
        "middle_turbinate_x": vary(4.0, 0.5),
        "maxillary_ostium_radius": vary(5.2, 0.8),
        "sphenoid_ostium_radius": vary(4.8, 0.6),
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
            centre = at(vary(8.0, 1.5), y, roof - vary(3.2, 1.0))
        else:
            centre = at(p["ethmoid_width"] - vary(1.5, 1.0), y + 2.5, vary(32.0, 3.0))
        cells.append((centre, at(vary(4.6, 1.0), vary(4.4, 0.9), vary(4.2, 0.9))))
    deviation_y, deviation_z = vary(28.0, 10.0), vary(20.0, 8.0)
    spur_y = vary(34.0, 8.0)
    ostium_y, ostium_z = face - length * 0.72, vary(19.5, 1.0)
    ostium = at(w, ostium_y, ostium_z)
    maxillary = at(w + 13.5, ostium_y + 2.0, ostium_z - 7.0)
    sphenoid = at(9.6, face + 12.0, 33.0)
    hole = at(9.0, face, 32.0)
    bumps = unevenness(rng, roughness)

    def distance(q: Array) -> Array:
        x, y, z = q[:, 0], q[:, 1], q[:, 2]
        d = inside_box(q, at(w / 2, face / 2 - 1, h / 2), at(w / 2, face / 2 + 1, h / 2), 4.0)
        # The cavity narrows upwards in front (nasal vault) and is closed above the ethmoid roof.
        vault = (22.0 + 0.55 * (y + 4.0) - z) * 0.87
        d = smooth_min(d, vault, 4.0)
        d = smooth_max(d, inside_capsule(q, at(6.2, -14.0, 5.5), at(7.0, 8.0, 9.5), 6.6), 3.0)
        width = p["ethmoid_width"]
        ethmoid = inside_box(
            q,
            at(width / 2 + 1.0, face - length / 2, 32.0),
            at(width / 2, length / 2, 9.0),
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
        lower = -inside_capsule(q, at(w - 2.6, 13.0, 8.5), at(w - 3.0, face - 8.0, 7.5), r)
        d = smooth_min(d, lower, 2.0)
        m = p["middle_turbinate_x"]
        blade = -inside_box(
            q,
            at(m, face - length * 0.66, 36.0),
            at(2.1, length * 0.30, 13.5),
            2.0,
        )
        rim = -inside_capsule(
            q, at(m, face - length * 0.93, 24.5), at(m - 0.6, face - length * 0.33, 23.0), 2.7
        )
        d = smooth_min(d, smooth_min(blade, rim, 4.0), 1.5)
        spur = -inside_ellipsoid(q, at(0.0, spur_y, 5.5), at(1.0 + p["spur_height"], 9.0, 2.2))
        d = smooth_min(d, spur, 1.5)
        antrum = inside_ellipsoid(q, maxillary, at(12.0, 14.0, 13.0))
        window = inside_capsule(
            q, ostium - at(3.0, 0, 0), ostium + at(6.0, 0, -1.0), p["maxillary_ostium_radius"]
        )
        d = smooth_max(d, smooth_max(antrum, window, 1.5), 1.2)
        cave = inside_ellipsoid(q, sphenoid, at(9.0, 10.0, 9.5))
        carotid = -inside_capsule(
            q,
            sphenoid + at(8.2, 7.5, -9.0),
            sphenoid + at(8.4, 5.0, 1.0),
            p["carotid_radius"],
        )
        optic = -inside_capsule(
            q, sphenoid + at(9.0, -6.0, 7.8), sphenoid + at(3.5, 9.0, 6.8), p["optic_radius"]
        )
        cave = smooth_min(cave, smooth_min(carotid, optic, 0.8), 1.2)
        d = smooth_max(d, cave, 1.0)
        door = inside_capsule(
            q, hole - at(0, 2.0, 0), hole + at(0, 2.0, 0.2), p["sphenoid_ostium_radius"]
        )
        d = smooth_max(d, door, 0.9)
        return d + bumps(q)

    x_axis, y_axis, z_axis = np.eye(3)
    mid_x = 8.5
    tip_x = (p["middle_turbinate_x"] + p["ethmoid_width"]) / 2 + 0.8
    # Where the tip looks from. A landmark is the first wall behind its target, so that it lies on
    # the side of a rim or a roof that a straight scope sees: what is clicked can be filmed.
    vestibule, meatus = at(6.4, -6.0, 8.0), at(7.4, face - length - 6.0, 20.5)
    cavity, door_view = at(tip_x, face - length * 0.62, 29.0), at(10.4, face - 10.0, 31.2)

    def behind(start: Array, target: Array) -> tuple[Array, Array]:
        return start, target - start

    rm, rs = p["maxillary_ostium_radius"] + 1.2, p["sphenoid_ostium_radius"] + 0.8
    probes: dict[str, tuple[Array, Array]] = {
        "nasal sill": behind(at(6.3, -9.0, 7.5), at(6.3, 1.5, 0.0)),
        "inferior turbinate head": behind(vestibule, at(w - 3.2, 14.0, 9.5)),
        "middle turbinate head": (
            at(p["middle_turbinate_x"], face - length - 5, 23.0),
            y_axis,
        ),
        "septal spur": behind(vestibule, at(0.0, spur_y - 3.0, 5.5)),
        "maxillary ostium anterior": behind(meatus, ostium - (rm + 0.6) * y_axis),
        "maxillary ostium posterior": behind(meatus, ostium + rm * y_axis),
        "maxillary ostium superior": behind(meatus, ostium + rm * z_axis),
        "maxillary ostium inferior": behind(meatus, ostium - (rm - 0.6) * z_axis),
        "ethmoid roof anterior": behind(meatus, at(mid_x, face - length * 0.66, roof)),
        "ethmoid roof posterior": behind(cavity, at(mid_x, face - length * 0.15, roof)),
        "lamina papyracea": behind(meatus, at(p["ethmoid_width"], face - length / 2, 32.0)),
        "sphenoid face": behind(cavity, at(12.5, face, 24.5)),
        "sphenoid ostium medial": behind(door_view, hole - rs * x_axis),
        "sphenoid ostium lateral": behind(door_view, hole + rs * x_axis),
        "sphenoid ostium superior": behind(door_view, hole + rs * z_axis),
        "sphenoid ostium inferior": behind(door_view, hole - rs * z_axis),
        "carotid prominence": behind(door_view, sphenoid + at(6.5, 7.0, -3.0)),
        "optic prominence": behind(door_view, sphenoid + at(4.5, 4.5, 7.2)),
        "optic-carotid recess": behind(door_view, sphenoid + at(6.6, 5.5, 3.0)),
    }
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
    return Draft(
        distance=distance,
        low=at(-4.0, -23.0, -4.0),
        high=at(w + 29.0, face + 26.0, h + 9.0),
        entry=np.array([[6.2, -26.0, 11.0], [6.2, -26.0, 5.0]]),
        waypoints=np.array(
            [
                [6.4, -9.5, 7.0],
                [6.6, 5.0, 10.5],
                [7.2, face - length - 8.0, 20.0],
                [tip_x - 0.5, face - length + 4.0, 27.5],
                [tip_x - 0.3, face - length * 0.58, 31.0],
                [10.3, face - 7.0, 31.5],
            ]
        ),
        rigid=True,
        clearance_mm=3.6,
        probes=probes,
        distances=distances,
        parameters=p,
    )
