"""OpenCV's semi-global block matcher with a left-right check (Hirschmueller, PAMI 2008)."""

from __future__ import annotations

import numpy as np

from endorecon.config import StereoConfig
from endorecon.scene import Disparity, StereoPair
from endorecon.stereo.checks import left_right, stretched


class SgbmMatcher:
    """StereoSGBM MODE_HH on grey images; sub-pixel by its own parabola (1/16 px)."""

    def __init__(self, config: StereoConfig) -> None:
        self._config = config

    def match(self, pair: StereoPair) -> Disparity:
        """Disparity of the left eye; NaN where flat, occluded or inconsistent."""
        import cv2

        left, right = (stretched(image) for image in (pair.left, pair.right))
        low, high = _search_range(pair, self._config)
        count = max(16, -(-(high - low) // 16) * 16)
        # A strip of the search range is lost at the left border: match in a padded image.
        pad = low + count + 8
        left, right = (
            cv2.copyMakeBorder(im, 0, 0, pad, 0, cv2.BORDER_REPLICATE) for im in (left, right)
        )
        block = 5
        settings = dict(
            minDisparity=low, numDisparities=count, blockSize=block, P1=8 * block**2,
            P2=32 * block**2, disp12MaxDiff=-1, preFilterCap=31, uniquenessRatio=0,
            speckleWindowSize=0, mode=cv2.STEREO_SGBM_MODE_HH,
        )  # fmt: skip
        d = cv2.StereoSGBM.create(**settings).compute(left, right)[:, pad:].astype(np.float32) / 16
        mirrored = cv2.StereoSGBM.create(**settings).compute(
            np.ascontiguousarray(_shift_border(right, pad)[:, ::-1]),
            np.ascontiguousarray(_shift_border(left, pad)[:, ::-1]),
        )
        d_right = mirrored[:, pad:][:, ::-1].astype(np.float32) / 16
        d[d < low] = np.nan
        d = _polish(d, left[:, pad:], right[:, pad:])
        return left_right(d, d_right, left[:, pad:], self._config)


def _polish(d: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sub-pixel by windowed squared differences at d - 1 ... d + 1 and a parabola.

    StereoSGBM's own fraction is drawn to whole pixels by up to 0.3 px (seen in the contract test).
    """
    import cv2

    x, y = np.meshgrid(np.arange(d.shape[1]), np.arange(d.shape[0]))
    base = np.nan_to_num(d, nan=0.0)
    a, b = left.astype(np.float32), right.astype(np.float32)
    offsets = np.linspace(-1, 1, 9)
    cost = []
    for o in offsets:
        where = (x - base - o).astype(np.float32)
        moved = cv2.remap(b, where, y.astype(np.float32), cv2.INTER_CUBIC)
        cost.append(cv2.blur((a - moved) ** 2, (7, 7)))
    c = np.stack(cost)
    k = np.clip(c.argmin(0), 1, len(offsets) - 2)
    lo, mid, hi = (np.take_along_axis(c, (k + s)[None], 0)[0] for s in (-1, 0, 1))
    bend = lo - 2 * mid + hi
    step = offsets[1] - offsets[0]
    move = np.where(bend > 1e-6, 0.5 * (lo - hi) / np.maximum(bend, 1e-6), 0)
    return (d + offsets[k] + step * np.clip(move, -1, 1)).astype(np.float32)


def _shift_border(image: np.ndarray, pad: int) -> np.ndarray:
    """Move the padding from the left side to the right, for the mirrored match."""
    import cv2

    return cv2.copyMakeBorder(image[:, pad:], 0, 0, 0, pad, cv2.BORDER_REPLICATE)


def _search_range(pair: StereoPair, config: StereoConfig) -> tuple[int, int]:
    """Whole-pixel disparities to search: what the field's depth suggests, within 4-20 baselines."""
    fb = pair.K[0, 0] * pair.baseline
    z = pair.z_left[np.isfinite(pair.z_left)]
    near, far = config.nearest_baselines, config.farthest_baselines
    if z.size > 100:
        lo, hi = np.quantile(z, [0.01, 0.99])
        near, far = max(near, 0.8 * lo / pair.baseline), min(far, 1.25 * hi / pair.baseline)
    low = int(np.floor(fb / (max(far, near * 1.2) * pair.baseline)))
    high = int(np.ceil(fb / (near * pair.baseline)))
    return max(0, low), max(high, low + 16)
