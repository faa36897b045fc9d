"""The colon family: a bending lumen with haustral folds and polyps.

Local frame, mm: y along the lumen from the near end, x and z across. The lumen is a radius profile
about a centreline, slightly triangular as a transverse colon is; folds are thin ridges that leave
gaps; polyps are sessile balls on the wall.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.phantom.anatomy import Draft
from endorecon.phantom.implicit import smooth_min
from endorecon.phantom.noise import unevenness

Array = NDArray[Any]


def draft_colon(rng: np.random.Generator, asymmetry: float, roughness: float) -> Draft:
    """A piece of colon; asymmetry scales how far it departs from the mean."""

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
            (y, vary(1.0, 0.3) * p["fold_height"], vary(0, np.pi), vary(3.7, 0.5), vary(0, 4.0))
        )
        y += p["fold_spacing"] * vary(1.0, 0.2)
    polyps = []
    # Polyps lie between folds, from the second fold on, where a tip on its way in sees them.
    crests = [fold[0] for fold in folds]
    for k in range(min(4, len(folds) - 2)):
        yk = 0.5 * (crests[k + 1] + crests[k + 2]) + vary(0, 2.0)
        phi = vary(0, np.pi)
        radius = vary(3.2, 1.2)
        polyps.append((yk, phi, radius))
    bumps = unevenness(rng, 0.8 * roughness)

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

    # A landmark is the first wall that a tip on the centreline sees in its direction.
    def seen_from(y: float, target: Array) -> tuple[Array, Array]:
        start = centre(np.array([y]))[0]
        return start, target - start

    probes: dict[str, tuple[Array, Array]] = {}
    for k, (at, radius) in enumerate(balls):
        axis = np.array([0.0, 1.0, 0.0])
        out = at - centre(at[None, 1])[0]
        across = np.cross(out / np.linalg.norm(out), axis)
        view = float(at[1]) - 14.0
        probes[f"polyp {k + 1} apex"] = seen_from(view, at - 0.2 * out)
        probes[f"polyp {k + 1} base left"] = seen_from(view, at + 1.35 * radius * across)
        probes[f"polyp {k + 1} base right"] = seen_from(view, at - 1.35 * radius * across)
    for k, (at_y, _h, turn, _w, skew) in enumerate(folds[1:]):
        crest = wall_point(at_y + skew, turn)
        probes[f"fold {k + 1} crest"] = seen_from(at_y + skew - 10.0, crest)
    distances = tuple(
        (f"polyp {k + 1} width", f"polyp {k + 1} base left", f"polyp {k + 1} base right")
        for k in range(len(balls))
    ) + tuple(
        (f"fold {k + 1} to fold {k + 2}", f"fold {k + 1} crest", f"fold {k + 2} crest")
        for k in range(len(folds) - 2)
    )
    pad = p["radius"] * 1.2 + 6.0
    xs, zs = abs(p["bend_x"]) + pad, abs(p["bend_z"]) + pad
    # The tip winds along the wall, not down the middle: near walls are bright, the lumen is dark.
    along = np.array([12.0, 26.0, 40.0, 54.0, 68.0])
    winding = vary(0, np.pi) + along / 18.0
    ways = centre(along) + 6.0 * np.stack([np.cos(winding), 0 * winding, np.sin(winding)], -1)
    return Draft(
        distance=distance,
        low=np.array([-xs, -6.0, -zs]),
        high=np.array([xs, length + 6.0, zs]),
        entry=centre(np.array([4.0])),
        waypoints=ways,
        rigid=False,
        probes=probes,
        distances=distances,
        parameters=p,
    )
