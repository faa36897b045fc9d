"""Where a run's millimetres come from without the CT, each source with its own uncertainty.

Metric poses at reconstruction, metric poses given now (a tracker, a robot), or a length known in
view (a ruler, marks on a shaft held still). A factor is mm per unit of the run; sigma is relative.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.evaluate.inputs import ReconLandmarks
from endorecon.evaluate.measure import Plan
from endorecon.evaluate.register import OwnScale
from endorecon.geometry import apply, scale_of, umeyama
from endorecon.io.rundir import Cameras
from endorecon.io.trajectories import match_frames, read_poses
from endorecon.scene import Surface

Array = NDArray[Any]
_BLOCKS = 8  # of consecutive frames; pose errors of neighbours are alike
_MIN_TRAVEL = 20.0  # times the misfit of the two paths: below it the scale is a guess


def own_scale(info: dict[str, Any], surface: Surface) -> tuple[OwnScale | None, tuple[str, ...]]:
    """Millimetres that the run has by itself, with the relative sigma it recorded."""
    if surface.unit != "mm":
        return None, ()
    source = info.get("scale_source")
    if not source:
        raise InputRefused(
            "The run calls itself metric but names no source of its scale",
            "run `endorecon fit` again with metric poses, or without a unit",
        )
    sigma = info.get("scale_sigma")
    if isinstance(sigma, int | float) and np.isfinite(sigma) and sigma >= 0:
        return OwnScale(1.0, float(sigma), str(source)), ()
    note = "the run records no uncertainty of its scale: the intervals leave it out"
    return OwnScale(1.0, 0.0, str(source)), (note,)


def lens_sigma(info: dict[str, Any]) -> float:
    """Relative sigma of lengths from a focal length that no calibration gave; 0 with one.

    A wrong focal length stretches depth against width. No scale takes that back, but a fitted one
    shares it: half of it is in lengths along the view, half, the other way, in those across.
    """
    play = (info.get("poses") or {}).get("focal_play")
    return 0.5 * float(play) / 1.96 if isinstance(play, int | float) and play > 0 else 0.0


def scale_from_poses(cameras: Cameras, path: Path) -> OwnScale:
    """Millimetres from the camera's path in mm (COLMAP folder, JSON or TUM file).

    The run's camera centres are laid on the given ones by a similarity. The sigma is a jackknife
    over blocks of consecutive frames. Raises InputRefused when the paths are not the same, or the
    file says another unit than mm, NotEnoughInformation when the tip hardly moved.
    """
    trajectory = read_poses(path)
    if trajectory.unit not in (None, "mm"):
        raise InputRefused(
            f"The metric poses are in {trajectory.unit}, not in millimetres", "convert them", path
        )
    rows = match_frames(trajectory, cameras.frame_index, cameras.time_s)
    here = cameras.world_from_camera[rows >= 0, :3, 3]
    there = trajectory.world_from_camera[rows[rows >= 0], :3, 3]
    if len(here) < 6:
        raise InputRefused(
            f"The metric poses belong to {len(here)} frames of the run; at least 6 are needed",
            "give frame_index or the times of the video",
            path,
        )
    T = umeyama(here, there)
    misfit = float(np.sqrt(((apply(T, here) - there) ** 2).sum(1).mean()))
    travel = float(np.sqrt(((there - there.mean(0)) ** 2).sum(1).mean()))
    if misfit > 0.3 * travel:
        raise InputRefused(
            f"The metric poses do not follow the run's path: {misfit:.3g} mm apart on a path of "
            f"{travel:.3g} mm",
            "check that they belong to this video and are camera-to-world",
            path,
        )
    if travel < _MIN_TRAVEL * misfit:
        raise NotEnoughInformation(
            f"The tip moved {travel:.3g} mm and the metric poses are {misfit:.3g} mm off: too "
            "little for a scale",
            "move the tip farther, or give a known distance in view",
            path,
        )
    log = []
    blocks = np.array_split(np.arange(len(here)), min(_BLOCKS, len(here) // 2))
    for block in blocks:
        rest = np.setdiff1d(np.arange(len(here)), block)
        log.append(np.log(scale_of(umeyama(here[rest], there[rest]))))
    n = len(blocks)
    sigma = float(np.sqrt((n - 1) / n * ((np.array(log) - np.mean(log)) ** 2).sum()))
    return OwnScale(scale_of(T), sigma, f"metric poses of {len(here)} frames")


def scale_from_known(plans: list[Plan], recon: ReconLandmarks) -> OwnScale | None:
    """Millimetres from lengths known in view (a shaft, a ruler), weighted by precision."""
    found = []
    for plan in (p for p in plans if p.known_mm is not None):
        names = {n.casefold(): k for k, n in enumerate(recon.mean.names)}
        if any(p.casefold() not in names for p in plan.points):
            continue
        i, j = names[plan.points[0].casefold()], names[plan.points[-1].casefold()]
        d = recon.mean.xyz[j] - recon.mean.xyz[i]
        length = float(np.linalg.norm(d))
        covariance = recon.mean.covariance
        spread = 0.0
        if covariance is not None:
            u = d / length
            spread = float(u @ (covariance[i] + covariance[j]) @ u) / length**2
        known = float(plan.known_mm or 0.0)
        found.append((known / length, spread + (plan.known_sigma_mm / known) ** 2, plan.name))
    if not found:
        return None
    weight = np.array([1 / max(v, 1e-8) for _, v, _ in found])
    log = float(np.average([np.log(f) for f, _, _ in found], weights=weight))
    names_text = ", ".join(n for _, _, n in found)
    sigma = float(1 / np.sqrt(weight.sum()))
    return OwnScale(float(np.exp(log)), sigma, f"known distance in view ({names_text})")
