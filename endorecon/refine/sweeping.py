"""All frames swept, and their maps held against each other: what the passes of a round share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.refine.neighbours import linked
from endorecon.refine.photos import Photos
from endorecon.refine.prior import condition
from endorecon.refine.smooth import Smoothed, smooth
from endorecon.refine.sweep import fuse, in_parallel, sweep

Array = NDArray[Any]


@dataclass(frozen=True)
class Maps:
    """Depth maps of all photos: z, sigma, trust (n, h, w) float32; z NaN = unknown."""

    z: Array
    sigma: Array
    trust: Array

    def of(self, i: int) -> tuple[Array, Array, Array]:
        """z, sigma and trust (h, w) of one photo."""
        return self.z[i], self.sigma[i], self.trust[i]

    def resized(self, width: int, height: int) -> Maps:
        """The maps at another size; no depth is mixed across an edge or with an unknown one."""
        if self.z.shape[1:] == (height, width):
            return self
        parts = [
            _resize(z, s, t, width, height)
            for z, s, t in zip(self.z, self.sigma, self.trust, strict=True)
        ]
        return Maps(*(np.stack(a) for a in zip(*parts, strict=True)))


def _resize(z: Array, sigma: Array, trust: Array, width: int, height: int) -> tuple[Array, ...]:
    """One map at another size: bilinear on inverse depth (linear on planes) where the four
    neighbours are alike, else the nearest; sigma and trust from the nearest."""
    import cv2

    h, w = z.shape
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    # cv2 has its first pixel centre at (0, 0)
    x = (u * w / width - 0.5).astype(np.float32)
    y = (v * h / height - 0.5).astype(np.float32)

    def nearest(a: Array) -> Array:
        return cv2.remap(a, x, y, cv2.INTER_NEAREST, None, cv2.BORDER_REPLICATE)

    known = np.isfinite(z) & (z > 0)
    inverse = np.where(known, 1 / np.where(known, z, 1), 0).astype(np.float32)
    linear = cv2.remap(inverse, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    square = np.ones((2, 2), np.uint8)
    near = nearest(z)
    with np.errstate(invalid="ignore", divide="ignore"):
        high, low = cv2.dilate(inverse, square), cv2.erode(inverse, square)
        smooth = nearest(((low > 0) & (high < 1.04 * low)).astype(np.float32)) > 0
        out = np.where(smooth & (np.abs(near * linear - 1) < 0.03), 1 / linear, near)
    return out.astype(np.float32), nearest(sigma), nearest(trust)


@dataclass(frozen=True)
class Pass:
    """One sweep of a round: photos of a size, searched within `band` (a share of depth)."""

    photos: Photos
    band: float
    steps: int  # hypotheses in the band, odd


def smoothed(maps: Maps, i: int, content: Array, config: RefineConfig) -> Smoothed:
    """Map i as a smooth surface; sure depths count most, edges stay."""
    z, sigma, trust = maps.z[i], maps.sigma[i], maps.trust[i]
    start = condition(z, trust, content, config.usable_trust)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(trust > 0, np.maximum(sigma / z, config.smooth_sigma_least), np.nan)
    pixels = config.smooth * z.shape[1]
    return smooth(z, relative, start, pixels, config.smooth_tolerance, config.machine)


@dataclass(frozen=True)
class Swept:
    """What the frames say, each by itself, all (n, h, w) float32; z and sigma NaN = no answer."""

    z: Array
    sigma: Array
    score: Array
    start: Array  # the smooth prior that was swept


@dataclass(frozen=True)
class Checked:
    """The maps held against each other, all (n, h, w) float32."""

    z: Array  # averaged with the maps that agree
    spread: Array
    sigma: Array  # of the average, were the maps independent
    agree: Array
    against: Array


def starts(photos: Photos, prior: Maps, config: RefineConfig) -> Array:
    """The smooth depths (n, h, w) that the sweeps go round; prior at the photos' size."""
    content = photos.content
    return np.stack(in_parallel(lambda i: smoothed(prior, i, content, config).z, len(prior.z)))


def sweep_all(one: Pass, neighbours: list[list[int]], start: Array, config: RefineConfig) -> Swept:
    """Every photo swept round `start` (n, h, w)."""
    photos, band = one.photos, one.band
    n, h, w = photos.grey.shape

    def of(i: int) -> tuple[Array, ...]:
        search = np.full((h, w), band)
        found = sweep(photos, i, neighbours[i], start[i], search, config, one.steps)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.sqrt(config.cost_noise / np.maximum(found.curvature, 1e-9))
            sigma = found.z * np.sqrt(relative**2 + config.sigma_floor**2)
        bad = ~np.isfinite(found.z) | found.edge | (found.score < config.min_score)
        bad |= (found.support < config.min_views) | (relative > band)
        return (
            np.where(bad, np.nan, found.z).astype(np.float32),
            np.where(bad, np.nan, sigma).astype(np.float32),
            np.where(bad, 0, found.score).astype(np.float32),
        )

    z, sigma, score = (np.stack(a) for a in zip(*in_parallel(of, n), strict=True))
    return Swept(z, sigma, score, start)


def check_all(
    photos: Photos, neighbours: list[list[int]], swept: Swept, config: RefineConfig
) -> Checked:
    """Every map averaged with those of other frames that agree."""
    others = [mine[: config.checkers] for mine in linked(neighbours)]

    def check(i: int) -> tuple[Array, ...]:
        return fuse(photos, i, others[i], swept.z, swept.sigma, config.agree)

    parts = in_parallel(check, len(swept.z))
    return Checked(*(np.stack(a) for a in zip(*parts, strict=True)))
