"""Our own matcher: a narrow sweep round the field's own depth with NCC windows that follow it.

The kernel of refine.py serves both: there the other eyes are real frames, here the virtual one.
Slanted windows come for free, since a hypothesis is the field's surface moved nearer or farther.
"""

from __future__ import annotations

import numpy as np

from endorecon import refine
from endorecon.config import RefineConfig, StereoConfig
from endorecon.geometry import compose
from endorecon.scene import Camera, Disparity, StereoPair


class SweepMatcher:
    """Seeded by `pair.z_left`; a pixel without a seed within reach has no answer."""

    def __init__(self, config: StereoConfig) -> None:
        self._config = config

    def match(self, pair: StereoPair) -> Disparity:
        """Disparity of the left eye; NaN where flat, occluded, or beyond the band."""
        z = pair.z_left
        h, w = z.shape
        known = np.isfinite(z)
        z0 = refine.condition(z.astype(np.float32), known.astype(np.float32), np.ones_like(known))
        K = pair.K
        camera = Camera(w, h, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        poses = np.stack([np.eye(4), compose(np.eye(3), np.array([pair.baseline, 0, 0]))])
        seen = np.ones((h, w), np.float32)
        grey = np.stack(
            [refine.high_pass(refine.grey(eye) / 255, seen) for eye in (pair.left, pair.right)]
        )
        photos = refine.Photos(camera, grey, np.stack([seen, seen]), poses)
        band = np.full((h, w), self._config.sweep_band, np.float32)
        config = RefineConfig(
            radius=self._config.sweep_radius,
            noise=self._config.sweep_noise,
            smooth_small=self._config.sweep_smooth_small,
            smooth_large=self._config.sweep_smooth_large,
        )
        out = refine.sweep(photos, 0, [1], z0, band, config, self._config.sweep_steps)
        fb = K[0, 0] * pair.baseline
        with np.errstate(invalid="ignore", divide="ignore"):
            d = (fb / out.z).astype(np.float32)
            # curvature of the cost per squared pixel of disparity; its noise is about 0.004
            per_px = out.curvature / d**2
            sigma = np.sqrt(self._config.sigma_px**2 + 0.004 / np.maximum(per_px, 1e-6))
        bad = (
            ~np.isfinite(d)
            | out.edge
            | (out.score < self._config.sweep_score)
            | (per_px < 1e-3)
            | (sigma > 1.0)
        )
        d[bad] = np.nan
        sigma = np.where(bad, np.nan, sigma).astype(np.float32)
        return Disparity(d, sigma)
