"""COLMAP's mappers and bundle adjustment as endoscope videos need them (part of the SfM child)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import geometry, sfm_lens
from endorecon.sfm_progress import say

# Smallest triangulation angles (degrees) that may start a model, wide ones first: a narrow start
# drifts, but a slow nasal video may offer nothing else. The last one only measures "no parallax".
_FIRST_ANGLES = (12.0, 6.0, 3.0, 1.5, 0.3)
_ENOUGH = 0.95  # of the frames in one model: no further attempt


def _pipeline_options(job: dict[str, Any], first_angle: float) -> Any:
    import pycolmap as pc

    o = pc.IncrementalPipelineOptions()
    o.num_threads = job["solver_threads"]
    o.random_seed = job["seed"]
    o.extract_colors = False
    o.ba_refine_focal_length = o.ba_refine_extra_params = not job["calibrated"]
    o.ba_refine_principal_point = False
    o.min_num_matches = 12
    o.min_model_size = 4
    o.max_model_overlap = 40
    o.max_num_models = 8
    o.ba_global_frames_ratio = o.ba_global_points_ratio = 1.2
    m = o.mapper
    m.init_min_tri_angle = first_angle
    m.init_min_num_inliers = 40
    m.init_max_forward_motion = 1.0  # endoscopes move forward; the angle decides, not the direction
    m.abs_pose_min_num_inliers = 12
    m.abs_pose_min_inlier_ratio = 0.15
    m.abs_pose_refine_focal_length = m.abs_pose_refine_extra_params = not job["calibrated"]
    m.max_reg_trials = 8
    m.filter_max_reproj_error = 3.0
    m.ba_local_min_tri_angle = min(2.0, first_angle)
    m.filter_min_tri_angle = o.triangulation.min_angle = min(0.5, first_angle / 3)
    return o


def _score(model: Any) -> tuple[int, int]:
    return (model.num_reg_images(), model.num_points3D())


def map_globally(job: dict[str, Any], database: Path, folder: Path) -> list[Any]:
    """Models, the largest first, of the global mapper (Pan et al., GLOMAP, ECCV 2024).

    It averages the rotations of all pairs at once, so that no early mistake is handed on: on a
    one-way flight the incremental mapper bent the path by 20 degrees within four frames and then
    dropped the matches that said so (centres 2.2 mm off, here 0.07).
    """
    import pycolmap as pc

    say("mapping")
    o = pc.GlobalPipelineOptions()
    o.num_threads = o.mapper.num_threads = job["solver_threads"]
    o.random_seed = job["seed"]
    o.min_num_matches = 12
    adjustment = o.mapper.bundle_adjustment
    adjustment.refine_focal_length = adjustment.refine_extra_params = not job["calibrated"]
    o.mapper.min_tri_angle_deg = 0.5
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    models = list(pc.global_mapping(database, job["images"], folder, o).values())
    return sorted(models, key=_score, reverse=True)


def map_frames(job: dict[str, Any], database: Path, folder: Path) -> list[Any]:
    """Models, the largest first, of the best of several attempts of the incremental mapper."""
    import pycolmap as pc

    best: list[Any] = []
    for k, angle in enumerate(_FIRST_ANGLES):
        say("mapping", k, len(_FIRST_ANGLES))
        out = folder / f"attempt{k}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if angle < 1.0 and best:
            break
        options = _pipeline_options(job, angle)
        models = list(pc.incremental_mapping(database, job["images"], out, options).values())
        models.sort(key=_score, reverse=True)
        if models and (not best or models[0].num_reg_images() > best[0].num_reg_images()):
            best = models
        if best and best[0].num_reg_images() >= _ENOUGH * len(job["names"]):
            break
    return best


def poses_of(model: Any) -> dict[str, np.ndarray]:
    """world_from_camera (4, 4) of a model, by image name."""
    out = {}
    for k in model.reg_image_ids():
        image = model.image(k)
        m = np.eye(4)
        m[:3] = image.cam_from_world().matrix()
        out[image.name] = geometry.invert(m)
    return out


def merge(models: list[dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], int]:
    """Poses by name of the first model and of those that can be tied to it; how many were tied.

    Two models are tied by a similarity from the frames they share (at least 3), when it brings the
    shared frames together to a tenth of their spread and 3 degrees.
    """
    poses = dict(models[0])
    tied = 0
    for theirs in models[1:]:
        common = sorted(set(poses) & set(theirs))
        if len(common) < 3:
            continue
        a = np.array([theirs[n] for n in common])
        b = np.array([poses[n] for n in common])
        b_from_a = geometry.align_cameras(a, b)
        moved = geometry.transform_pose(b_from_a, a)
        spread = float(np.linalg.norm(b[:, :3, 3] - b[:, :3, 3].mean(0), axis=1).max())
        gap = float(np.median(np.linalg.norm(moved[:, :3, 3] - b[:, :3, 3], axis=1)))
        turn = geometry.rotation_angle_deg(moved[:, :3, :3].transpose(0, 2, 1) @ b[:, :3, :3])
        if gap > 0.1 * spread or float(np.median(turn)) > 3.0:
            continue
        tied += 1
        for name in set(theirs) - set(poses):
            poses[name] = geometry.transform_pose(b_from_a, theirs[name])
    return poses, tied


def with_known_poses(
    job: dict[str, Any], database: Path, poses: dict[str, np.ndarray], camera: Any, out: Path
) -> Any:
    """A model whose cameras are given: points are triangulated from the matches."""
    import pycolmap as pc

    model = pc.Reconstruction()
    with pc.Database.open(database) as db:
        camera = camera or next(iter(db.read_all_cameras()))
        model.add_camera_with_trivial_rig(camera)
        for image in sorted(db.read_all_images(), key=lambda i: i.name):
            if image.name in poses:
                fresh = pc.Image(
                    name=image.name, camera_id=camera.camera_id, image_id=image.image_id
                )
                pose = pc.Rigid3d(geometry.invert(np.asarray(poses[image.name], float))[:3])
                model.add_image_with_trivial_frame(fresh, pose)
    options = _pipeline_options(job, 3.0)
    out.mkdir(parents=True, exist_ok=True)
    return pc.triangulate_points(model, database, job["images"], out, True, options)


def adjust(
    model: Any,
    job: dict[str, Any],
    fixed_poses: bool = False,
    loss_px: float = 1.0,
    searched: bool = False,
) -> None:
    """Final bundle adjustment, robust and tight; points that still do not fit are removed.

    loss_px: misses beyond it count less (soft L1). `searched`: the observations were searched for
    in all frames. They are many, so that an unknown lens may have its principal point refined as
    long as it stays in reach, and some are of something else: misses count for ever less (Cauchy).
    """
    import pycolmap as pc

    options = pc.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_rig_from_world = not fixed_poses
    options.refine_focal_length = options.refine_extra_params = not job["calibrated"]
    loss = pc.LossFunctionType
    options.refine_principal_point = searched and not job["calibrated"]
    camera = next(iter(model.cameras.values()))
    options.ceres.loss_function_type = loss.CAUCHY if searched else loss.SOFT_L1
    options.ceres.loss_function_scale = loss_px
    solver = options.ceres.solver_options
    solver.num_threads = job["solver_threads"]
    solver.max_num_iterations = 100
    solver.function_tolerance = 1e-8
    for _ in range(2):
        pc.bundle_adjustment(model, options)
        if options.refine_principal_point and sfm_lens.has_stray_centre(camera):
            sfm_lens.centre(camera)
            options.refine_principal_point = False
            pc.bundle_adjustment(model, options)
        model.update_point_3d_errors()
        for key in [
            k for k, p in model.points3D.items() if p.error > 2 + loss_px or p.track.length() < 2
        ]:
            model.delete_point3D(key)


def triangulation_angles(model: Any) -> np.ndarray:
    """(m,) widest angle in degrees under which two cameras see each point."""
    centres = {}
    for k in model.reg_image_ids():
        centres[k] = model.image(k).projection_center()
    out = []
    for point in model.points3D.values():
        rays = np.array([point.xyz - centres[e.image_id] for e in point.track.elements])
        rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
        out.append(np.degrees(np.arccos(np.clip(rays @ rays.T, -1.0, 1.0).min())))
    return np.array(out)
