"""Depths of different origin put together: fields, their reading in stereo, and several rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.refine.sweep import in_parallel
from endorecon.refine.sweeping import Maps
from endorecon.scene import DepthMap

Array = NDArray[Any]

DISPUTE = 3.0  # spread for each standard deviation that fields of different seeds are apart
SAME_SURFACE = 0.1  # |log ratio| of the depths of two rounds below which they mean one surface


def pooled(before: Maps, fresh: Maps) -> Maps:
    """What two rounds say together: their mean in log z, weights 1 / relative variance.

    A later round begins from a taught field and searches anew: its errors are partly its own. The
    mean of both is better than either (depth MAE 5-7 % below that of round 1), its score in
    held-out frames higher, and rounds after that move it less. Nothing is averaged across two
    surfaces: where the rounds are far apart the surer one stands. Half their distance is part of
    sigma: what a round repeats is not measured twice, and what they dispute is not sure.
    """

    def one(i: int) -> tuple[Array, ...]:
        # Frame by frame: of hundreds of large frames each intermediate array is a gigabyte.
        return _pooled(*(Maps(*m.of(i)) for m in (before, fresh)))

    return Maps(*(np.stack(a) for a in zip(*in_parallel(one, len(fresh.z)), strict=True)))


def _pooled(before: Maps, fresh: Maps) -> tuple[Array, Array, Array]:
    """z, sigma and trust (h, w) float32 of one frame; both maps (h, w)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = before.sigma / before.z, fresh.sigma / fresh.z
        apart = np.log(fresh.z / before.z)
        same = np.abs(apart) < SAME_SURFACE
        mean = before.z * np.exp(apart * a**2 / (a**2 + b**2))
        half = np.where(np.isfinite(apart), 0.5 * np.abs(fresh.z - before.z), 0)
    other = surer(fresh, before)
    sigma = np.hypot(np.where(same, mean * np.sqrt(a * b), other.sigma), half)
    trust = np.where(same, np.fmax(before.trust, fresh.trust), other.trust)
    z = np.where(same, mean, other.z)
    return z.astype(np.float32), sigma.astype(np.float32), trust.astype(np.float32)


def surer(a: Maps, b: Maps) -> Maps:
    """Pixel by pixel the map with the smaller sigma; unknown loses."""
    with np.errstate(invalid="ignore"):
        take = np.isfinite(b.z) & ~(np.isfinite(a.z) & (a.sigma <= b.sigma))
    return Maps(*(np.where(take, y, x) for x, y in zip(_parts(a), _parts(b), strict=True)))


def _parts(maps: Maps) -> tuple[Array, Array, Array]:
    return maps.z, maps.sigma, maps.trust


def field_map(z: Array, spread: Array) -> tuple[Array, Array, Array]:
    """The field's own depth: sigma from the fog along the ray, never below 1 %; middling trust."""
    with np.errstate(invalid="ignore"):
        sigma = np.maximum(0.3 * spread, 0.01 * z)
    return z, sigma, np.where(np.isfinite(z), 0.3, 0.0)


def together(told: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Depth and spread (h, w) that fields of different seeds tell together: the mean in log z.

    Their own disagreement is spread, too. Unknown where one of them does not know.
    """
    logs = np.log([z for z, _ in told])
    z = np.exp(logs.mean(0))
    spread = np.mean([s for _, s in told], axis=0)
    return z, np.hypot(spread, DISPUTE * z * logs.std(0))


def merged(stereo: DepthMap, own: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """The field's own depth and its reading in stereo, weighted by their variances.

    Both come from one field, and their errors are alike (correlation 0.85 on a phantom): that they
    agree makes a depth no surer. Where they contradict each other the field is not consistent with
    itself, and its depth is hardly trusted; where one has no answer the other stands alone.
    """
    z, sigma, trust = own
    known, read = np.isfinite(z), np.isfinite(stereo.z)
    with np.errstate(invalid="ignore", divide="ignore"):
        joint = np.hypot(sigma, stereo.sigma)
        agree = known & read & (np.abs(stereo.z - z) < np.maximum(3 * joint, 0.01 * z))
        a, b = 1 / sigma**2, 1 / stereo.sigma**2
        mean = (a * z + b * stereo.z) / (a + b)
    clash = known & read & ~agree
    wide = np.where(clash, np.abs(stereo.z - z), np.where(known, sigma, stereo.sigma))
    alone = np.where(known, trust, 0.5 * stereo.trust)
    return (
        np.where(agree, mean, np.where(known, z, stereo.z)),
        wide,
        np.where(clash, 0.05, alone),
    )
