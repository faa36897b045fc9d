"""Procedural anatomy: one seed, one implicit cavity, its landmarks and its clinical distances.

Conventions: LPS millimetres (x to the patient's left, y posterior, z superior); distance positive
in air (see implicit.py). A family (sinus.py, colon.py) drafts a cavity in its own frame; here it
is put into a patient: scaled, mirrored to the right or left side, and moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.phantom.implicit import Distance, march

Array = NDArray[Any]


@dataclass(frozen=True)
class Route:
    """Where the endoscope goes, LPS mm. A rigid shaft turns about `entry`; a flexible one bends."""

    entry: Array  # (n, 3) where the shaft passes, with a shallow tip and with a deep one
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


@dataclass(frozen=True)
class Draft:
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
    clearance_mm: float | None = None  # in a narrow place: overrides the config's


def make_anatomy(
    family: str, seed: int, size: float = 1.0, asymmetry: float = 1.0, roughness: float = 1.0
) -> Anatomy:
    """The anatomy of a seed; same arguments, same anatomy.

    size: factor on all lengths; asymmetry: how far individuals differ from the mean (0 = the mean
    itself); roughness: factor on the unevenness of the wall. Raises ValueError on a family it does
    not know.
    """
    from endorecon.phantom.colon import draft_colon
    from endorecon.phantom.sinus import draft_sinus

    families: dict[str, Callable[[np.random.Generator, float, float], Draft]] = {
        "sinus": draft_sinus,
        "colon": draft_colon,
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
            place(draft.entry),
            place(draft.waypoints),
            draft.rigid,
            np.array([0.0, 0.0, 1.0]),
            draft.clearance_mm,
        ),
        landmarks=landmarks,
        distances=draft.distances,
        parameters=parameters | draft.parameters,
    )
