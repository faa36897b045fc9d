"""Depth of a run against truth: a phantom's, or a data set's.

Valid pixels: truth inside the content area, in every frame that was not dropped as a duplicate; a
frame without a depth file counts as uncovered. Alignment: rotation averaged from the camera
orientations, then scale and translation from the centres (geometry.align_cameras); where the truth
has depths and no poses (Hamlyn), the scale is the median ratio of the depths themselves. A depth is
compared at the pixel of the video that it belongs to. Truth is used here and nowhere else.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import align_cameras, rotation_angle_deg, scale_of, transform_pose
from endorecon.io.calibration import undistort_pixels
from endorecon.io.rundir import RunDir
from endorecon.phantom.truth import load_truth
from endorecon.scene import Camera, DepthMap

Array = NDArray[Any]
STEP = 2  # every second pixel of the truth in each direction


class Truth(Protocol):
    """Depths and poses of all frames of the source: z (h, w) mm and valid (h, w) on its grid."""

    @property
    def world_from_camera(self) -> Array | None: ...

    def depth(self, frame: int) -> tuple[Array, Array]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Errors:
    """Signed errors (mm) of covered pixels, their sigma, true depth and trust; and the valid."""

    error: Array
    sigma: Array
    depth: Array
    trust: Array
    valid: int
    frames: int
    frames_valid: int


def lens_of(info: dict[str, Any]) -> Camera:
    """The lens at working size that the run used."""
    c = info["camera"]
    return Camera(
        c["width"], c["height"], c["fx"], c["fy"], c["cx"], c["cy"], c["model"],
        tuple(c["distortion"]),
    )  # fmt: skip


def similarity(run: RunDir, truth: Path | Truth) -> tuple[Array, dict[str, float]]:
    """truth_from_run (4, 4) and how well the cameras agree."""
    known: Truth = load_truth(truth) if isinstance(truth, Path) else truth
    assert known.world_from_camera is not None
    cameras = run.cameras()
    wanted = known.world_from_camera[cameras.frame_index]
    T = align_cameras(cameras.world_from_camera, wanted)
    moved = transform_pose(T, cameras.world_from_camera)
    centre = np.linalg.norm(moved[:, :3, 3] - wanted[:, :3, 3], axis=1)
    turn = rotation_angle_deg(np.swapaxes(moved[:, :3, :3], 1, 2) @ wanted[:, :3, :3])
    return T, {
        "scale": scale_of(T),
        "centre_mm": float(np.median(centre)),
        "centre_max_mm": float(centre.max()),
        "rotation_deg": float(np.median(turn)),
    }


def score(run: RunDir, truth: Path | Truth, depths: list[DepthMap] | None = None) -> Errors:
    """Errors of the final depth maps, or of `depths` (say, of one round)."""
    known: Truth = load_truth(truth) if isinstance(truth, Path) else truth
    info = run.info()
    maps = {d.frame_index: d for d in (depths or [run.depth(i) for i in run.depth_indices()])}
    with open(run.path / "frames.csv") as file:
        duplicates = {
            int(r["frame_index"]) for r in csv.DictReader(file) if r["reason"] == "duplicate"
        }
    working_from_source = np.linalg.inv(np.array(info["source_from_working"]))
    lens = lens_of(info)
    grid: Array | None = None
    mine, sigma, depth, trust, valid_count, frames = [], [], [], [], 0, 0
    for i in range(len(known)):
        if i in duplicates:
            continue
        z, valid = known.depth(i)
        z, valid = z[::STEP, ::STEP], valid[::STEP, ::STEP]
        valid_count += int(valid.sum())
        frames += 1
        if i not in maps:
            continue
        d = maps[i]
        if grid is None:
            v, u = np.indices(z.shape) * STEP + 0.5
            w = np.stack([u, v, np.ones_like(u)], -1) @ working_from_source.T
            grid = undistort_pixels(lens, d.camera, w[..., :2])
        found, s, t = (sample(m, grid) for m in (d.z, d.sigma, d.trust))
        ok = valid & np.isfinite(found)
        mine.append(found[ok])
        sigma.append(s[ok])
        depth.append(z[ok])
        trust.append(t[ok])
    found, s, z, t = (np.concatenate(a) if a else np.zeros(0) for a in (mine, sigma, depth, trust))
    if known.world_from_camera is not None:
        scale = scale_of(similarity(run, known)[0])
    else:
        scale = float(np.median(z / found)) if len(z) else 1.0
    return Errors(scale * found - z, scale * s, z, t, valid_count, len(maps), frames)


def sample(values: Array, grid: Array) -> Array:
    """Bilinear where all four neighbours are known and alike, else the nearest; NaN outside."""
    h, w = values.shape
    u, v = grid[..., 0] - 0.5, grid[..., 1] - 0.5
    with np.errstate(invalid="ignore"):
        inside = (u >= 0) & (v >= 0) & (u <= w - 1) & (v <= h - 1)
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    iu, iv = np.minimum(u.astype(int), w - 2), np.minimum(v.astype(int), h - 2)
    fu, fv = u - iu, v - iv
    a, b = values[iv, iu], values[iv, iu + 1]
    c, d = values[iv + 1, iu], values[iv + 1, iu + 1]
    linear = (a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv
    nearest = values[np.rint(v).astype(int), np.rint(u).astype(int)]
    stack = np.stack([a, b, c, d])
    smooth = np.isfinite(stack).all(0) & (np.ptp(stack, axis=0) < 0.03 * np.abs(nearest))
    return np.where(inside, np.where(smooth, linear, nearest), np.nan)


def figures(e: Errors, share: float = 1.0) -> dict[str, float]:
    """MAE, median, RMSE, P95, bias, coverage of the `share` of covered pixels with least sigma."""
    order = np.argsort(e.sigma, kind="stable")[: round(share * len(e.sigma))]
    if len(order) == 0:
        return {k: float("nan") for k in ("mae", "median", "rmse", "p95", "bias")} | {
            "covered": 0.0
        }
    x = e.error[order]
    a = np.abs(x)
    return {
        "mae": float(a.mean()),
        "median": float(np.median(a)),
        "rmse": float(np.sqrt((x**2).mean())),
        "p95": float(np.quantile(a, 0.95)),
        "bias": float(x.mean()),
        "covered": len(order) / max(1, e.valid),
        "in95": float((a <= 1.96 * e.sigma[order]).mean()),
        "sigma": float(np.median(e.sigma[order])),
    }
