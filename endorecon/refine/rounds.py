"""All frames of a round: swept coarse to fine, then held against each other.

A pixel is trusted as far as real frames confirm it: by matching score, by the number of depth maps
of other frames that agree with it, and by none that see through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.refine.certainty import Evidence, first_sigma, relative_sigma
from endorecon.refine.consensus import Consensus, choose_sources, consensus
from endorecon.refine.edges import snap
from endorecon.refine.photos import Photos, linked
from endorecon.refine.prior import condition
from endorecon.refine.smooth import Smoothed, smooth
from endorecon.refine.sweep import fuse, in_parallel, sweep
from endorecon.scene import Camera

Array = NDArray[Any]


@dataclass(frozen=True)
class Maps:
    """Depth maps of all photos: z, sigma, trust (n, h, w) float32; z NaN = unknown."""

    z: Array
    sigma: Array
    trust: Array

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


def refine_depths(
    levels: Sequence[Photos],
    neighbours: list[list[int]],
    prior: Maps,
    bands: Sequence[float],
    config: RefineConfig,
    untaught: Maps | None = None,
) -> tuple[Maps, Evidence]:
    """Sweep every photo at each level (coarse to fine) round `prior`, then fuse across frames.

    untaught: what the field said before it was taught any depth of this kind (None: `prior`). A
    field that repeats what it was taught confirms nothing: judged by that, sigma shrank from round
    to round while the errors grew.

    bands: half width of the search at each level, as a share of depth. Where the real frames say
    nothing, the prior stays, with its own sigma and little trust.
    """
    assert len(levels) == len(bands) > 0
    maps, sources = prior, choose_sources(neighbours, config.sources)
    said = prior if untaught is None else untaught
    for k, (photos, band) in enumerate(zip(levels, bands, strict=True)):
        maps, evidence = _one_level(photos, neighbours, maps, band, config, seen=k > 0)
        h, w = maps.z.shape[1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            away = np.abs(np.log(maps.z / said.resized(w, h).z)).astype(np.float32)
        evidence = replace(evidence, prior=away)
        first = _sigma(maps.z, evidence, lambda e: first_sigma(e, config.certainty))
        said_by_all = consensus(photos, sources, maps.z, first, config.machine)
        evidence = _with_consensus(evidence, said_by_all)
        maps = Maps(said_by_all.z, _sigma(said_by_all.z, evidence, relative_sigma), maps.trust)
    return maps, evidence


def _with_consensus(evidence: Evidence, found: Consensus) -> Evidence:
    with np.errstate(invalid="ignore", divide="ignore"):
        spread, least = found.spread / found.z, found.least / found.z
    return replace(evidence, spread=spread, least=least, count=found.count)


def _sigma(z: Array, evidence: Evidence, relative: Callable[[Evidence], Array]) -> Array:
    """Standard deviation of each depth (n, h, w), in the unit of z, by a model of certainty.py."""

    def one(i: int) -> Array:
        mine = Evidence(*(getattr(evidence, f.name)[i] for f in fields(evidence)))
        return np.asarray(z[i] * relative(mine), np.float32)

    return np.stack(in_parallel(one, len(z)))


def _smoothed(maps: Maps, i: int, content: Array, config: RefineConfig) -> Smoothed:
    """Map i as a smooth surface; sure depths count most, edges stay."""
    z, sigma, trust = maps.z[i], maps.sigma[i], maps.trust[i]
    start = condition(z, trust, content, config.usable_trust)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(trust > 0, np.maximum(sigma / z, config.smooth_sigma_least), np.nan)
    pixels = config.smooth * z.shape[1]
    return smooth(z, relative, start, pixels, config.smooth_tolerance, config.machine)


def _one_level(
    photos: Photos,
    neighbours: list[list[int]],
    prior: Maps,
    band: float,
    config: RefineConfig,
    seen: bool,
) -> tuple[Maps, Evidence]:
    """One level; `seen`: the prior comes from real frames already, at a coarser level."""
    h, w = photos.grey.shape[1:]
    prior = prior.resized(w, h)
    # A highlight hides a pixel in one frame; its window still tells where the surface is.
    content: Array = np.any(photos.weight > 0, axis=0)
    swept = _swept(photos, neighbours, prior, band, content, config)
    checked = _checked(photos, neighbours, swept, config)
    judged = _judged(swept, checked, prior, config, seen)
    return _smooth_maps(photos, judged, swept, checked, content, config)


@dataclass(frozen=True)
class _Swept:
    """What the frames say, each by itself, all (n, h, w) float32; z and sigma NaN = no answer."""

    z: Array
    sigma: Array
    score: Array
    start: Array  # the smooth prior that was swept


@dataclass(frozen=True)
class _Checked:
    """The maps held against each other, all (n, h, w) float32."""

    z: Array  # averaged with the maps that agree
    spread: Array
    sigma: Array  # of the average, were the maps independent
    agree: Array
    against: Array


def _swept(
    photos: Photos,
    neighbours: list[list[int]],
    prior: Maps,
    band: float,
    content: Array,
    config: RefineConfig,
) -> _Swept:
    """Every photo swept round its smoothed prior."""
    n, h, w = photos.grey.shape
    steps = max(9, round(config.steps * min(1.0, band / config.band)) | 1)

    def one(i: int) -> tuple[Array, ...]:
        z0 = _smoothed(prior, i, content, config).z
        found = sweep(photos, i, neighbours[i], z0, np.full((h, w), band), config, steps)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.sqrt(config.cost_noise / np.maximum(found.curvature, 1e-9))
            sigma = found.z * np.sqrt(relative**2 + config.sigma_floor**2)
        bad = ~np.isfinite(found.z) | found.edge | (found.score < config.min_score)
        bad |= (found.support < 1) | (relative > band)
        return (
            np.where(bad, np.nan, found.z).astype(np.float32),
            np.where(bad, np.nan, sigma).astype(np.float32),
            np.where(bad, 0, found.score).astype(np.float32),
            z0,
        )

    return _Swept(*(np.stack(a) for a in zip(*in_parallel(one, n), strict=True)))


def _checked(
    photos: Photos, neighbours: list[list[int]], swept: _Swept, config: RefineConfig
) -> _Checked:
    """Every map averaged with those of other frames that agree."""
    others = [mine[: config.checkers] for mine in linked(neighbours)]

    def check(i: int) -> tuple[Array, ...]:
        return fuse(photos, i, others[i], swept.z, swept.sigma, config.agree)

    parts = in_parallel(check, len(swept.z))
    return _Checked(*(np.stack(a) for a in zip(*parts, strict=True)))


def _judged(
    swept: _Swept, checked: _Checked, prior: Maps, config: RefineConfig, seen: bool
) -> Maps:
    """Confirmed depths with their sigma and trust; elsewhere the prior stays, hardly trusted."""
    agree, against, start = checked.agree, checked.against, swept.start
    confirmed = np.isfinite(checked.z) & (agree >= 1) & (agree > against)
    # Averaged maps share frames and poses: the mean is not sqrt(n) better than the scatter says.
    effective = np.minimum(agree + 1, config.independent)
    with np.errstate(invalid="ignore"):
        fused_sigma = np.sqrt(
            (checked.sigma**2 * (agree + 1) + checked.spread**2) / effective
            + (config.sigma_floor * checked.z) ** 2
        )
    trust = np.clip(agree / 3, 0, 1) * np.clip((swept.score - 0.3) / 0.5, 0.1, 1)
    trust = trust * (agree / np.maximum(agree + 2 * against, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A depth that the virtual pair confirms at least is worth more than one that nothing does;
        # one that real frames confirmed at a coarser level (smooth mucosa) keeps most of its worth.
        lone = 0.0 if seen else config.unconfirmed * (1.5 - prior.trust)
        lone_sigma = np.maximum(prior.sigma / prior.z, lone) * start
        lone_sigma = np.where(np.isfinite(lone_sigma), lone_sigma, config.unconfirmed * start)
        lone_trust = np.maximum((0.7 if seen else 0.2) * prior.trust, 0.02)
    return Maps(
        np.where(confirmed, checked.z, start).astype(np.float32),
        np.where(confirmed, fused_sigma, lone_sigma).astype(np.float32),
        np.where(confirmed, trust, np.where(np.isfinite(start), lone_trust, 0)).astype(np.float32),
    )


def _smooth_maps(
    photos: Photos,
    maps: Maps,
    swept: _Swept,
    checked: _Checked,
    content: Array,
    config: RefineConfig,
) -> tuple[Maps, Evidence]:
    """The maps as smooth surfaces, edges where the picture has them; and the evidence."""

    def finish(i: int) -> tuple[Array, ...]:
        found = _smoothed(maps, i, content, config)
        z, reach = found.z, max(1, round(config.edge_near * found.z.shape[1]))
        if photos.colour is not None:
            near = _depth_step(z, reach) > config.edge_jump
            radius = round(config.edge_window * z.shape[1])
            z = snap(z, photos.colour[i], near, radius, config.edge_likeness)
        step, wide = _depth_step(z, config.radius), _depth_step(z, 2 * reach)
        return z, found.residual, np.sqrt(found.variance), step, wide

    z, residual, support, step, wide = (
        np.stack(a).astype(np.float32) for a in zip(*in_parallel(finish, len(maps.z)), strict=True)
    )
    known = np.isfinite(checked.z)
    agree, against = (
        np.where(known, a, 0).astype(np.float32) for a in (checked.agree, checked.against)
    )
    nothing = np.zeros_like(swept.score)
    evidence = Evidence(
        swept.score, agree, against, residual, support, step, wide,
        prior=nothing, spread=nothing, least=nothing, count=nothing,
    )  # fmt: skip
    edge = step > config.edge_step
    # A window that holds two surfaces may answer with the wrong one: half the step is possible.
    sigma = np.where(edge, np.hypot(maps.sigma, 0.25 * np.minimum(step, 1) * z), maps.sigma)
    trust = np.where(edge, 0.4 * maps.trust, maps.trust)
    trust = np.where(np.isfinite(z), trust, 0)
    return Maps(z, sigma.astype(np.float32), trust.astype(np.float32)), evidence


def _depth_step(z: Array, radius: int) -> Array:
    """How far z bends, relative to z, over a window of half width `radius`; (h, w), unknown = 0.

    The largest |log z(p + r) + log z(p - r) - 2 log z(p)| of four directions: a slanted plane
    hardly bends, a step between two surfaces does; spread to the pixels whose window holds it.
    """
    import cv2

    with np.errstate(invalid="ignore", divide="ignore"):
        logz = np.log(z)
    h, w = z.shape
    r = radius
    padded = np.pad(logz, r, mode="edge")
    bend = np.zeros((h, w), np.float32)
    for dx, dy in ((r, 0), (0, r), (r, r), (r, -r)):
        a = padded[r + dy : r + dy + h, r + dx : r + dx + w]
        b = padded[r - dy : r - dy + h, r - dx : r - dx + w]
        bend = np.maximum(bend, np.nan_to_num(np.abs(a + b - 2 * logz)))
    return np.expm1(np.minimum(cv2.dilate(bend, np.ones((r, r), np.uint8)), 3.0))


def level_widths(camera: Camera, config: RefineConfig) -> list[int]:
    """Widths of the photos of the two passes of a round, the wider search first.

    Half the size cost more at occlusion edges, where windows hold two surfaces, than it won on
    smooth walls (depth MAE 8 % on a sinus, 13 % on a colon): only large photos are reduced.
    """
    full = min(config.width, camera.width)
    return [min(full, config.search_width), full]
