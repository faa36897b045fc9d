"""Data set readers on folders made to the published layouts: known poses, depths, lenses."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.geometry import compose, rotation_from_quaternion
from endorecon.io import datasets as ds
from endorecon.io.calibration import distort_pixels, read_camera, undistort_pixels
from endorecon.io.dataset_check import check_geometry
from endorecon.io.dataset_layouts import scared_poses, unity_poses
from endorecon.io.trajectories import read_poses
from endorecon.scene import Camera

W, H, N = 96, 72, 12
LENS = Camera(W, H, 80.0, 80.0, 48.5, 36.5)
PLANE = np.array([0.25, -0.15, 1.0, -45.0])  # a wall: n . x = 45 mm


def poses() -> np.ndarray:
    """world_from_camera that move and turn, with all entries different."""
    out = []
    for k in range(N):
        q = np.array([1.0, 0.004 * k, -0.006 * k, 0.008 * k])
        out.append(
            compose(rotation_from_quaternion(q / np.linalg.norm(q)), [1.1 * k, -0.7 * k, 0.5 * k])
        )
    return np.array(out)


def depth(pose: np.ndarray, lens: Camera = LENS) -> np.ndarray:
    """z (h, w) of the wall, slow and obvious: a ray a pixel."""
    v, u = np.indices((H, W)) + 0.5
    pinhole = replace(lens, model="PINHOLE", distortion=())
    uv = undistort_pixels(lens, pinhole, np.stack([u, v], -1))
    ray = np.dstack([(uv - [lens.cx, lens.cy]) / [lens.fx, lens.fy], np.ones((H, W))])
    n = PLANE[:3] @ pose[:3, :3]
    return (-PLANE[3] - PLANE[:3] @ pose[:3, 3]) / (ray @ n)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(path.suffix, image)
    assert good
    path.write_bytes(data.tobytes())


def picture(k: int) -> np.ndarray:
    return np.full((H, W, 3), 40 + k, np.uint8)


LENS_INI = """[camera]
width = 96
height = 72
cx = 48.5
cy = 36.5
ao = 80
a1 = 0
a2 = -0.004
a3 = 0
a4 = 0
c = 1
d = 0
e = 0
"""


def c3vd(folder: Path, row_major: bool = False, invert: bool = False, mm: float = 100.0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.ini").write_text(LENS_INI)
    lens = ds.fisheye_of_polynomial((W, H), (48.5, 36.5), [80, -0.004, 0, 0], [1, 0, 0], folder)
    lines = []
    for k, pose in enumerate(poses()):
        write(folder / f"{k}_color.png", picture(k))
        z = np.clip(depth(pose, lens) / mm * 65535, 0, 65535)
        write(folder / f"{k:04d}_depth.tiff", np.rint(z).astype(np.uint16))
        m = np.linalg.inv(pose) if invert else pose
        lines.append(",".join(f"{x:.9f}" for x in (m if row_major else m.T).ravel()))
    (folder / "pose.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_c3vd_gives_back_the_poses_the_depths_and_the_order_of_frames(tmp_path: Path) -> None:
    found = ds.open_dataset(c3vd(tmp_path / "cecum_t1_a"))
    assert found is not None and found.kind == "C3VD"
    assert found.poses is not None and np.allclose(found.poses, poses(), atol=1e-7)
    assert [p.name for p in found.images[9:]] == ["9_color.png", "10_color.png", "11_color.png"]
    truth = ds.truth_of(found)
    assert truth is not None and found.camera is not None
    z, valid = truth.depth(10)
    assert valid.all() and np.abs(z - depth(poses()[10], found.camera)).max() < 0.002
    miss = check_geometry(found)
    assert miss is not None and miss < 0.01


def test_c3vd_poses_written_row_by_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="rows and columns"):
        ds.open_dataset(c3vd(tmp_path / "x", row_major=True))


def test_c3vd_poses_the_other_way_round_are_refused_before_a_fit(tmp_path: Path) -> None:
    found = ds.open_dataset(c3vd(tmp_path / "x", invert=True))
    assert found is not None
    with pytest.raises(InputRefused, match="other way round"):
        ds.lay_out(found, tmp_path / "work")


def test_a_wrong_depth_scale_is_refused_with_the_factor(tmp_path: Path) -> None:
    found = ds.open_dataset(c3vd(tmp_path / "x"))
    assert found is not None
    with pytest.raises(InputRefused, match="factor of about 10"):
        check_geometry(replace(found, depth_mm=found.depth_mm / 10))


def test_the_c3vd_lens_is_the_polynomial_fisheye_not_a_pinhole(tmp_path: Path) -> None:
    found = ds.open_dataset(c3vd(tmp_path / "x"))
    assert found is not None and found.camera is not None
    lens = found.camera
    assert lens.model == "OPENCV_FISHEYE"
    r = np.array([5.0, 20.0, 35.0])
    xy = np.stack([r / (80 - 0.004 * r**2), np.zeros(3)], -1)  # the definition, by hand
    pinhole = Camera(W, H, 1.0, 1.0, 0.0, 0.0)
    assert np.abs(distort_pixels(lens, pinhole, xy)[:, 0] - 48.5 - r).max() < 0.1


def test_a_laid_out_data_set_is_what_fit_reads(tmp_path: Path) -> None:
    given = ds.inputs(c3vd(tmp_path / "x"), tmp_path / "work")
    assert given.camera is not None and given.poses is not None
    assert [p.name for p in sorted(given.source.iterdir())][:2] == ["000000.png", "000001.png"]
    assert cv2.imread(str(given.source / "000010.png"))[0, 0, 0] == 50
    trajectory = read_poses(given.poses)
    assert trajectory.unit == "mm" and trajectory.frame_index is not None
    assert np.allclose(trajectory.world_from_camera, poses(), atol=1e-7)
    assert read_camera(given.camera).model == "OPENCV_FISHEYE"


def test_a_camera_given_by_hand_goes_before_that_of_the_data_set(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{}")
    given = ds.inputs(c3vd(tmp_path / "x"), tmp_path / "work", camera=own)
    assert given.camera == own


def test_an_ordinary_folder_of_images_is_no_data_set(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", picture(0))
    given = ds.inputs(tmp_path, tmp_path / "work")
    assert given.source == tmp_path and given.poses is None and not (tmp_path / "work").exists()


def test_c3vd_without_one_pose_is_refused(tmp_path: Path) -> None:
    folder = c3vd(tmp_path / "x")
    lines = (folder / "pose.txt").read_text().splitlines()
    (folder / "pose.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputRefused, match="12 images and 11 poses"):
        ds.open_dataset(folder)


SCARED_YAML = """%YAML:1.0
---
M1: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 80., 0., 48., 0., 80., 36., 0., 0., 1. ]
D1: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ 0., 0., 0., 0., 0. ]
"""


def scared(folder: Path, as_tar: bool) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "endoscope_calibration.yaml").write_text(SCARED_YAML)
    write(folder / "Left_Image.png", picture(0))
    texts = {
        f"frame_data{k:06d}.json": json.dumps({"camera-pose": pose.tolist()})
        for k, pose in enumerate(poses())
    }
    if as_tar:
        with tarfile.open(folder / "data" / "frame_data.tar.gz", "w:gz") as archive:
            for name, text in [*texts.items(), ("../../evil.json", "{}")]:
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    else:
        (folder / "data" / "frame_data").mkdir()
        for name, text in texts.items():
            (folder / "data" / "frame_data" / name).write_text(text)
    for k, pose in enumerate(poses()):
        write(folder / "data" / "left" / f"{k:06d}.png", picture(k))
        z = depth(pose).astype(np.float32)
        xyz = np.dstack([np.full_like(z, -1), np.full_like(z, -2), z])
        write(folder / "data" / "scene_points" / f"scene_points{k:06d}.tiff", xyz[..., ::-1])
    return folder


@pytest.mark.parametrize("as_tar", [True, False])
def test_scared_reads_frames_from_folder_or_archive_in_place(tmp_path: Path, as_tar: bool) -> None:
    found = ds.open_dataset(scared(tmp_path / "keyframe_1", as_tar))
    assert found is not None and found.kind == "SCARED" and found.poses is not None
    assert np.allclose(found.poses, poses(), atol=1e-7)
    assert found.camera is not None and found.camera.cx == 48.5  # OpenCV counts from 0
    truth = ds.truth_of(found)
    assert truth is not None
    assert np.abs(truth.depth(7)[0] - depth(poses()[7])).max() < 1e-3
    assert not (tmp_path.parent / "evil.json").exists()
    miss = check_geometry(found)
    assert miss is not None and miss < 0.01


def test_scared_poses_read_the_other_way_are_the_inverse_and_are_noticed(tmp_path: Path) -> None:
    found = ds.open_dataset(scared(tmp_path / "k", False))
    assert found is not None
    frames = [{"camera-pose": p.tolist()} for p in poses()]
    other = scared_poses(frames, tmp_path, inverse=True)
    assert np.allclose(other @ poses(), np.eye(4), atol=1e-9)
    with pytest.raises(InputRefused, match="other way round"):
        check_geometry(replace(found, poses=other))


def test_scared_with_a_frame_without_pose_is_refused_not_patched_with_identity(
    tmp_path: Path,
) -> None:
    folder = scared(tmp_path / "k", False)
    (folder / "data" / "frame_data" / "frame_data000003.json").write_text("{}")
    with pytest.raises(InputRefused, match="no camera-pose"):
        ds.open_dataset(folder)


def test_scared_video_gives_the_left_eye_which_is_the_upper_half(tmp_path: Path) -> None:
    import av

    folder = scared(tmp_path / "k", False)
    for file in (folder / "data" / "left").iterdir():
        file.unlink()
    with av.open(str(folder / "data" / "rgb.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, 2 * H, "yuv420p"
        for _ in range(N):
            both = np.vstack([np.full((H, W, 3), 200, np.uint8), np.full((H, W, 3), 20, np.uint8)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(both, format="rgb24")))
        container.mux(stream.encode())
    found = ds.open_dataset(folder)
    assert found is not None and found.video is not None
    given = ds.lay_out(replace(found, depths=()), tmp_path / "work")
    files = sorted(given.source.iterdir())
    assert len(files) == N
    image = cv2.imread(str(files[5]))
    assert image.shape[:2] == (H, W) and image.min() > 150


def test_hamlyn_has_a_camera_and_depths_in_mm_but_no_poses(tmp_path: Path) -> None:
    folder = tmp_path / "rectified08"
    inner = folder / "rectified08"
    for k in range(3):
        write(inner / "image01" / f"{k:010d}.jpg", picture(k))
        write(inner / "depth01" / f"{k:010d}.png", np.full((H, W), 57, np.uint16))
    (folder / "intrinsics.txt").write_text("80 0 48 0\n0 80 36 0\n0 0 1 0\n")
    found = ds.open_dataset(folder)
    assert found is not None and found.kind == "Hamlyn" and found.poses is None
    assert found.camera is not None and found.camera.fx == 80 and found.camera.cy == 36.5
    assert ds.read_depth_image(Path(found.depths[2]))[0, 0] * found.depth_mm == 57
    truth = ds.truth_of(found)
    assert truth is not None and truth.world_from_camera is None
    assert truth.depth(2)[0][0, 0] == 57


def test_simcol_depth_pictures_are_no_frames(tmp_path: Path) -> None:
    for k in range(12):
        write(tmp_path / f"FrameBuffer_{k:04d}.png", picture(k))
        write(tmp_path / f"Depth_{k:04d}.png", np.full((H, W), 1000 + k, np.uint16))
    found = ds.open_dataset(tmp_path)
    assert found is not None and found.kind == "SimCol3D" and len(found) == 12
    given = ds.lay_out(found, tmp_path / "work")
    assert len(list(given.source.iterdir())) == 12 and given.poses is None
    truth = ds.truth_of(found)
    assert truth is not None
    assert truth.depth(11)[0][0, 0] == pytest.approx(1011 * 200 / 65535)


def endonerf(folder: Path, step: float) -> Path:
    for k in range(N):
        write(folder / "images" / f"{k:06d}.png", picture(k))
    rows = np.zeros((N, 17))
    for k in range(N):
        m = np.zeros((3, 5))
        m[:, 0], m[:, 1], m[:, 2] = [0, 1, 0], [1, 0, 0], [0, 0, -1]  # down, right, backwards
        m[:, 3], m[:, 4] = [step * k, 0, 0], [H, W, 80]
        rows[k, :15], rows[k, 15:] = m.ravel(), [30, 60]
    np.save(folder / "poses_bounds.npy", rows)
    return folder


def test_endonerf_with_its_still_camera_is_refused_for_want_of_parallax(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughInformation, match="no parallax"):
        ds.inputs(endonerf(tmp_path / "pulling", 0.0), tmp_path / "work")


def test_llff_axes_become_opencv_axes(tmp_path: Path) -> None:
    found = ds.open_dataset(endonerf(tmp_path / "moving", 1.0))
    assert found is not None and found.poses is not None and not found.refusal
    assert np.allclose(found.poses[:, :3, :3], np.eye(3)) and found.poses[3, 0, 3] == 3.0


def test_endoslam_turns_unitys_left_hand_into_a_right_hand(tmp_path: Path) -> None:
    folder = tmp_path / "Colon"
    for k in range(2):
        write(folder / "Frames" / f"image_{k:04d}.png", picture(k))
    half = np.sin(np.radians(15)), np.cos(np.radians(15))
    (folder / "Poses").mkdir()
    (folder / "Poses" / "poses.csv").write_text(
        f"tX,tY,tZ,rX,rY,rZ,rW\n0,0,0,0,0,0,1\n1,2,3,{half[0]},0,0,{half[1]}\n"
    )
    found = ds.open_dataset(folder)
    assert found is not None and found.unit == "unitless" and found.poses is not None
    assert np.allclose(found.poses[1, :3, 3], [1, -2, 3])
    # Unity, left hand: +30 degrees about x turns forward (z) down; y points up there, down here.
    assert np.allclose(found.poses[1, :3, 2], [0, 0.5, np.sqrt(0.75)])
    assert np.linalg.det(found.poses[1, :3, :3]) > 0


def test_endoslam_poses_of_the_robots_hand_are_not_taken_for_the_cameras(tmp_path: Path) -> None:
    file = tmp_path / "robot.csv"
    file.write_text("x,y,z,qx,qy,qz,qw\n0,0,0,0,0,0,1\n")
    assert unity_poses(file) is None


def test_servct_is_read_for_its_pairs_and_refused_for_a_fit(tmp_path: Path) -> None:
    folder = tmp_path / "Experiment_1"
    write(folder / "Left_rectified" / "001.png", picture(1))
    write(folder / "Ground_truth_CT" / "DepthL" / "001.png", np.full((H, W), 256 * 70, np.uint16))
    (folder / "Rectified_calibration").mkdir()
    p1 = [[80, 0, 48, 0], [0, 80, 36, 0], [0, 0, 1, 0]]
    (folder / "Rectified_calibration" / "001.json").write_text(json.dumps({"P1": p1}))
    found = ds.open_dataset(folder)
    assert found is not None and found.camera is not None and found.camera.cx == 48.5
    assert ds.read_depth_image(Path(found.depths[0]))[3, 3] * found.depth_mm == 70
    with pytest.raises(NotEnoughInformation, match="no parallax"):
        ds.lay_out(found, tmp_path / "work")


def test_an_eight_bit_depth_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d.png", np.full((H, W), 9, np.uint8))
    with pytest.raises(InputRefused, match="8-bit"):
        ds.read_depth_image(tmp_path / "d.png")
