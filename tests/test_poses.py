"""Poses: structure from motion on a made tube with exact truth, refusals, given poses, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from moving_pictures import finish, path_of_cameras, tube_frames

from endorecon import geometry, poses
from endorecon.config import PosesConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.io import trajectories
from endorecon.scene import Camera

PINHOLE = Camera(320, 240, 210.0, 211.0, 161.0, 119.0)
BARREL = replace(PINHOLE, model="OPENCV", distortion=(-0.25, 0.06, 0.001, -0.001))
FISHEYE = replace(
    PINHOLE, fx=130.0, fy=130.0, model="OPENCV_FISHEYE", distortion=(-0.02, 0.004, 0.0, 0.0)
)
COUNT = 14


def errors(result: poses.PosesResult, truth: np.ndarray) -> tuple[float, float]:
    """Median rotation error in degrees and centre error in tube units (radius 10), aligned."""
    ours, theirs = result.views.world_from_camera, truth[result.views.frame_index]
    moved = geometry.transform_pose(geometry.align_cameras(ours, theirs), ours)
    turn = geometry.rotation_angle_deg(moved[:, :3, :3].transpose(0, 2, 1) @ theirs[:, :3, :3])
    gap = np.linalg.norm(moved[:, :3, 3] - theirs[:, :3, 3], axis=1)
    return float(np.median(turn)), float(np.median(gap))


def reprojection(result: poses.PosesResult) -> float:
    """Median distance between observed and projected points in the undistorted views."""
    v, p = result.views, result.views.points
    out = []
    for k in range(len(v)):
        rows = p.view_of == k
        uv, _ = geometry.project(p.xyz[p.point_of[rows]], v.world_from_camera[k], v.camera.K)
        out.append(np.linalg.norm(uv - p.uv[rows], axis=1))
    return float(np.median(np.concatenate(out)))


@pytest.mark.slow
@pytest.mark.parametrize("camera", [PINHOLE, BARREL, FISHEYE], ids=lambda c: c.model)
def test_a_known_lens_gives_all_poses_and_points_in_the_undistorted_views(
    camera: Camera, tmp_path: Path
) -> None:
    truth = path_of_cameras(COUNT)
    result = finish(poses.estimate_views(tube_frames(camera, truth), PosesConfig(), tmp_path, 0, 2))
    turn, gap = errors(result, truth)
    assert len(result.views) == COUNT and result.dropped == ()
    assert turn < 0.15 and gap < 0.06
    assert result.median_angle_deg > 3
    # the observations are moved to the pinhole with the pictures: same error as in the source
    assert reprojection(result) < 0.6
    assert result.views.unit == "unitless" and result.views.scale_source is None


@pytest.mark.slow
def test_one_thread_and_a_seed_give_the_same_bits_and_a_finished_model_is_reused(
    tmp_path: Path,
) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(10))
    first = finish(poses.estimate_views(frames, PosesConfig(), tmp_path / "a", 3, 1))
    second = finish(poses.estimate_views(frames, PosesConfig(), tmp_path / "b", 3, 1))
    assert np.array_equal(first.views.world_from_camera, second.views.world_from_camera)
    assert np.array_equal(first.views.points.xyz, second.views.points.xyz)
    events = []
    again = poses.estimate_views(frames, PosesConfig(), tmp_path / "a", 3, 1)
    while True:
        try:
            events.append(next(again))
        except StopIteration as stop:
            reused = stop.value
            break
    assert events == []  # nothing was computed
    assert np.array_equal(first.views.world_from_camera, reused.views.world_from_camera)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_from_its_matches(tmp_path: Path) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(10))
    whole = finish(poses.estimate_views(frames, PosesConfig(), tmp_path / "a", 3, 1))
    cut = poses.estimate_views(frames, PosesConfig(), tmp_path / "b", 3, 1)
    for event in cut:
        if event.stage == "mapping":
            cut.close()
            break
    assert not (tmp_path / "b" / "result.json").exists()
    stages = []
    rest = poses.estimate_views(frames, PosesConfig(), tmp_path / "b", 3, 1)
    while True:
        try:
            stages.append(next(rest).stage)
        except StopIteration as stop:
            resumed = stop.value
            break
    assert "features" not in stages and "mapping" in stages
    assert np.array_equal(whole.views.world_from_camera, resumed.views.world_from_camera)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["still", "turning"])
def test_a_camera_that_stands_or_only_turns_is_refused_with_the_angle(
    kind: str, tmp_path: Path
) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(10, kind))
    with pytest.raises(
        NotEnoughInformation, match=r"no parallax.*degrees, need at least"
    ) as caught:
        finish(poses.estimate_views(frames, PosesConfig(), tmp_path, 0, 2))
    assert caught.value.exit_code == 4


def test_smooth_walls_are_refused_with_the_share_and_three_remedies(tmp_path: Path) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(8))
    frames = replace(frames, images=np.full_like(frames.images, 120))
    with pytest.raises(NotEnoughInformation, match=r"0 of 8 frames \(0 %\)") as caught:
        finish(poses.estimate_views(frames, PosesConfig(), tmp_path, 0, 1))
    for remedy in ("film slower", "sideways", "--poses"):
        assert remedy in str(caught.value)


@pytest.mark.slow
def test_an_unknown_lens_is_refined_and_the_user_is_warned(tmp_path: Path) -> None:
    truth = path_of_cameras(20)
    frames = tube_frames(PINHOLE, truth, known=False)
    config = PosesConfig(camera_model="PINHOLE")
    result = finish(poses.estimate_views(frames, config, tmp_path, 0, 2))
    assert result.refined_intrinsics
    assert any("No calibration" in w for w in result.warnings)
    assert abs(result.camera.fx / PINHOLE.fx - 1) < 0.05
    turn, _ = errors(result, truth)
    assert turn < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["transforms", "tum"])
def test_given_poses_stay_as_given_and_their_points_lie_on_the_tube(
    form: str, tmp_path: Path
) -> None:
    truth = path_of_cameras(10)
    frames = tube_frames(PINHOLE, truth)
    path = tmp_path / ("transforms.json" if form == "transforms" else "poses.txt")
    if form == "tum":
        trajectories.write_tum(path, truth, frames.time_s)
    else:
        flip = np.diag([1.0, -1.0, -1.0, 1.0])
        rows = [
            {"frame_index": k, "transform_matrix": (m @ flip).tolist()} for k, m in enumerate(truth)
        ]
        path.write_text(json.dumps({"unit": "mm", "frames": rows}))
    result = finish(poses.given_views(frames, path, PosesConfig(), tmp_path / "work", 0, 2))
    assert np.allclose(result.views.world_from_camera, truth, atol=1e-6)
    xyz = result.views.points.xyz
    off_wall = np.abs(np.linalg.norm(xyz[:, :2], axis=1) - 10.0)
    off = np.minimum(off_wall, np.abs(xyz[:, 2] - 45.0))
    assert len(xyz) > 100 and np.median(off) < 0.15
    assert result.views.unit == ("mm" if form == "transforms" else "unitless")


def test_poses_of_other_frames_are_refused(tmp_path: Path) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(4))
    path = tmp_path / "poses.txt"
    trajectories.write_tum(path, path_of_cameras(4), np.arange(4) + 100.0)
    with pytest.raises(InputRefused, match="0 of the 4 frames"):
        finish(poses.given_views(frames, path, PosesConfig(), tmp_path / "work"))


def test_a_model_name_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(3), known=False)
    with pytest.raises(InputRefused, match="camera model"):
        finish(poses.estimate_views(frames, PosesConfig(camera_model="BANANA"), tmp_path))


def test_partial_models_that_share_frames_are_tied_by_a_similarity() -> None:
    from endorecon import sfm

    truth = path_of_cameras(12)
    names = [f"{k:06d}.png" for k in range(12)]
    other = geometry.compose(
        geometry.rotation_from_quaternion([0.9, 0.1, 0.3, 0.2]), [1, 2, 3], 0.4
    )
    first = dict(zip(names[:8], truth[:8]))
    second = dict(zip(names[5:], geometry.transform_pose(other, truth[5:])))
    merged, tied = sfm.merge([first, second])
    assert tied == 1 and len(merged) == 12
    for name, pose in zip(names, truth):
        assert np.allclose(merged[name], pose, atol=1e-6)


def test_partial_models_that_contradict_each_other_are_not_tied() -> None:
    from endorecon import sfm

    truth = path_of_cameras(12)
    names = [f"{k:06d}.png" for k in range(12)]
    second = dict(zip(names[5:], truth[5:][::-1]))
    merged, tied = sfm.merge([dict(zip(names[:8], truth[:8])), second])
    assert tied == 0 and len(merged) == 8
