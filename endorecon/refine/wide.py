"""A prior that is far off in places, put right by a wide search before the narrow ones.

The field of round 0 can be a third too deep on a near wall that few frames see, farther off than a
narrow search reaches. A wide search alone is no remedy: on a wall with a regular pattern it finds
its period, and other frames agree. What tells them apart is company: where the prior is wrong it is
wrong all over a region, and a narrow search round it finds nothing there; false answers lie
scattered among pixels at which the narrow search is content.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.refine.sweeping import Maps, Pass, check_all, starts, sweep_all

Array = NDArray[Any]

AGREE = 2  # maps of other frames that must agree with an answer, more than twice those against
AWAY = 0.06  # an answer nearer to the prior (log ratio) is left to the narrow search
BETTER = 0.1  # NCC by which it must beat the best answer near the prior
REACH = 1 / 32  # half width of a pixel's company, share of the width
COMPANY = 0.3  # share of the answers round it that must be away from the prior, too
SIGMA, TRUST = 0.02, 0.5  # of a corrected depth (relative), in the smoothing before the next sweep


def corrected(one: Pass, neighbours: list[list[int]], prior: Maps, config: RefineConfig) -> Maps:
    """The prior with regions in which a wide search (`one`) contradicts it put right.

    Pixels of such a region without an answer of their own become unknown.
    """
    photos = one.photos
    h, w = photos.grey.shape[1:]
    small = prior.resized(w, h)
    start = starts(photos, small, config)
    narrow = Pass(photos, config.band, max(9, round(config.steps / 2) | 1))
    held = replace(
        config,
        smooth_small=config.wide_smooth_small,
        smooth_large=config.wide_smooth_large,
        min_score=config.wide_score,
        min_views=config.wide_views,
    )
    wide, near = (sweep_all(p, neighbours, start, held) for p in (one, narrow))
    found = check_all(photos, neighbours, wide, config)
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs(np.log(found.z / start)) > AWAY
    sure = away & (found.agree >= AGREE) & (found.agree > 2 * found.against)
    sure &= wide.score > near.score + BETTER
    kept = np.isfinite(near.z)
    region = np.stack([_region(a, b) for a, b in zip(sure, kept, strict=True)])
    take, doubt = sure & region, region & ~sure & ~kept
    with np.errstate(invalid="ignore"):
        fixed = Maps(
            np.where(take, found.z, np.where(doubt, np.nan, small.z)).astype(np.float32),
            np.where(take, SIGMA * found.z, small.sigma).astype(np.float32),
            np.where(take, TRUST, np.where(doubt, 0, np.nan)).astype(np.float32),
        ).resized(prior.z.shape[2], prior.z.shape[1])
    changed = np.isfinite(fixed.trust)
    return Maps(
        np.where(changed, fixed.z, prior.z),
        np.where(changed, fixed.sigma, prior.sigma),
        np.where(changed, fixed.trust, prior.trust),
    )


def _region(sure: Array, kept: Array) -> Array:
    """(h, w) bool: where most answers are away from the prior."""
    import cv2

    size = 2 * max(1, round(REACH * sure.shape[1])) + 1
    there, here = (
        cv2.blur(a.astype(np.float32), (size, size), borderType=cv2.BORDER_CONSTANT)
        for a in (sure, kept)
    )
    return np.asarray(there > COMPANY * np.maximum(there + here, 1e-6))
