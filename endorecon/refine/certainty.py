"""How sure a refined depth is: a standard deviation from the evidence, calibrated on phantoms.

The relative error that 95 of 100 depths stay below is modelled log-linear in the evidence (quantile
regression, Koenker and Bassett 1978) and read as 1.96 standard deviations. Beyond a knee it rises
faster: where the evidence is poor, some depths are of another place altogether, and a twentieth of
such is the whole interval. The features have no
unit and hold for any anatomy: fitted on the sinus family the model orders the colon family as well
as one fitted there. Coefficients: config.CertaintyConfig, from benchmarks/calibrate.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import CertaintyConfig

Array = NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against each depth of a map, all (n, h, w) float32."""

    score: Array  # mean NCC of the frames that agree, 0 = no answer
    agree: Array  # maps of other frames that agree
    against: Array  # maps that see through the point
    residual: Array  # scatter of the depths round the smooth surface, relative
    support: Array  # relative sigma of the smooth surface, were the depths independent
    edge: Array  # relative step of depth within the matching window
    wide: Array  # the same within twice the reach of an edge (RefineConfig.edge_near)
    prior: Array  # relative distance from what the field and the virtual pair said


def features(e: Evidence) -> dict[str, Array]:
    """The evidence as the model takes it, by the names of CertaintyConfig."""

    def log(a: Array, low: float, high: float) -> Array:
        return np.log(np.clip(np.nan_to_num(a, nan=high, posinf=high), low, high))

    return {
        "edge": log(e.edge, 3e-3, 1.0),
        "wide": log(e.wide, 3e-3, 1.0),
        "support": log(e.support, 1e-5, 0.1),
        "residual": log(e.residual, 3e-4, 0.1),
        "prior": log(e.prior, 1e-3, 1.0),
        "agree": np.minimum(e.agree, 8) / 8,
        "against": e.against / (e.agree + e.against + 1),
        "score": e.score,
    }


def relative_sigma(e: Evidence, config: CertaintyConfig) -> Array:
    """One relative standard deviation of each depth, (n, h, w) float32."""
    total = np.full(e.score.shape, config.constant, np.float32)
    for name, value in features(e).items():
        total += np.float32(getattr(config, name)) * value.astype(np.float32)
    return np.exp(bent(total, config.knee, config.bend)) / np.float32(1.96)


def bent(total: Array, knee: float, bend: float) -> Array:
    """Log of the limit from the sum over the evidence; no depth is less sure than itself."""
    return np.minimum(total + bend * np.maximum(total - knee, 0.0), np.log(1.96)).astype(np.float32)
