"""How sure a refined depth is: a standard deviation from the evidence, calibrated on phantoms.

The relative error that 95 of 100 depths stay below is modelled from the evidence by quantile
regression (Koenker and Bassett 1978) and read as 1.96 standard deviations. Twice: `first_sigma`, a
log-linear sum, weighs the maps when they are brought to one word (consensus.py); `relative_sigma`
judges the outcome, with what the maps said to each other as evidence, too. It is a net of 16 hidden
units: on phantoms that it was not fitted on, the surest 75 % of the depths have an 8 % smaller
error in its order than in the order of a sum, and 94 to 96 of 100 stay below the limit. The
features have no unit and hold for any anatomy. Coefficients: config.CertaintyConfig and
certainty.json, both from benchmarks/calibrate.py.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import CertaintyConfig

Array = NDArray[Any]

FIRST = ("edge", "wide", "support", "residual", "prior", "agree", "against", "score")
AGREED = (*FIRST, "spread", "least", "count")


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
    spread: Array  # what the maps that see the place are apart, relative (consensus.py)
    least: Array  # relative sigma of the surest of them
    count: Array  # of them


def features(e: Evidence) -> dict[str, Array]:
    """The evidence as the models take it, by the names of AGREED."""

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
        "spread": log(e.spread, 3e-4, 0.3),
        "least": log(e.least, 1e-4, 1.0),
        "count": np.minimum(e.count, 16) / 16,
    }


def first_sigma(e: Evidence, config: CertaintyConfig) -> Array:
    """Relative standard deviation of each depth (..., h, w) float32 before the maps are compared.

    Beyond a knee it rises faster: where the evidence is poor, some depths are of another place
    altogether, and a twentieth of such is the whole interval.
    """
    total = np.full(e.score.shape, config.constant, np.float32)
    given = features(e)
    for name in FIRST:
        total += np.float32(getattr(config, name)) * given[name].astype(np.float32)
    total += np.float32(config.bend) * np.maximum(total - np.float32(config.knee), 0)
    return _as_sigma(total)


def relative_sigma(e: Evidence) -> Array:
    """Relative standard deviation of each depth (..., h, w) float32 after they were compared."""
    given = features(e)
    x = np.stack([given[name].ravel() for name in AGREED], 1).astype(np.float32)
    return _as_sigma(net().limit(x)).reshape(e.score.shape)


def _as_sigma(log_limit: Array) -> Array:
    """No depth is less sure than itself."""
    return np.exp(np.minimum(log_limit, np.log(np.float32(1.96)))) / np.float32(1.96)


@dataclass(frozen=True)
class Net:
    """Log of the limit of the relative error: one hidden layer of tanh units over the features."""

    mean: Array  # (k,) of the features it was fitted on
    scale: Array  # (k,)
    hidden: Array  # (k, units)
    hidden_bias: Array  # (units,)
    out: Array  # (units,)
    out_bias: float

    def limit(self, x: Array) -> Array:
        """x: (m, k) float32 in the order of AGREED; (m,) float32."""
        out = np.zeros(len(x), np.float32)
        for k in range(0, len(x), 1 << 14):  # what lies in the caches: 2.5 times as fast
            inner = ((x[k : k + (1 << 14)] - self.mean) / self.scale) @ self.hidden
            inner += self.hidden_bias
            np.tanh(inner, out=inner)
            out[k : k + (1 << 14)] = inner @ self.out
        return out + np.float32(self.out_bias)


@functools.cache
def net() -> Net:
    """The fitted net, certainty.json beside this file."""
    told = json.loads(Path(__file__).with_name("certainty.json").read_text(encoding="utf-8"))
    assert tuple(told["features"]) == AGREED
    parts = ("mean", "scale", "hidden", "hidden_bias", "out")
    arrays = {p: np.array(told[p], np.float32) for p in parts}
    return Net(**arrays, out_bias=float(told["out_bias"]))
