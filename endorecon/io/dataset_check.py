"""Do the poses, depths and lens of a data set belong together? One frame's depth seen by another.

The depth of frame a, moved by the poses into frame b, must be what b's own depth says there. With
inverse poses, transposed matrices or a wrong depth scale it is not, and the other reading fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.io.calibration import distort_pixels, pinhole_for, undistort_pixels
from endorecon.io.datasets import Dataset, truth_of
from endorecon.scene import Camera

SCALES = (1e-3, 1.0 / 256.0, 0.01, 0.1, 10.0, 100.0, 256.0, 1e3)
SOUND = 0.02  # relative disagreement that sound data stays below


def check_geometry(found: Dataset, pairs: int = 3, step: int = 5) -> float | None:
    """The median relative disagreement of depths, or None when there is nothing to compare.

    Raises InputRefused when another reading (inverse poses, another scale) fits clearly better.
    """
    truth = truth_of(found)
    if truth is None or found.camera is None or found.poses is None or len(found) < 2:
        return None
    step = min(step, len(found) - 1)
    starts = np.unique(np.linspace(0, len(found) - 1 - step, pairs).astype(int))
    depths = [(truth.depth(int(a)), truth.depth(int(a) + step), int(a)) for a in starts]

    def miss(poses: NDArray[np.float64], scale: float) -> float:
        each = [
            _disagreement(scale * za, va, scale * zb, vb, poses[a], poses[a + step], lens)
            for (za, va), (zb, vb), a in depths
        ]
        good = [x for x in each if np.isfinite(x)]
        return float(np.median(good)) if good else float("inf")

    lens = found.camera
    given = miss(found.poses, 1.0)
    if given < SOUND:
        return given
    inverse = miss(np.linalg.inv(found.poses), 1.0)
    if inverse < SOUND and inverse < 0.3 * given:
        raise InputRefused(
            "the poses of this data set are the other way round (camera from world)",
            "invert them", found.folder,
        )  # fmt: skip
    other = {s: miss(found.poses, s) for s in SCALES}
    best = min(other, key=lambda s: other[s])
    if other[best] < SOUND and other[best] < 0.3 * given:
        raise InputRefused(
            f"depths and poses differ in scale, by a factor of about {best:g}",
            "check the unit of both", found.folder,
        )  # fmt: skip
    return given if np.isfinite(given) else None


def _disagreement(
    za: NDArray[Any], va: NDArray[np.bool_], zb: NDArray[Any],
    vb: NDArray[np.bool_], pose_a: NDArray[np.float64], pose_b: NDArray[np.float64], lens: Camera,
) -> float:  # fmt: skip
    """Median of |z in b by a - z of b| / z of b over some thousand pixels."""
    pinhole = pinhole_for(lens)
    every = max(1, int(np.sqrt(za.size / 4000)))
    grid: NDArray[Any] = np.indices(za.shape)[:, ::every, ::every].reshape(2, -1)
    v, u = grid[0], grid[1]
    ok = va[v, u]
    if ok.sum() < 50:
        return float("nan")
    u, v = u[ok], v[ok]
    flat = undistort_pixels(lens, pinhole, np.stack([u, v], -1) + 0.5)
    xy = (flat - [pinhole.cx, pinhole.cy]) / [pinhole.fx, pinhole.fy]
    z = za[v, u].astype(float)
    points = np.column_stack([xy * z[:, None], z, np.ones_like(z)])
    moved = points @ (np.linalg.inv(pose_b) @ pose_a).T
    front = moved[:, 2] > 0
    with np.errstate(all="ignore"):
        uv = moved[:, :2] / moved[:, 2:3] * [pinhole.fx, pinhole.fy] + [pinhole.cx, pinhole.cy]
        at = np.floor(distort_pixels(lens, pinhole, uv))
    h, w = zb.shape
    seen = front & np.isfinite(at).all(1) & (at >= 0).all(1) & (at[:, 0] < w) & (at[:, 1] < h)
    if seen.sum() < 50:
        return float("nan")
    i, j = at[seen, 1].astype(int), at[seen, 0].astype(int)
    own, known = zb[i, j], vb[i, j]
    ratio = np.abs(moved[seen, 2] - own)[known] / own[known]
    return float(np.median(ratio)) if len(ratio) >= 50 else float("nan")
