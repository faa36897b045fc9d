"""Structure from motion in a process of its own: `python -m endorecon.sfm job.json`.

pycolmap may not share a process with cv2 (their zlibs clash), so `sfm_job.py` writes pictures and
masks, starts this module, and reads the model with its own reader. One JSON object a line on
stdout tells the progress; `result.json` beside the model, written last, tells the outcome.
This module is the order of the stages: sfm_match, sfm_map, sfm_check, sfm_lens, sfm_refine,
sfm_focal. Nothing of endorecon but numpy-only modules is imported in any of them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import sfm_check, sfm_focal, sfm_lens, sfm_refine
from endorecon.sfm_map import (
    adjust,
    map_frames,
    map_globally,
    merge,
    poses_of,
    triangulation_angles,
    with_known_poses,
)
from endorecon.sfm_match import extract_and_match
from endorecon.sfm_progress import say

_SOUND = 0.85  # fit of the matches across the weakest place of the path, against its median


def settle(
    models: list[Any], job: dict[str, Any], database: Path, matches: sfm_check.Matches, folder: Path
) -> tuple[Any, list[int], int]:
    """One adjusted model of a mapper's models; sizes of those left out; how many were joined.

    Each frame is placed again from all its matches until none moves.
    """
    say("bundle adjustment")
    model = models[0]
    poses, tied = merge([poses_of(m) for m in models])
    for step in range(3):
        checked, changes = sfm_check.place_again(model, matches, poses, job["seed"])
        if changes or (step == 0 and tied):
            camera = next(iter(model.cameras.values()))
            model = with_known_poses(job, database, checked, camera, folder)
        adjust(model, job)
        poses = poses_of(model)
        if not changes:
            break
    return model, [m.num_reg_images() for m in models[1:]], tied


def lens_and_poses(model: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The camera of a model and world_from_camera by name."""
    return next(iter(model.cameras.values())), poses_of(model)


def _is_sound(model: Any, matches: sfm_check.Matches) -> bool:
    """All frames have a place, and no place of the path is tied loosely: no other mapper asked."""
    link = sfm_check.weakest_link(matches, *lens_and_poses(model))
    return model.num_reg_images() == len(matches.names) and link is not None and link[1] > _SOUND


def explained(model: Any, matches: sfm_check.Matches) -> float:
    """How well the poses explain all verified matches, those too that a mapper has dropped."""
    fits = sfm_check.fit_of_matches(matches, *lens_and_poses(model))
    return sum(float(f.sum()) for f in fits.values())


def _triangulated(
    job: dict[str, Any],
    database: Path,
    matches: sfm_check.Matches,
    work: Path,
    result: dict[str, Any],
) -> Any:
    """The model of cameras that were given."""
    say("triangulation")
    poses = {name: np.array(m) for name, m in job["poses"].items()}
    result["misses"] = sfm_check.misses(matches, matches.camera, poses)
    model = with_known_poses(job, database, poses, None, work / "given")
    adjust(model, job, fixed_poses=True)
    if job["sharpen"]:
        result["sharpened"] = sfm_refine.sharpen(model, Path(job["images"]))
        adjust(model, job, fixed_poses=True, loss_px=0.5)
        sfm_refine.drop_narrow(model, triangulation_angles(model), list(model.points3D))
    return model


def _mapped(
    job: dict[str, Any],
    database: Path,
    matches: sfm_check.Matches,
    work: Path,
    result: dict[str, Any],
) -> Any:
    """The model that explains the matches best, None when there is none; `result` is told of it."""
    candidates = []
    for mapper in (map_globally, map_frames):
        models = mapper(job, database, work / mapper.__name__)
        if models:
            candidates.append(settle(models, job, database, matches, work / "checked"))
            if _is_sound(candidates[-1][0], matches):
                break
    if not candidates:
        return None
    model, others, tied = max(candidates, key=lambda c: explained(c[0], matches))
    result["other_models"], result["merged_models"] = others, tied
    camera = next(iter(model.cameras.values()))
    if not job["calibrated"] and sfm_lens.is_pincushion(camera):
        sfm_lens.without_distortion(camera)
        adjust(model, job)
    result["weakest_link"] = sfm_check.weakest_link(matches, *lens_and_poses(model))
    if job["sharpen"]:
        model = _finer(model, job, result)
    if not job["calibrated"]:
        say("focal length")
        usual = float(job["camera"]["params"][0])  # that of a common endoscope
        result["focal_play"] = sfm_focal.believe(model, usual, job["solver_threads"])
    return model


def _finer(model: Any, job: dict[str, Any], result: dict[str, Any]) -> Any:
    """The model with its observations sharpened, and seen in all frames that show them."""
    images = Path(job["images"])
    say("sharpening")
    result["sharpened"] = sfm_refine.sharpen(model, images)
    adjust(model, job, loss_px=0.5)
    say("longer tracks")
    model = sfm_refine.extended(model, images, Path(job["masks"]))
    adjust(model, job, loss_px=0.5, searched=True)
    sfm_refine.drop_outliers(model, 1.0)
    adjust(model, job, loss_px=0.5, searched=True)
    sfm_refine.drop_narrow(model, triangulation_angles(model), list(model.points3D))
    return model


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
    result: dict[str, Any] = {
        "inlier_matches": sum(len(m) for m in matches.pairs.values()),
        "other_models": [],
        "merged_models": 0,
    }
    if job.get("poses"):
        model = _triangulated(job, database, matches, work, result)
    else:
        model = _mapped(job, database, matches, work, result)
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
    result["key"] = job["key"]
    temporary = work / "result.json.tmp"
    temporary.write_text(json.dumps(result))
    temporary.replace(work / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
