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

Array = NDArray[Any]
_STRAY = 8.0  # distance from the other sessions, in robust sigmas, that refuses a click


def with_observers(
    lifted: list[Lifted], normals: Mapping[str, Array]
) -> tuple[list[Lifted], float]:
    """Add to every covariance what sessions differ by along the surface beyond click noise.

    An observer understands a landmark a little differently than the next, and than himself another
    day; within one session that is invisible. Two-way analysis, pooled over landmarks: within plus
    between observers, minus what the clicks explain. normals: landmark -> unit normal (3,).
    Returns the new list and the added standard deviation (the run's unit).
    """
    lifted = _without_strays(lifted)
    good = [x for x in lifted if x.status == "ok" and x.landmark in normals]
    within = between = 0.0
    free_within = free_between = 0
    repeats, explained = [], []
    for name, normal in normals.items():
        along = np.eye(3) - np.outer(normal, normal)
        means = []
        for observer in dict.fromkeys(x.observer for x in good if x.landmark == name):
            mine = [x for x in good if (x.landmark, x.observer) == (name, observer)]
            places = np.array([along @ x.xyz for x in mine])
            within += float(((places - places.mean(0)) ** 2).sum())
            free_within += len(mine) - 1
            means.append(places.mean(0))
            repeats.append(len(mine))
            explained += [
                float(np.trace(along @ (x.covariance - x.shared) @ along)) / 2 for x in mine
            ]
        if means:
            between += float(((np.array(means) - np.mean(means, axis=0)) ** 2).sum())
            free_between += len(means) - 1
    inside = within / (2 * free_within) if free_within else 0.0
    of_means = between / (2 * free_between) if free_between else 0.0
    if not repeats or not (free_within or free_between):
        return lifted, 0.0
    across = max(of_means - inside / float(np.mean(repeats)), 0.0)
    extra = max(inside + across - float(np.mean(explained)), 0.0)
    out = []
    for x in lifted:
        if x.status == "ok" and x.landmark in normals:
            along = np.eye(3) - np.outer(normals[x.landmark], normals[x.landmark])
            x = replace(x, covariance=x.covariance + extra * along)
        out.append(x)
    return out, float(np.sqrt(extra))


def _without_strays(lifted: list[Lifted]) -> list[Lifted]:
    """Sessions that lie far from the other sessions of their landmark are refused, not averaged."""
    middle, count = {}, {}
    for name in {x.landmark for x in lifted}:
        places = [x.xyz for x in lifted if x.landmark == name and x.status == "ok"]
        count[name] = len(places)
        if places:
            middle[name] = np.median(places, axis=0)
    away = {
        k: float(np.linalg.norm(x.xyz - middle[x.landmark]))
        for k, x in enumerate(lifted)
        if x.status == "ok" and count[x.landmark] >= 3
    }
    if len(away) < 6:
        return lifted
    limit = _STRAY * float(np.median(list(away.values()))) / 1.54  # median of a 3D Gaussian
    why = "far from the other clicks on this landmark"
    return [replace(x, status=why) if away.get(k, 0) > limit else x for k, x in enumerate(lifted)]
