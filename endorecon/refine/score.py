"""How well depths explain real frames that they were not matched with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.refine import twin
from endorecon.refine.photos import Photos
from endorecon.refine.sweep import in_parallel, warps


def photo_score(
    photos: Photos, pairs: Sequence[tuple[int, int]], z: NDArray[Any], config: RefineConfig
) -> float:
    """Mean masked NCC over all pixels of the pairs (i, j): photo i seen in photo j by depths z[i].

    Values below 0 (occluded, changed) count as 0, so that one bad pixel is one bad pixel. 0 when
    there are no pairs.
    """

    def one(k: int) -> tuple[float, int]:
        i, j = pairs[k]
        known = np.isfinite(z[i])
        iz = np.where(known, 1 / np.where(known, z[i], 1), 1)
        ncc = twin.correlate(
            photos.grey[i], np.where(known, photos.weight[i], 0), iz, warps(photos, i, [j])[0],
            photos.grey[j], photos.weight[j], config.radius, config.noise**2,
        )  # fmt: skip
        valid = known & (ncc > -1.5)
        return float(np.clip(ncc[valid], 0, 1).sum()), int(valid.sum())

    found = in_parallel(one, len(pairs))
    total = sum(n for _, n in found)
    return sum(s for s, _ in found) / total if total else 0.0
