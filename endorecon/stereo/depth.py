"""Disparity -> depth: z = f B / d with a standard deviation, back in the real view's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import StereoConfig
from endorecon.scene import Camera, DepthMap, Disparity, StereoPair
from endorecon.stereo.rig import Eye

Array = NDArray[Any]


def to_depth(pair: StereoPair, disparity: Disparity, config: StereoConfig) -> tuple[Array, Array]:
    """z and sigma (h, w) of the left eye; NaN where unknown or outside the trusted baselines.

    dz = z^2 dd / (f B) (anchors.md): far surfaces get wide intervals by themselves.
    """
    fb = float(pair.K[0, 0]) * pair.baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        z = fb / disparity.d
        sigma = z * z * disparity.sigma / fb
        n = z / pair.baseline
        ok = np.isfinite(z) & (n >= config.nearest_baselines) & (n <= config.farthest_baselines)
    return (
        np.where(ok, z, np.nan).astype(np.float32),
        np.where(ok, sigma, np.nan).astype(np.float32),
    )


def unroll(eye: Eye, values: list[Array], camera: Camera) -> list[Array]:
    """Maps (h, w) of a rolled eye in the pixels of the unrolled `camera`; NaN stays NaN.

    Depth-like maps are interpolated linearly and only between known neighbours.
    """
    import cv2

    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    c, s = np.cos(eye.roll), np.sin(eye.roll)
    f = eye.camera.fx
    # cv2 has its first pixel centre at (0, 0)
    map_x = (f * (c * x + s * y) + eye.camera.cx - 0.5).astype(np.float32)
    map_y = (f * (-s * x + c * y) + eye.camera.cy - 0.5).astype(np.float32)
    outside = float("nan")
    return [
        cv2.remap(a, map_x, map_y, cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, outside)
        for a in values
    ]


def combine(
    maps: list[tuple[Array, Array]], camera: Camera, pose: Array, frame_index: int
) -> DepthMap:
    """One depth map of several (z, sigma): inverse-variance mean of those that agree.

    Trust is 1 for a pixel that two pairs confirm, 1/2 for one that a single pair saw (it may be an
    occlusion of the other), 0 where they contradict each other.
    """
    Z = np.stack([m[0] for m in maps]).astype(np.float64)
    S = np.stack([m[1] for m in maps]).astype(np.float64)
    known = np.isfinite(Z) & np.isfinite(S) & (S > 0)
    W = np.where(known, 1 / np.where(known, S, 1.0) ** 2, 0)
    total = W.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (W * np.where(known, Z, 0)).sum(0) / total
        gap = np.where(known, np.abs(Z - z), 0)
        clash = (gap > np.maximum(3 * np.where(known, S, 0), 0.02 * z)).any(0)
        spread = np.sqrt((W * gap**2).sum(0) / total)
        sigma = np.sqrt(1 / total + spread**2)
    ok = known.any(0) & ~clash
    trust = np.where(known.sum(0) >= 2, 1.0, 0.5) * ok
    return DepthMap(
        np.where(ok, z, np.nan).astype(np.float32),
        np.where(ok, sigma, np.nan).astype(np.float32),
        trust.astype(np.float32),
        camera.K,
        pose,
        frame_index,
    )
