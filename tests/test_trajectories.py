"""Poses in files: axes, direction, order, COLMAP models against pycolmap (in its own process)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from endorecon import geometry
from endorecon.errors import InputRefused
from endorecon.io import calibration, colmap, trajectories
from endorecon.scene import Camera, SparsePoints, Views


def make_views(n: int = 3) -> Views:
    rng = np.random.default_rng(1)
    camera = Camera(64, 48, 50.0, 51.0, 32.5, 24.0)
    poses = np.array(
        [
            geometry.compose(
                geometry.rotation_from_quaternion(rng.normal(size=4)), rng.normal(size=3)
            )
            for _ in range(n)
        ]
    )
    points = SparsePoints(
        xyz=rng.normal(size=(4, 3)),
        error_px=np.array([0.5, 0.25, 1.0, 2.0]),
        point_of=np.array([0, 0, 1, 1, 2, 3, 3]),
        view_of=np.array([0, 1, 1, 2, 0, 0, 2]),
        uv=rng.uniform(1, 40, (7, 2)),
    )
    return Views(
        camera=camera,
        images=rng.integers(0, 255, (n, 48, 64, 3)).astype(np.uint8),
        masks=np.ones((n, 48, 64), bool),
        world_from_camera=poses,
        frame_index=np.arange(n) * 5,
        time_s=np.arange(n) / 6,
        points=points,
    )


def test_transforms_come_back_with_frame_index_and_time(tmp_path: Path) -> None:
    views = make_views()
    trajectories.write_transforms(tmp_path / "t.json", views, {"seed": 7})
    back = trajectories.read_transforms(tmp_path / "t.json")
    assert np.allclose(back.world_from_camera, views.world_from_camera, atol=1e-12)
    assert np.array_equal(back.frame_index, [0, 5, 10]) and np.allclose(back.time_s, views.time_s)
    assert back.camera == views.camera and back.unit == "unitless"
    assert json.loads((tmp_path / "t.json").read_text())["seed"] == 7


def test_the_truth_of_a_phantom_can_be_given_as_poses_and_as_a_lens(tmp_path: Path) -> None:
    views = make_views()
    c, file = views.camera, tmp_path / "cameras.json"
    truth = {
        "K": c.K.tolist(), "fx": c.fx, "fy": c.fy, "cx": c.cx, "cy": c.cy, "width": c.width,
        "height": c.height, "model": "PINHOLE", "distortion": [], "unit": "mm",
        "convention": "world_from_camera, OpenCV axes, pixel centres at .5, z-depth",
        "frames": [
            {"frame_index": k, "time_s": 0.1 * k, "world_from_camera": pose.tolist()}
            for k, pose in enumerate(views.world_from_camera)
        ],
    }  # fmt: skip
    file.write_text(json.dumps(truth))
    back = trajectories.read_poses(file)
    assert np.allclose(back.world_from_camera, views.world_from_camera, atol=1e-9)
    assert back.unit == "mm" and back.camera == views.camera
    assert calibration.read_camera(file) == views.camera


def test_transforms_have_opengl_axes_checked_with_a_known_camera(tmp_path: Path) -> None:
    # nerfstudio's convention: a camera that looks along world -z with y up is the identity
    (tmp_path / "t.json").write_text(
        json.dumps({"frames": [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}]})
    )
    pose = trajectories.read_transforms(tmp_path / "t.json").world_from_camera[0]
    assert np.allclose(pose[:3, 2], [0, 0, -1])  # our z (forward) looks along world -z
    assert np.allclose(pose[:3, 1], [0, -1, 0])  # our y (down) is world -y


def test_tum_comes_back_and_has_its_quaternion_last(tmp_path: Path) -> None:
    views = make_views()
    trajectories.write_tum(tmp_path / "p.txt", views.world_from_camera, views.time_s)
    back = trajectories.read_tum(tmp_path / "p.txt")
    assert np.allclose(back.world_from_camera, views.world_from_camera, atol=1e-6)
    (tmp_path / "q.txt").write_text("# t x y z qx qy qz qw\n0 1 2 3 0 0 0 1\n")
    assert np.allclose(
        trajectories.read_tum(tmp_path / "q.txt").world_from_camera[0],
        geometry.compose(np.eye(3), [1, 2, 3]),
    )


@pytest.mark.parametrize("text", [False, True])
def test_a_colmap_model_comes_back(text: bool, tmp_path: Path) -> None:
    model = colmap.colmap_from_views(make_views())
    colmap.write_colmap(tmp_path, model, text)
    back = colmap.read_colmap(tmp_path)
    assert back.cameras == model.cameras and back.names == model.names
    for k in model.names:
        assert np.allclose(back.world_from_camera[k], model.world_from_camera[k], atol=1e-12)
        assert np.array_equal(back.keypoints[k], model.keypoints[k])
        assert np.array_equal(back.keypoint_points[k], model.keypoint_points[k])
    for k in model.xyz:
        assert np.array_equal(back.xyz[k], model.xyz[k])
        assert np.array_equal(back.tracks[k], model.tracks[k])
        assert np.array_equal(back.color[k], model.color[k])


@pytest.mark.parametrize("text", [False, True])
def test_pycolmap_reads_our_model_and_sees_the_same_cameras(text: bool, tmp_path: Path) -> None:
    views = make_views()
    colmap.write_colmap(tmp_path, colmap.colmap_from_views(views), text)
    program = (
        "import pycolmap, json, sys\n"
        "r = pycolmap.Reconstruction(sys.argv[1])\n"
        "print(json.dumps([[r.image(k).name, r.image(k).projection_center().tolist(), "
        "r.camera(1).params.tolist(), r.num_points3D()] for k in sorted(r.reg_image_ids())]))"
    )
    run = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300)
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert [s[0] for s in seen] == ["000000.png", "000005.png", "000010.png"]
    assert np.allclose([s[1] for s in seen], views.world_from_camera[:, :3, 3], atol=1e-9)
    assert np.allclose(seen[0][2], [50.0, 51.0, 32.5, 24.0]) and seen[0][3] == 4


def test_sparse_points_keep_their_observations_through_colmap() -> None:
    views = make_views()
    model = colmap.colmap_from_views(views)
    back = colmap.sparse_points(model, {k + 1: k for k in range(len(views))})
    p = views.points
    assert np.array_equal(back.xyz, p.xyz) and np.array_equal(back.error_px, p.error_px)
    ours = sorted(zip(p.point_of, p.view_of, p.uv[:, 0], p.uv[:, 1]))
    theirs = sorted(zip(back.point_of, back.view_of, back.uv[:, 0], back.uv[:, 1]))
    assert np.allclose(np.array(ours, float), np.array(theirs, float))


def test_matrices_stored_by_columns_are_refused_not_believed(tmp_path: Path) -> None:
    pose = geometry.compose(
        np.eye(3), [1.0, 2.0, 3.0]
    ).T  # C3VD's trap: translation in the last row
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"frames": [{"transform_matrix": pose.tolist()}]}))
    with pytest.raises(InputRefused, match="last row"):
        trajectories.read_transforms(path)


def test_mirrored_poses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    mirrored = np.diag([1.0, 1.0, -1.0, 1.0])
    path.write_text(json.dumps({"frames": [{"transform_matrix": mirrored.tolist()}]}))
    with pytest.raises(InputRefused, match="mirrored"):
        trajectories.read_transforms(path)


def test_a_damaged_colmap_model_is_refused(tmp_path: Path) -> None:
    colmap.write_colmap(tmp_path, colmap.colmap_from_views(make_views()))
    data = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputRefused, match="damaged"):
        colmap.read_colmap(tmp_path)


@pytest.mark.parametrize("name", ["none.json", "folder", "poses.txt"])
def test_what_holds_no_poses_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "poses.txt").write_text("1 2 3\n")
    with pytest.raises(InputRefused):
        trajectories.read_poses(tmp_path / name)


def test_frames_find_their_poses_by_index_time_number_or_order() -> None:
    index, times = np.array([0, 5, 10]), np.array([0.0, 1 / 6, 2 / 6])
    eye = np.tile(np.eye(4), (3, 1, 1))
    by_index = trajectories.Trajectory(eye, frame_index=np.array([10, 5, 3]))
    assert trajectories.match_frames(by_index, index, times).tolist() == [-1, 1, 0]
    by_time = trajectories.Trajectory(eye, time_s=np.array([0.17, 0.01, 9.0]))
    assert trajectories.match_frames(by_time, index, times).tolist() == [1, 0, -1]
    by_number = trajectories.Trajectory(eye, names=("f_0010.png", "f_0005.png", "f_0001.png"))
    assert trajectories.match_frames(by_number, index, times).tolist() == [-1, 1, 0]
    every = trajectories.Trajectory(np.tile(np.eye(4), (12, 1, 1)), names=("260.jpg",) * 12)
    assert trajectories.match_frames(every, index, times).tolist() == [0, 5, 10]
