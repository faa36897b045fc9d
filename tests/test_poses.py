"""Poses: structure from motion on a made tube with exact truth, refusals, given poses, resume."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving_pictures import finish, path_of_cameras, tube_frames

from endorecon import geometry, poses, sfm_check, sfm_lens
from endorecon.config import PosesConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.io import trajectories
from endorecon.scene import Camera, Frames

PINHOLE = Camera(320, 240, 210.0, 211.0, 161.0, 119.0)
BARREL = replace(PINHOLE, model="OPENCV", distortion=(-0.25, 0.06, 0.001, -0.001))
FISHEYE = replace(
    PINHOLE, fx=130.0, fy=130.0, model="OPENCV_FISHEYE", distortion=(-0.02, 0.004, 0.0, 0.0)
)
COUNT = 12
ONE_THREAD = PosesConfig(threads=1)  # of matching and mapping: features take all cores


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
    result = finish(poses.estimate_views(tube_frames(camera, truth), PosesConfig(), tmp_path, 0))
    turn, gap = errors(result, truth)
    assert len(result.views) == COUNT and result.dropped == ()
    assert turn < 0.15 and gap < 0.06
    assert result.median_angle_deg > 3
    # the observations are moved to the pinhole with the pictures: same error as in the source
    assert reprojection(result) < 0.6
    assert result.views.unit == "unitless" and result.views.scale_source is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frames, Path, poses.PosesResult]:
    """An uninterrupted run, matched and mapped by one thread: frames, its folder, its result."""
    frames, work = tube_frames(PINHOLE, path_of_cameras(10)), tmp_path_factory.mktemp("whole")
    return frames, work, finish(poses.estimate_views(frames, ONE_THREAD, work, 3))


def stages(generator: Any) -> tuple[list[str], poses.PosesResult]:
    """Names of the events and the result."""
    out = []
    while True:
        try:
            out.append(next(generator).stage)
        except StopIteration as stop:
            return out, stop.value


@pytest.mark.slow
def test_a_finished_model_is_found_again_and_another_seed_is_another_model(whole: Any) -> None:
    frames, work, first = whole
    told, again = stages(poses.estimate_views(frames, ONE_THREAD, work, 3))
    assert told == []  # nothing was computed
    assert np.array_equal(first.views.world_from_camera, again.views.world_from_camera)
    assert next(poses.estimate_views(frames, ONE_THREAD, work, 4)).stage == "pictures"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_matches_to_the_same_bits(whole: Any, tmp_path: Path) -> None:
    frames, _, first = whole
    cut = poses.estimate_views(frames, ONE_THREAD, tmp_path, 3)
    assert "mapping" in (event.stage for event in cut)  # stops there
    cut.close()
    assert not (tmp_path / "result.json").exists()
    told, resumed = stages(poses.estimate_views(frames, ONE_THREAD, tmp_path, 3))
    assert "features" not in told and "mapping" in told
    assert np.array_equal(first.views.world_from_camera, resumed.views.world_from_camera)
    assert np.array_equal(first.views.points.xyz, resumed.views.points.xyz)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["still", "turning"])
def test_a_camera_that_stands_or_only_turns_is_refused_with_the_angle(
    kind: str, tmp_path: Path
) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(10, kind))
    with pytest.raises(
        NotEnoughInformation, match=r"no parallax.*degrees, need at least"
    ) as caught:
        finish(poses.estimate_views(frames, PosesConfig(), tmp_path, 0))
    assert caught.value.exit_code == 4


def test_smooth_walls_are_refused_with_the_share_and_three_remedies(tmp_path: Path) -> None:
    frames = tube_frames(PINHOLE, path_of_cameras(8))
    frames = replace(frames, images=np.full_like(frames.images, 120))
    with pytest.raises(NotEnoughInformation, match=r"0 of 8 frames \(0 %\)") as caught:
        finish(poses.estimate_views(frames, ONE_THREAD, tmp_path, 0))
    for remedy in ("film slower", "sideways", "--poses"):
        assert remedy in str(caught.value)


def colmap_lens(k1: float, k2: float = 0.0, centre: tuple[float, float] = (160.0, 120.0)) -> Any:
    import pycolmap as pc

    parameters = [200.0, *centre, k1, k2]
    return pc.Camera(model="RADIAL", width=320, height=240, params=parameters)


@pytest.mark.parametrize(("k1", "k2", "wrong"), [(0.06, -0.04, True), (-0.1, 0.02, False)])
def test_no_endoscope_magnifies_more_at_the_rim(k1: float, k2: float, wrong: bool) -> None:
    lens = colmap_lens(k1, k2)
    assert sfm_lens.is_pincushion(lens) is wrong
    sfm_lens.without_distortion(lens)
    assert (lens.model.name, list(lens.params)) == ("SIMPLE_PINHOLE", [200.0, 160.0, 120.0])
    assert not sfm_lens.is_pincushion(lens)


def test_a_principal_point_far_from_the_middle_is_put_back() -> None:
    assert not sfm_lens.has_stray_centre(colmap_lens(0.0, centre=(168.0, 117.0)))
    lens = colmap_lens(0.0, centre=(160.0, 131.0))
    assert sfm_lens.has_stray_centre(lens)
    sfm_lens.centre(lens)
    assert list(lens.params)[1:3] == [160.0, 120.0]


@pytest.mark.slow
def test_an_unknown_barrel_lens_keeps_its_distortion(tmp_path: Path) -> None:
    truth = path_of_cameras(20)
    frames = tube_frames(BARREL, truth, known=False)
    result = finish(poses.estimate_views(frames, PosesConfig(), tmp_path, 0))
    assert result.camera.distortion[0] < -0.1
    assert abs(result.camera.fx / BARREL.fx - 1) < 0.05
    turn, _ = errors(result, truth)
    assert turn < 1.0


@pytest.mark.slow
def test_an_unknown_lens_is_refined_and_the_user_is_warned(tmp_path: Path) -> None:
    truth = path_of_cameras(20)
    frames = tube_frames(PINHOLE, truth, known=False)
    config = PosesConfig(camera_model="PINHOLE")
    result = finish(poses.estimate_views(frames, config, tmp_path, 0))
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
    result = finish(poses.given_views(frames, path, PosesConfig(), tmp_path / "work", 0))
    assert np.allclose(result.views.world_from_camera, truth, atol=1e-6)
    xyz = result.views.points.xyz
    off_wall = np.abs(np.linalg.norm(xyz[:, :2], axis=1) - 10.0)
    off = np.minimum(off_wall, np.abs(xyz[:, 2] - 45.0))
    assert len(xyz) > 100 and np.median(off) < 0.15
    assert result.views.unit == ("mm" if form == "transforms" else "unitless")


@pytest.mark.slow
@pytest.mark.parametrize("undistorted", [False, True])
def test_a_lens_for_frames_that_are_undistorted_already_is_noticed(
    undistorted: bool, tmp_path: Path
) -> None:
    """The trap of public data: a calibration of the raw video beside frames without distortion."""
    truth = path_of_cameras(COUNT)
    filmed = replace(BARREL, model="PINHOLE", distortion=()) if undistorted else BARREL
    frames = replace(tube_frames(filmed, truth), camera=None)
    given = {
        "w": 320, "h": 240, "fl_x": BARREL.fx, "fl_y": BARREL.fy, "cx": BARREL.cx, "cy": BARREL.cy,
        "camera_model": "OPENCV", "k1": -0.25, "k2": 0.06, "p1": 0.001, "p2": -0.001,
        "frames": [
            {"file_path": f"{k:06d}.png", "frame_index": int(i),
             "transform_matrix": (truth[i] @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()}
            for k, i in enumerate(frames.frame_index)
        ],
    }  # fmt: skip
    file = tmp_path / "transforms.json"
    file.write_text(json.dumps(given))
    result = finish(poses.given_views(frames, file, PosesConfig(), tmp_path / "work", 0))
    assert any("already need a pinhole" in w for w in result.warnings) == undistorted
    assert (0.001 < result.depth_sigma < 0.2) if undistorted else result.depth_sigma == 0.0


def test_matches_off_their_lines_make_depth_unsure_by_parallax() -> None:
    # 0.5 px of 200 at 5 degrees: 0.0025 rad of 0.087, a sigma of it being 1.48 medians
    assert poses.misfit_sigma(0.5, 0.0, 200.0, 5.0) == pytest.approx(0.0425, rel=0.01)
    assert poses.misfit_sigma(0.5, 0.3, 200.0, 5.0) == pytest.approx(0.034, rel=0.01)
    assert poses.misfit_sigma(0.2, 0.3, 200.0, 5.0) == 0.0


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
    from endorecon import sfm_map

    truth = path_of_cameras(12)
    names = [f"{k:06d}.png" for k in range(12)]
    other = geometry.compose(
        geometry.rotation_from_quaternion([0.9, 0.1, 0.3, 0.2]), [1, 2, 3], 0.4
    )
    first = dict(zip(names[:8], truth[:8]))
    second = dict(zip(names[5:], geometry.transform_pose(other, truth[5:])))
    merged, tied = sfm_map.merge([first, second])
    assert tied == 1 and len(merged) == 12
    for name, pose in zip(names, truth):
        assert np.allclose(merged[name], pose, atol=1e-6)


def test_partial_models_that_contradict_each_other_are_not_tied() -> None:
    from endorecon import sfm_map

    truth = path_of_cameras(12)
    names = [f"{k:06d}.png" for k in range(12)]
    second = dict(zip(names[5:], truth[5:][::-1]))
    merged, tied = sfm_map.merge([dict(zip(names[:8], truth[:8])), second])
    assert tied == 0 and len(merged) == 8


def test_a_frame_that_stands_in_the_wrong_place_is_put_right_from_its_matches(
    tmp_path: Path,
) -> None:
    """The child process does it (pycolmap and cv2 do not share one), on a model of known points."""
    program = """
import sys, numpy as np, pycolmap as pc
from endorecon import geometry, sfm_check
rng = np.random.default_rng(0)
camera = pc.Camera(model="PINHOLE", width=320, height=240, params=[200, 200, 160, 120], camera_id=1)
xyz = rng.uniform([-4, -3, 8], [4, 3, 16], (120, 3))
truth = {k: geometry.compose(np.eye(3), [0.4 * k, 0.1 * k, 0.2 * k]) for k in range(1, 6)}
placed = dict(truth)
placed[5] = geometry.compose(geometry.rotation_from_quaternion([1, 0.1, 0.2, 0]), [3.0, 0, 0])
model = pc.Reconstruction()
model.add_camera_with_trivial_rig(camera)
uv = {}
for k, pose in truth.items():
    uv[k], _ = geometry.project(xyz, pose, np.array([[200, 0, 160], [0, 200, 120], [0, 0, 1.0]]))
    image = pc.Image(name=f"{k}.png", camera_id=1, image_id=k, keypoints=uv[k])
    model.add_image_with_trivial_frame(image, pc.Rigid3d(geometry.invert(placed[k])[:3]))
for i, x in enumerate(xyz):
    track = pc.Track()
    for k in range(1, 5):
        track.add_element(k, i)
    model.add_point3D(x, track)
matches = sfm_check.Matches.__new__(sfm_check.Matches)
matches.camera, matches.names = camera, {k: f"{k}.png" for k in truth}
matches.keypoints = uv
rows = np.stack([np.arange(120)] * 2, 1)
matches.pairs = {(a, b): rows for a in truth for b in truth if a < b}
poses = {f"{k}.png": p for k, p in placed.items() if k != 4}  # and the mapper gave up frame 4
found, changes = sfm_check.place_again(model, matches, poses, 0)
assert changes == 2, changes
for k in truth:
    assert np.allclose(found[f"{k}.png"], truth[k], atol=1e-3), k
pixels, degrees, pairs = sfm_check.parallax(matches, camera)
assert pixels > 3 and pairs == 10, pixels
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-800:]


def test_a_bend_in_the_path_shows_in_the_matches_that_cross_it() -> None:
    class Lens:
        @staticmethod
        def cam_from_img(uv: np.ndarray) -> np.ndarray:
            return (uv - [160, 120]) / 200.0

        @staticmethod
        def mean_focal_length() -> float:
            return 200.0

    rng = np.random.default_rng(0)
    xyz = rng.uniform([-4, -3, 8], [4, 3, 16], (120, 3))
    K = np.array([[200.0, 0, 160], [0, 200, 120], [0, 0, 1]])
    truth = {
        f"{k:06d}.png": geometry.compose(np.eye(3), np.array([0.4 * k, 0.1 * k, 0.2 * k]))
        for k in range(8)
    }
    matches = sfm_check.Matches.__new__(sfm_check.Matches)
    matches.names = dict(enumerate(truth))
    matches.keypoints = {k: geometry.project(xyz, p, K)[0] for k, p in enumerate(truth.values())}
    rows = np.stack([np.arange(120)] * 2, 1)
    matches.pairs = {(a, b): rows for a in range(8) for b in range(a + 1, min(a + 3, 8))}
    sound = sfm_check.fit_of_matches(matches, Lens, truth)
    assert min(f.min() for f in sound.values()) > 0.999
    place, link = sfm_check.weakest_link(matches, Lens, truth) or ("", 0.0)
    assert link > 0.999
    # The whole rear half is turned about the camera at which it begins: each half fits by itself.
    hinge = geometry.rotation_from_quaternion([1.0, 0.0, 0.04, 0.02])
    pivot = truth["000004.png"][:3, 3]
    turn = geometry.compose(hinge, pivot - hinge @ pivot)
    bent = {n: turn @ p if n >= "000004.png" else p for n, p in truth.items()}
    place, link = sfm_check.weakest_link(matches, Lens, bent) or ("", 1.0)
    assert place == "000003.png" and link < 0.65, (place, link)
    fits = sfm_check.fit_of_matches(matches, Lens, bent)
    assert fits[0, 1].min() > 0.999 and fits[5, 6].min() > 0.999 and fits[3, 4].mean() < 0.6
    del bent["000007.png"]  # without a pose a frame explains nothing
    assert not sfm_check.fit_of_matches(matches, Lens, bent)[6, 7].any()


@pytest.mark.slow
@pytest.mark.data
def test_the_short_real_nasal_video_agrees_with_its_reference(
    data_dir: Path, tmp_path: Path
) -> None:
    from endorecon.config import VideoConfig
    from endorecon.io import calibration, video

    folder = data_dir / "nasal-endoscopy-short"
    camera = calibration.read_camera(folder / "cameras.json")
    frames = video.read_frames(folder / "video.mp4", VideoConfig(max_width=640), camera)
    every_third = slice(None, None, 3)
    frames = replace(
        frames,
        images=frames.images[every_third],
        masks=frames.masks[every_third],
        frame_index=frames.frame_index[every_third],
        time_s=frames.time_s[every_third],
    )
    result = finish(poses.estimate_views(frames, PosesConfig(), tmp_path, 0))
    rows = json.loads((folder / "cameras.json").read_text())["frames"]
    turn, _ = errors(result, np.array([r["camera_to_world"] for r in rows]))
    assert len(result.views) >= 0.8 * len(frames) and turn < 0.5


def test_patches_are_warped_by_the_plane_through_the_points_near_by() -> None:
    from endorecon import sfm_refine

    class Pinhole:
        def img_from_cam(self, xyz: np.ndarray) -> np.ndarray:
            return 300 * xyz[:, :2] / xyz[:, 2:] + 150

    rng = np.random.default_rng(0)
    true = np.array([0.6, 0.0, -0.8])  # a wall slanted by 37 degrees, 20 before the camera
    xy = rng.uniform(-6, 6, (400, 2))
    wall = np.column_stack([xy, 20 + 0.75 * xy[:, 0] + rng.normal(0, 0.02, 400)])
    towards = -wall / np.linalg.norm(wall, axis=1, keepdims=True)
    normals = sfm_refine.surface_normals(wall, towards)
    angle = np.degrees(np.arccos(np.clip(normals @ true, -1, 1)))
    assert np.median(angle) < 1.0 and np.quantile(angle, 0.95) < 4.0
    # points without a plane round them: the wall is taken to face the camera
    cloud = rng.normal((0, 0, 40), 5, (200, 3))
    facing = -cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    assert (sfm_refine.surface_normals(cloud, facing) == facing).all(1).mean() > 0.8

    a = np.eye(4)[:3]
    b = np.column_stack([np.eye(3), [-1.5, 0.4, -6.0]])  # six nearer, and beside
    point, step = np.array([[1.0, -2.0, 20.75]]), np.array([0.9, -1.3])
    warp = sfm_refine._warp(Pinhole(), a, b, point, true[None])[0]
    uv = Pinhole().img_from_cam(point)[0] + 0.01 * step
    ray = np.append((uv - 150) / 300, 1.0)
    other = ray * (true @ point[0]) / (true @ ray)  # where that pixel meets the wall
    moved = Pinhole().img_from_cam(np.stack([other, point[0]]) + b[:, 3])
    np.testing.assert_allclose(warp @ (0.01 * step), moved[0] - moved[1], rtol=2e-3)
