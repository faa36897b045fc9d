"""Frames -> Views: where the camera was, by structure from motion or from given poses.

`estimate_views` and `given_views` are generators of `PoseProgress` events that return a
`PosesResult`. COLMAP runs in a child process (sfm_job.py) in the folder `work`, keeps its
database there, and a finished model is found again after a kill. Views are undistorted pinhole
pictures; poses are world_from_camera, OpenCV axes, pixel centres at .5.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import sfm_job
from endorecon.config import PosesConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.io import calibration, colmap, trajectories
from endorecon.scene import Camera, Frames, Views
from endorecon.sfm_job import PoseProgress, picture_name

Array = NDArray[Any]

_REMEDIES = (
    "film slower and closer (10-30 mm) with the light low enough to avoid highlights, move the tip "
    "sideways so that the same place is seen from several sides, and give a calibration by "
    "--camera or known poses by --poses"
)


@dataclass(frozen=True)
class PosesResult:
    """Views with poses, and what a reader of the report has to know about them."""

    views: Views
    dropped: tuple[tuple[int, str], ...]  # (frame_index, reason) of frames without a pose
    warnings: tuple[str, ...]
    median_angle_deg: float
    mean_error_px: float
    camera: Camera  # the lens at working size, with its distortion, as given or refined
    refined_intrinsics: bool
    other_models: tuple[int, ...] = ()  # sizes of models that could not be joined
    focal_play: float = 0.0  # half width of the 95 % interval of ln(focal length), if refined
    depth_sigma: float = 0.0  # relative sigma of depth by which given poses contradict the matches
    given: bool = False  # by the user: nothing moves them


def estimate_views(
    frames: Frames, config: PosesConfig, work: Path, seed: int = 0
) -> Generator[PoseProgress, None, PosesResult]:
    """Poses by structure from motion; NotEnoughInformation when the video does not give them.

    With config.threads = 1 the result repeats bit for bit.
    """
    calibrated = frames.camera is not None
    camera = frames.camera or _guess(frames, config)
    result = yield from sfm_job.run(frames, camera, config, work, seed, None)
    n = len(frames)
    registered = int(result.get("registered", 0))
    angle = float(result.get("median_angle_deg", 0.0))
    if result["pairs"] >= 0.5 * n and result["parallax_px"] < config.min_parallax_px:
        angle = min(angle or 90.0, float(result["parallax_deg"]))
        registered = max(registered, 2)
    if registered >= 2 and angle < config.min_angle_deg:
        raise NotEnoughInformation(
            f"no parallax: the median triangulation angle is {angle:.2f} degrees, "
            f"need at least {config.min_angle_deg:g}",
            "move the tip sideways while filming; turning or zooming on the spot shows no depth",
        )
    others = tuple(int(m) for m in result["other_models"])
    if registered < max(config.min_registered * n, 3):
        rest = f", further models of {', '.join(map(str, others))} frames" if others else ""
        raise NotEnoughInformation(
            f"only {registered} of {n} frames ({100 * registered / n:.0f} %) could be placed in "
            f"one model{rest}",
            _REMEDIES,
        )
    model = colmap.read_colmap(work / "model")
    warnings = []
    play = float(result.get("focal_play", 0.0))
    if not calibrated:
        c = next(iter(model.cameras.values()))
        warnings.append(
            f"No calibration was given: the focal length was estimated from the video "
            f"({c.fx:.0f} pixels at {c.width}x{c.height}); an error of it bends the shape. "
            "Calibrate the endoscope for measurements."
        )
        if play > config.focal_play:
            low, high = c.fx * np.exp(-play), c.fx * np.exp(play)
            warnings.append(
                f"The video hardly tells the focal length: {low:.0f} to {high:.0f} pixels explain "
                "it nearly as well, and depths are stretched along the view with it. Give a "
                "calibration by --camera, or film with more movement to the sides."
            )
    frame, link = result.get("weakest_link") or ("", 1.0)
    if link < config.least_link:
        warnings.append(
            f"The camera path is tied loosely after frame {int(Path(frame).stem)}: what lies "
            "before and behind it may be bent against each other, and no interval knows it. "
            "Film that turn slower."
        )
    if result["merged_models"]:
        warnings.append(
            f"{result['merged_models'] + 1} partial models were joined by shared frames."
        )
    if others and registered < n:
        warnings.append(
            f"{len(others)} smaller models ({', '.join(map(str, others))} frames) are not used."
        )
    found = _views(frames, model, warnings, angle, not calibrated, others, None)
    return replace(found, focal_play=play)


def given_views(
    frames: Frames,
    poses_path: Path,
    config: PosesConfig,
    work: Path,
    seed: int = 0,
    unit: str | None = None,
) -> Generator[PoseProgress, None, PosesResult]:
    """Poses from a file (COLMAP folder, transforms.json, TUM), points triangulated with them.

    The unit is "mm" when the file says so or the caller does, never by guess.
    """
    trajectory = trajectories.read_poses(poses_path)
    rows = trajectories.match_frames(trajectory, frames.frame_index, frames.time_s)
    if (rows >= 0).sum() < 3:
        raise InputRefused(
            f"these poses belong to {int((rows >= 0).sum())} of the {len(frames)} frames: names, "
            "indices or times do not fit",
            "give frame_index or time_s in transforms.json, or TUM times of the video",
            poses_path,
        )
    camera = frames.camera
    notes: list[str] = []
    if camera is None and trajectory.camera is not None:
        camera, notes = _camera_at_working_size(trajectory.camera, frames)
    if camera is None:
        raise InputRefused(
            "poses are given without a camera, and a focal length cannot be estimated for them",
            "give a calibration by --camera",
            poses_path,
        )
    known = {
        picture_name(k): trajectory.world_from_camera[r].tolist()
        for k, r in zip(frames.frame_index, rows)
        if r >= 0
    }
    result = yield from sfm_job.run(
        replace(frames, camera=camera), camera, config, work, seed, known
    )
    model = colmap.read_colmap(work / "model") if result.get("registered") else None
    if model is None or not model.xyz:
        raise NotEnoughInformation(
            "no point could be triangulated with these poses: they do not fit the video",
            "check direction (camera to world), axes (OpenGL or OpenCV) and the order of frames",
            poses_path,
        )
    angle = float(result["median_angle_deg"])
    if angle < config.min_angle_deg:
        raise NotEnoughInformation(
            f"no parallax: the median triangulation angle is {angle:.1f} degrees, "
            f"need at least {config.min_angle_deg:g}",
            "move the tip sideways while filming",
        )
    given_px, own_px = result.get("misses") or (0.0, 0.0)
    sigma = 0.0
    if given_px > max(config.given_miss * camera.width, config.given_miss_times * own_px):
        sigma = misfit_sigma(given_px, own_px, camera.fx, angle)
        notes.append(
            f"The given poses and lens miss the matches of the video by {given_px:.2f} px, and "
            f"free ones by {own_px:.2f}: no depth is surer than {100 * sigma:.1f} % here. Check "
            "the calibration (frames that are undistorted already need a pinhole), the hand-eye "
            "calibration and the order of the frames."
        )
    unit = unit or trajectory.unit
    source = "given poses" if unit == "mm" else None
    found = _views(replace(frames, camera=camera), model, notes, angle, False, (), source)
    return replace(found, depth_sigma=sigma, given=True)


def misfit_sigma(given_px: float, own_px: float, focal_px: float, angle_deg: float) -> float:
    """Relative sigma of depth under poses that miss matches by a median of `given_px` where free
    poses miss them by `own_px`; angle_deg: median triangulation angle.

    What moves matches off their epipolar lines moves them along these as well, and there it is
    disparity: depth / (depth * angle) a radian.
    """
    excess = np.sqrt(max(given_px**2 - own_px**2, 0.0)) / 0.6745  # median to standard deviation
    return float(excess / focal_px / np.radians(angle_deg))


def _guess(frames: Frames, config: PosesConfig) -> Camera:
    """A start for an unknown lens: about 80 degrees across the content area."""
    h, w = frames.images.shape[1:3]
    f = 0.6 * max(w, h)
    # RADIAL is OPENCV with square pixels and without p1, p2; only the child knows the difference.
    model: Any = "OPENCV" if config.camera_model == "RADIAL" else config.camera_model
    count = {"PINHOLE": 0, "OPENCV": 4, "OPENCV_FISHEYE": 4}.get(model)
    if count is None:
        raise InputRefused(
            f"the camera model {model!r} is not known",
            "PINHOLE, RADIAL, OPENCV or OPENCV_FISHEYE",
        )
    return Camera(w, h, f, f, w / 2, h / 2, model, (0.0,) * count)


def _camera_at_working_size(camera: Camera, frames: Frames) -> tuple[Camera, list[str]]:
    """A lens of the source (or already of the working size) at the frames' working size."""
    h, w = frames.images.shape[1:3]
    if (camera.width, camera.height) == (w, h):
        return camera, []
    camera, note = calibration.for_size(camera, frames.source_width, frames.source_height)
    m = frames.source_from_working
    camera = replace(
        camera,
        width=w,
        height=h,
        fx=camera.fx / m[0, 0],
        fy=camera.fy / m[1, 1],
        cx=(camera.cx - m[0, 2]) / m[0, 0],
        cy=(camera.cy - m[1, 2]) / m[1, 1],
    )
    return camera, [note] if note else []


def _views(
    frames: Frames,
    model: colmap.ColmapModel,
    warnings: list[str],
    angle: float,
    refined: bool,
    others: tuple[int, ...],
    scale_source: str | None,
) -> PosesResult:
    """Undistorted pictures, masks and points of the frames that the model has placed."""
    import cv2

    order = sorted(model.names, key=lambda k: model.names[k])
    row = {picture_name(k): i for i, k in enumerate(frames.frame_index)}
    keep = [row[model.names[k]] for k in order]
    camera = next(iter(model.cameras.values()))
    pinhole = calibration.pinhole_for(camera, np.any(frames.masks, axis=0))
    images, masks = frames.images[keep], frames.masks[keep]
    points = colmap.sparse_points(model, {k: i for i, k in enumerate(order)})
    if camera.model != "PINHOLE":
        u, v = calibration.undistort_maps(camera, pinhole)
        images = np.stack([cv2.remap(i, u, v, cv2.INTER_CUBIC) for i in images])
        # linear and exactly 1: a pixel counts only when all it is made of counts
        masks = np.stack(
            [cv2.remap(m.astype(np.float32), u, v, cv2.INTER_LINEAR) > 0.999 for m in masks]
        )
        uv = calibration.undistort_pixels(camera, pinhole, points.uv)
        good = (
            np.isfinite(uv).all(1)
            & (uv >= 0).all(1)
            & (uv < [pinhole.width, pinhole.height]).all(1)
        )
        points = replace(
            points, uv=uv[good], point_of=points.point_of[good], view_of=points.view_of[good]
        )
    views = Views(
        camera=pinhole,
        images=images,
        masks=masks,
        world_from_camera=np.array([model.world_from_camera[k] for k in order]),
        frame_index=frames.frame_index[keep],
        time_s=frames.time_s[keep],
        points=points,
        unit="mm" if scale_source else "unitless",
        scale_source=scale_source,
    )
    placed = set(keep)
    dropped = tuple(
        (int(k), "no pose") for i, k in enumerate(frames.frame_index) if i not in placed
    )
    return PosesResult(
        views=views,
        dropped=dropped,
        warnings=tuple(warnings),
        median_angle_deg=angle,
        mean_error_px=float(points.error_px.mean()) if len(points.error_px) else float("nan"),
        camera=camera,
        refined_intrinsics=refined,
        other_models=others,
    )
