"""How far a video tells the focal length, and what is believed of it (part of the SfM child).

With little parallax a wrong focal length hides in depths, poses and radial coefficients: on a nasal
video of 35 frames 432 px fitted best, 616 were true, and the misses of the two differ by 2 %. The
formal covariance knows nothing of that, for features err together. So the RMS miss is asked at
focal lengths on each side, a growth by _GROWTH counts as two standard deviations, and the answer is
weighed against what endoscopes are like. Where the video tells (phantoms), nothing changes.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from endorecon.sfm_refine import misses_px

_STEP = 0.1  # of ln f, tried on each side
_GROWTH = 0.03  # of the RMS miss: what errors that features share can hide
_PRIOR_SIGMA = 0.2  # of ln f: content areas of endoscopes show 60 to 105 degrees, most about 80
_FEWEST = 20  # points that are needed to ask
_LEAST_MOVE = 0.005  # of ln f; a smaller correction is not worth another adjustment


def believe(model: Any, usual: float, threads: int) -> float:
    """Give the model the focal length that its pictures and `usual` (px) speak for together.

    Returns the half width of the 95 % interval of ln f that is left.
    """
    if len(model.points3D) < _FEWEST:
        return 2 * _PRIOR_SIGMA
    camera = next(iter(model.cameras.values()))
    found = float(camera.mean_focal_length())
    shorter, here, longer = (
        _miss(_with_focal(copy.deepcopy(model), found * float(np.exp(d)), threads))
        for d in (-_STEP, 0.0, _STEP)
    )
    shift, play = weigh(here, shorter, longer, float(np.log(usual / found)))
    if abs(shift) > _LEAST_MOVE:
        _with_focal(model, found * float(np.exp(shift)), threads)
    return play


def weigh(here: float, shorter: float, longer: float, usual: float) -> tuple[float, float]:
    """Correction of ln f and half width of its 95 % interval, from the RMS misses at a focal
    length and _STEP on each side, and ln(usual / found)."""
    growth = max(0.5 * (shorter + longer) / max(here, 1e-12) - 1.0, 1e-9)
    own = (growth / _STEP**2) / _GROWTH * 4  # 1 / sigma^2 of ln f
    prior = 1 / _PRIOR_SIGMA**2
    return usual * prior / (own + prior), 2 / float(np.sqrt(own + prior))


def _with_focal(model: Any, focal: float, threads: int) -> Any:
    """The model adjusted with this focal length; the other parameters follow."""
    import pycolmap as pc

    camera = next(iter(model.cameras.values()))
    params = camera.params.copy()
    for k in camera.focal_length_idxs():
        params[k] *= focal / float(camera.mean_focal_length())
    camera.params = params
    options = pc.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_principal_point = False
    options.ceres.loss_function_type = pc.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = 0.5
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.max_num_iterations = 60
    pc.bundle_adjustment(model, options)
    return model


def _miss(model: Any) -> float:
    """RMS distance (px) of the observations from where their points are seen."""
    off = np.concatenate([misses_px(model, k)[1] for k in sorted(model.reg_image_ids())])
    off = off[np.isfinite(off)]
    return float(np.sqrt((off**2).sum() / max(len(off), 1)))
