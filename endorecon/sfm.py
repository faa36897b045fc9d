"""Structure from motion in a process of its own: `python -m endorecon.sfm job.json`.

pycolmap may not share a process with cv2 (their zlibs clash), so `poses.py` writes pictures and
masks, starts this module, and reads the model with its own reader. One JSON object a line on
stdout tells the progress; `result.json` beside the model, written last, tells the outcome.
Nothing of endorecon but numpy-only modules is imported here.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import geometry, sfm_check, sfm_refine

# Smallest triangulation angles (degrees) that may start a model, wide ones first: a narrow start
# drifts, but a slow nasal video may offer nothing else. The last one only measures "no parallax".
_FIRST_ANGLES = (12.0, 6.0, 3.0, 1.5, 0.3)
_SOUND = 0.85  # fit of the matches across the weakest place of the path, against its median
_ENOUGH = 0.95  # of the frames in one model: no further attempt


def _say(stage: str, done: int = 0, total: int = 0) -> None:
    sys.stdout.write(json.dumps({"stage": stage, "done": done, "total": total}) + "\n")
    sys.stdout.flush()


def pairs_to_match(count: int, overlap: int) -> list[tuple[int, int]]:
    """Pairs of frames: neighbours, distances 2^k, and a coarse grid of all pairs for loops."""
    steps = set(range(1, overlap + 1))
    step = 1
    while step < count:
        steps.add(step)
        step *= 2
    pairs = {(i, i + s) for s in steps for i in range(count - s)}
    grid = np.unique(np.linspace(0, count - 1, min(count, 24)).round().astype(int)).tolist()
    pairs |= {(a, b) for a in grid for b in grid if a < b}
    return sorted(pairs)


def extract_and_match(job: dict[str, Any], database: Path) -> None:
    """SIFT features under the masks and verified matches of the chosen pairs."""
    import pycolmap as pc

    names: list[str] = job["names"]
    reader = pc.ImageReaderOptions()
    reader.camera_model = job["camera"]["model"]
    reader.camera_params = ",".join(f"{v:.17g}" for v in job["camera"]["params"])
    reader.mask_path = job["masks"]
    extraction = pc.FeatureExtractionOptions()
    extraction.num_threads = job["threads"]
    extraction.sift.max_num_features = job["max_features"]
    extraction.sift.peak_threshold = job["sift_peak"]
    extraction.sift.first_octave = job["first_octave"]
    _say("features", 0, len(names))
    single = pc.CameraMode.SINGLE
    pc.extract_features(database, job["images"], names[:1], single, reader, extraction)
    reader.existing_camera_id = _enter_frames(database, names[1:])
    chunk = max(4, -(-len(names) // 10))
    for k in range(1, len(names), chunk):
        _say("features", k, len(names))
        part = names[k : k + chunk]
        pc.extract_features(database, job["images"], part, single, reader, extraction)
    matching = pc.FeatureMatchingOptions()
    matching.num_threads = job["threads"]
    matching.guided_matching = job["guided"]
    verification = pc.TwoViewGeometryOptions()
    verification.ransac.max_error = 2.0
    verification.ransac.random_seed = job["seed"]
    verification.detect_watermark = False
    pairs = pairs_to_match(len(names), job["overlap"])
    chunk = max(50, -(-len(pairs) // 10))
    listing = pc.ImportedPairingOptions()
    for k in range(0, len(pairs), chunk):
        _say("matching", k, len(pairs))
        file = database.with_name("pairs.txt")
        file.write_text("".join(f"{names[a]} {names[b]}\n" for a, b in pairs[k : k + chunk]))
        listing.match_list_path = str(file)
        pc.match_image_pairs(database, matching, listing, verification)


def _enter_frames(database: Path, names: list[str]) -> int:
    """Give frames their numbers in the database, in order; returns the id of the one camera.

    Left to the extractor, they are numbered as its threads finish, and all that comes after (the
    order of pairs, the seeds of their RANSAC) differs from run to run.
    """
    import pycolmap as pc

    with pc.Database.open(database) as db:
        camera_id: int = next(iter(db.read_all_cameras())).camera_id
        rig_id = next(iter(db.read_all_rigs())).rig_id
        sensor = pc.sensor_t(pc.SensorType.CAMERA, camera_id)
        for name in names:
            image_id = db.write_image(pc.Image(name=name, camera_id=camera_id))
            frame = pc.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(pc.data_t(sensor, image_id))
            db.write_frame(frame)
    return camera_id


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

    _say("mapping")
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
        _say("mapping", k, len(_FIRST_ANGLES))
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


def _poses_of(model: Any) -> dict[str, np.ndarray]:
    """World-from-camera matrices by image name."""
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
    in all frames. They are many, so that an unknown lens may have its principal point refined, and
    some are of something else: misses count for ever less (Cauchy).
    """
    import pycolmap as pc

    options = pc.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_rig_from_world = not fixed_poses
    options.refine_focal_length = options.refine_extra_params = not job["calibrated"]
    loss = pc.LossFunctionType
    options.refine_principal_point = searched and not job["calibrated"]
    options.ceres.loss_function_type = loss.CAUCHY if searched else loss.SOFT_L1
    options.ceres.loss_function_scale = loss_px
    solver = options.ceres.solver_options
    solver.num_threads = job["solver_threads"]
    solver.max_num_iterations = 100
    solver.function_tolerance = 1e-8
    for _ in range(2):
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


def settle(
    models: list[Any], job: dict[str, Any], database: Path, matches: sfm_check.Matches, folder: Path
) -> tuple[Any, list[int], int]:
    """One adjusted model of a mapper's models; sizes of those left out; how many were joined.

    Each frame is placed again from all its matches until none moves.
    """
    _say("bundle adjustment")
    model = models[0]
    poses, tied = merge([_poses_of(m) for m in models])
    for step in range(3):
        checked, changes = sfm_check.place_again(model, matches, poses, job["seed"])
        if changes or (step == 0 and tied):
            camera = next(iter(model.cameras.values()))
            model = with_known_poses(job, database, checked, camera, folder)
        adjust(model, job)
        poses = _poses_of(model)
        if not changes:
            break
    return model, [m.num_reg_images() for m in models[1:]], tied


def lens_and_poses(model: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The camera of a model and world_from_camera by name."""
    return next(iter(model.cameras.values())), _poses_of(model)


def _is_sound(model: Any, matches: sfm_check.Matches) -> bool:
    """All frames have a place, and no place of the path is tied loosely: no other mapper asked."""
    link = sfm_check.weakest_link(matches, *lens_and_poses(model))
    return model.num_reg_images() == len(matches.names) and link is not None and link[1] > _SOUND


def explained(model: Any, matches: sfm_check.Matches) -> float:
    """How well the poses explain all verified matches, those too that a mapper has dropped."""
    fits = sfm_check.fit_of_matches(matches, *lens_and_poses(model))
    return sum(float(f.sum()) for f in fits.values())


def main(job_file: str) -> int:
    """Run a job to its end; the model lies in <work>/model, the outcome in <work>/result.json."""
    import pycolmap as pc

    pc.set_random_seed(0)
    work = Path(job_file).parent
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    database = work / "database.db"
    matched = work / "matched.json"
    if not matched.is_file():
        for stale in work.glob("database.db*"):
            stale.unlink()
        extract_and_match(job, database)
        matched.write_text("{}")
    matches = sfm_check.Matches(database)
    result: dict[str, Any] = {"inlier_matches": sum(len(m) for m in matches.pairs.values())}
    model: Any = None
    others: list[int] = []
    tied = 0
    if job.get("poses"):
        _say("triangulation")
        poses = {name: np.array(m) for name, m in job["poses"].items()}
        model = with_known_poses(job, database, poses, None, work / "given")
        adjust(model, job, fixed_poses=True)
        if job["sharpen"]:
            result["sharpened"] = sfm_refine.sharpen(model, Path(job["images"]))
            adjust(model, job, fixed_poses=True, loss_px=0.5)
            sfm_refine.drop_narrow(model, triangulation_angles(model), list(model.points3D))
    else:
        candidates = []
        for mapper in (map_globally, map_frames):
            models = mapper(job, database, work / mapper.__name__)
            if models:
                candidates.append(settle(models, job, database, matches, work / "checked"))
                if _is_sound(candidates[-1][0], matches):
                    break
        if candidates:
            model, others, tied = max(candidates, key=lambda c: explained(c[0], matches))
            result["weakest_link"] = sfm_check.weakest_link(matches, *lens_and_poses(model))
            if job["sharpen"]:
                _say("sharpening")
                result["sharpened"] = sfm_refine.sharpen(model, Path(job["images"]))
                adjust(model, job, loss_px=0.5)
                _say("longer tracks")
                model = sfm_refine.extended(model, Path(job["images"]), Path(job["masks"]))
                adjust(model, job, loss_px=0.5, searched=True)
                sfm_refine.drop_outliers(model, 1.0)
                adjust(model, job, loss_px=0.5, searched=True)
                sfm_refine.drop_narrow(model, triangulation_angles(model), list(model.points3D))
    lens = next(iter(model.cameras.values())) if model is not None else matches.camera
    result["parallax_px"], result["parallax_deg"], result["pairs"] = sfm_check.parallax(
        matches, lens
    )
    out = work / "model"
    shutil.rmtree(out, ignore_errors=True)
    if model is not None and model.num_reg_images() >= 2:
        out.mkdir()
        angles = triangulation_angles(model)
        model.write_binary(out)
        result["median_angle_deg"] = float(np.median(angles)) if len(angles) else 0.0
        result["registered"] = model.num_reg_images()
    result["other_models"], result["merged_models"] = others, tied
    result["key"] = job["key"]
    temporary = work / "result.json.tmp"
    temporary.write_text(json.dumps(result))
    temporary.replace(work / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
