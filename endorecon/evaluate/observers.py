"""What repeats tell: how differently observers understand a landmark, and which click went astray.

Within one session (one observer, one repeat) a misunderstood landmark is invisible: all its frames
agree on the wrong place. Between sessions it shows, and is added to every covariance. Positions
are in the run's space and unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.evaluate.lifting import Lifted
from endorecon.evaluate.statistics import excess_variance

Array = NDArray[Any]
_STRAY = 8.0  # distance from the other sessions, in sigmas, that refuses a click


def with_observers(
    lifted: list[Lifted], normals: Mapping[str, Array]
) -> tuple[list[Lifted], float]:
    """Add to every covariance what sessions differ by along the surface beyond click noise.

    An observer understands a landmark a little differently than the next, and than himself another
    day; within one session that is invisible. Nested two-way analysis over all landmarks: within
    plus between observers, each landmark's known click noise taken out of its own scatter and its
    scatter weighted by how much it can tell, so that a landmark far away, clicked to millimetres,
    does not drown what a near one shows to tenths. normals: landmark -> unit normal (3,).
    Returns the new list and the added standard deviation (the run's unit).
    """
    lifted = _without_strays(lifted)
    inside: list[tuple[float, int, float]] = []  # sum of squares, degrees of freedom, known part
    between: list[tuple[float, int, float, float]] = []  # the same and 1 / repeats
    for name, normal in normals.items():
        along = np.eye(3) - np.outer(normal, normal)
        means, known, shares = [], [], []
        here = [x for x in lifted if x.status == "ok" and x.landmark == name]
        for observer in dict.fromkeys(x.observer for x in here):
            mine = [x for x in here if x.observer == observer]
            places = np.array([along @ x.xyz for x in mine])
            clicks = np.mean([np.trace(along @ (x.covariance - x.shared) @ along) for x in mine])
            means.append(places.mean(0))
            known.append(float(clicks) / 2 / len(mine))
            shares.append(1.0 / len(mine))
            if len(mine) > 1:
                scatter = float(((places - means[-1]) ** 2).sum())
                inside.append((scatter, 2 * (len(mine) - 1), float(clicks) / 2))
        if len(means) > 1:
            scatter = float(((np.array(means) - np.mean(means, axis=0)) ** 2).sum())
            free = 2 * (len(means) - 1)
            between.append((scatter, free, float(np.mean(known)), float(np.mean(shares))))
    within = _beyond([(s, f, k) for s, f, k in inside])
    across = _beyond([(s, f, k + within * share) for s, f, k, share in between])
    extra = within + across
    out = []
    for x in lifted:
        if x.status == "ok" and x.landmark in normals:
            along = np.eye(3) - np.outer(normals[x.landmark], normals[x.landmark])
            x = replace(x, covariance=x.covariance + extra * along)
        out.append(x)
    return out, float(np.sqrt(extra))


def _beyond(cells: list[tuple[float, int, float]]) -> float:
    squares, free, known = np.array(cells, float).reshape(-1, 3).T
    return excess_variance(squares, free, known)


def _without_strays(lifted: list[Lifted]) -> list[Lifted]:
    """Sessions that lie far from the other sessions of their landmark are refused, not averaged.

    Far: in units of the session's own click noise and of the usual scatter of all landmarks.
    """
    middle, count = {}, {}
    for name in {x.landmark for x in lifted}:
        places = [x.xyz for x in lifted if x.landmark == name and x.status == "ok"]
        count[name] = len(places)
        if places:
            middle[name] = np.median(places, axis=0)
    away = {
        k: x.xyz - middle[x.landmark]
        for k, x in enumerate(lifted)
        if x.status == "ok" and count[x.landmark] >= 3
    }
    if len(away) < 6:
        return lifted
    distance = {k: float(np.linalg.norm(v)) for k, v in away.items()}
    usual = float(np.median(list(distance.values()))) / 1.54  # median of a 3D Gaussian
    far = set()
    for k, v in away.items():
        if distance[k] > 0:
            u = v / distance[k]
            own = float(u @ (lifted[k].covariance - lifted[k].shared) @ u)
            if distance[k] > _STRAY * np.sqrt(usual**2 + own):
                far.add(k)
    why = "far from the other clicks on this landmark"
    return [replace(x, status=why) if k in far else x for k, x in enumerate(lifted)]
