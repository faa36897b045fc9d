"""All frames of a round: swept coarse to fine, then held against each other.

A pixel is trusted as far as real frames confirm it: by matching score, by the number of depth maps
of other frames that agree with it, and by none that see through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.refine.certainty import Evidence, first_sigma, relative_sigma
from endorecon.refine.consensus import Consensus, choose_sources, consensus
from endorecon.refine.edges import snap
from endorecon.refine.photos import (
    Photos,
    bilateral_high_pass,
    filtered,
    high_pass,
    pictures,
    prepare,
)
from endorecon.refine.strips import behind
from endorecon.refine.sweep import in_parallel
from endorecon.refine.sweeping import (
    Checked,
    Maps,
    Pass,
    Swept,
    check_all,
    smoothed,
    starts,
    sweep_all,
)
from endorecon.scene import Views

Array = NDArray[Any]


def refine_depths(
    passes: Sequence[Pass],
    neighbours: list[list[int]],
    prior: Maps,
    config: RefineConfig,
    untaught: Maps | None = None,
    seen: bool = False,
) -> tuple[Maps, Evidence]:
    """Sweep every photo in each pass (coarse to fine) round `prior`, then fuse across frames.

    untaught: what the field said before it was taught any depth of this kind (None: `prior`). A
    field that repeats what it was taught confirms nothing: judged by that, sigma shrank from round
    to round while the errors grew. seen: the prior comes from a pass of the same round.

    Where the real frames say nothing, the prior stays, with its own sigma and little trust.
    """
    assert passes
    maps, sources = prior, choose_sources(neighbours, config.sources)
    said = prior if untaught is None else untaught
    for k, one in enumerate(passes):
        photos = one.photos
        maps, evidence = _one_pass(one, neighbours, maps, config, seen=seen or k > 0)
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


def _one_pass(
    one: Pass, neighbours: list[list[int]], prior: Maps, config: RefineConfig, seen: bool
) -> tuple[Maps, Evidence]:
    """One pass; `seen`: the prior comes from real frames already, from a coarser pass."""
    photos = one.photos
    h, w = photos.grey.shape[1:]
    prior = prior.resized(w, h)
    swept = sweep_all(one, neighbours, starts(photos, prior, config), config)
    checked = check_all(photos, neighbours, swept, config)
    judged = _judged(swept, checked, prior, config, seen)
    return _smooth_maps(photos, judged, swept, checked, config)


def _judged(swept: Swept, checked: Checked, prior: Maps, config: RefineConfig, seen: bool) -> Maps:
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
        # A depth that something speaks for is worth more than one that nothing does; one that real
        # frames confirmed in a coarser pass (smooth mucosa) keeps most of its worth.
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
    swept: Swept,
    checked: Checked,
    config: RefineConfig,
) -> tuple[Maps, Evidence]:
    """The maps as smooth surfaces, edges where the picture has them; and the evidence."""

    content = photos.content

    def finish(i: int) -> tuple[Array, ...]:
        found = smoothed(maps, i, content, config)
        z, reach = found.z, max(1, round(config.edge_near * found.z.shape[1]))
        moved = np.zeros(z.shape, bool)
        if photos.colour is not None:
            if config.strip > 0:
                widest = round(config.strip * z.shape[1])
                z, moved = behind(z, photos.colour[i], widest, config.strip_jump)
            near = _depth_step(z, reach) > config.edge_jump
            radius = round(config.edge_window * z.shape[1])
            z = snap(z, photos.colour[i], near, radius, config.edge_likeness)
        step, wide = _depth_step(z, config.radius), _depth_step(z, 2 * reach)
        return z, found.residual, np.sqrt(found.variance), step, wide, moved

    *maps_of, moved = (np.stack(a) for a in zip(*in_parallel(finish, len(maps.z)), strict=True))
    z, residual, support, step, wide = (a.astype(np.float32) for a in maps_of)
    # What was confirmed is no longer what is said of a pixel that was put behind.
    known = np.isfinite(checked.z) & ~moved
    agree, against = (
        np.where(known, a, 0).astype(np.float32) for a in (checked.agree, checked.against)
    )
    nothing = np.zeros_like(swept.score)
    evidence = Evidence(
        np.where(moved, 0, swept.score), agree, against, residual, support, step, wide,
        prior=nothing, spread=nothing, least=nothing, count=nothing,
    )  # fmt: skip
    edge = step > config.edge_step
    # A window that holds two surfaces may answer with the wrong one: half the step is possible.
    sigma = np.where(edge, np.hypot(maps.sigma, 0.25 * np.minimum(step, 1) * z), maps.sigma)
    trust = np.where(edge, 0.4 * maps.trust, maps.trust)
    trust = np.where(moved, np.minimum(trust, 0.3), trust)
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


class Passes:
    """The passes of every round on the photos of a run."""

    def __init__(self, views: Views, config: RefineConfig) -> None:
        """Half the size cost more at occlusion edges, where windows hold two surfaces, than it
        won on smooth walls (depth MAE 8 % on a sinus, 13 % on a colon): only large photos are
        reduced. Poses are settled in `photos`; those that are swept have no halos beside edges."""
        self._views, self._config = views, config
        full = min(config.width, views.camera.width)
        search = min(full, config.search_width)
        large = pictures(views, full, config.rim)
        small = large if search == full else pictures(views, search, config.rim)
        self.photos = filtered(large, high_pass)
        fine = filtered(large, bilateral_high_pass)
        self._swept = (fine if small is large else filtered(small, bilateral_high_pass), fine)

    def move(self, views: Views) -> None:
        """The same pictures at other poses."""
        self._views = views
        self.photos, coarse, fine = (
            replace(p, world_from_camera=views.world_from_camera)
            for p in (self.photos, *self._swept)
        )
        self._swept = (coarse, fine)

    def of_round(self, round_: int) -> list[Pass]:
        """Coarse to fine."""
        c, out = self._config, []
        band = c.band * (1.0 if round_ <= 1 else c.band_later)
        for photos, width in zip(self._swept, (band, band * c.band_second), strict=True):
            steps = max(9, round(c.steps * width / c.band) | 1)
            out.append(Pass(photos, width, steps))
        return out

    def wide(self) -> Pass:
        """The search before round 1: the field is far off in places."""
        c = self._config
        small = prepare(self._views, min(self._swept[0].camera.width, c.wide_width), c.rim)
        return Pass(small, c.wide_band, c.wide_steps)
