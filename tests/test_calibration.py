"""Calibrations: others' files, half a pixel at the door, other image sizes, undistortion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from endorecon import geometry
from endorecon.errors import InputRefused
from endorecon.io import calibration
from endorecon.scene import Camera

BARREL = Camera(640, 480, 420.0, 422.0, 321.0, 238.0, "OPENCV", (-0.3, 0.08, 0.001, -0.002, 0.01))
FISHEYE = Camera(
    338, 270, 192.1, 192.2, 170.0, 136.1, "OPENCV_FISHEYE", (-0.18, -0.004, 0.03, -0.01)
)

ROS = """
image_width: 640
image_height: 480
camera_name: scope
camera_matrix: {rows: 3, cols: 3, data: [420, 0, 320.5, 0, 422, 237.5, 0, 0, 1]}
distortion_model: %s
distortion_coefficients: {rows: 1, cols: 4, data: [-0.3, 0.08, 0.001, -0.002]}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_opencv_yaml_as_opencv_writes_it_gains_half_a_pixel(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    K = np.array([[420.0, 0, 320.5], [0, 422, 237.5], [0, 0, 1]])
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", np.array([[-0.3, 0.08, 0.001, -0.002, 0.01]]))
    storage.release()
    assert calibration.read_camera(path) == BARREL


def test_opencv_json_with_nested_lists(tmp_path: Path) -> None:
    data = {
        "image_size": [640, 480],
        "camera_matrix": [[420, 0, 320.5], [0, 422, 237.5], [0, 0, 1]],
        "dist_coeff": None,
        "distortion_coefficients": [[-0.3, 0.08, 0.001, -0.002, 0.01]],
    }
    assert calibration.read_camera(write(tmp_path / "c.json", json.dumps(data))) == BARREL


def test_ros_camera_info_plumb_bob_and_equidistant(tmp_path: Path) -> None:
    camera = calibration.read_camera(write(tmp_path / "a.yaml", ROS % "plumb_bob"))
    assert camera.model == "OPENCV" and (camera.cx, camera.cy) == (321.0, 238.0)
    camera = calibration.read_camera(write(tmp_path / "b.yaml", ROS % "equidistant"))
    assert camera.model == "OPENCV_FISHEYE" and camera.distortion == (-0.3, 0.08, 0.001, -0.002)


def test_an_unknown_distortion_model_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", ROS % "banana")
    with pytest.raises(InputRefused, match="'banana' is not known") as caught:
        calibration.read_camera(path)
    assert str(caught.value).endswith(str(path))


def test_our_own_file_comes_back_as_it_was(tmp_path: Path) -> None:
    for camera in (BARREL, FISHEYE, Camera(100, 80, 90.0, 91.0, 50.0, 40.0)):
        calibration.write_camera(camera, tmp_path / "c.yaml", {"rms_px": 0.2})
        assert calibration.read_camera(tmp_path / "c.yaml") == camera


@pytest.mark.data
def test_the_data_folders_cameras_are_read_without_a_shift(data_dir: Path) -> None:
    nose = calibration.read_camera(data_dir / "nasal-endoscopy-a" / "cameras.json")
    assert (nose.model, nose.cx, nose.cy) == ("PINHOLE", 919.521, 542.141)
    colon = calibration.read_camera(data_dir / "c3vd-colon" / "d4v2" / "cameras.json")
    assert colon.model == "OPENCV_FISHEYE" and len(colon.distortion) == 4


@pytest.mark.parametrize(
    "text", ["", "not: [a calibration", "\x00\x01", "{}", '{"width": 640, "height": 480}', "[1, 2]"]
)
def test_what_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused):
        calibration.read_camera(write(tmp_path / "c.yaml", text))


def test_a_calibration_without_its_image_size_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"camera_matrix": [420, 0, 320, 0, 422, 237, 0, 0, 1]})
    with pytest.raises(InputRefused, match="image size"):
        calibration.read_camera(write(tmp_path / "c.json", text))


def test_a_yaml_tag_runs_no_code(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", f"a: !!python/object/apply:os.mkdir ['{tmp_path}/owned']\n")
    with pytest.raises(InputRefused):
        calibration.read_camera(path)
    assert not (tmp_path / "owned").exists()


def test_another_size_is_accepted_with_a_warning_only_when_the_aspect_matches() -> None:
    same, note = calibration.for_size(BARREL, 640, 480)
    assert same == BARREL and note == ""
    double, note = calibration.for_size(BARREL, 1280, 960)
    assert (double.fx, double.cx) == (840.0, 642.0) and "rescaled by 2" in note
    with pytest.raises(InputRefused, match="640x480 and the video is 1920x1080"):
        calibration.for_size(BARREL, 1920, 1080)


def test_projection_agrees_with_opencv_but_for_the_half_pixel() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.6, -0.5, 1], [0.6, 0.5, 2], (50, 3))
    for camera in (BARREL, FISHEYE):
        K = camera.K.copy()
        K[:2, 2] -= 0.5
        zero = np.zeros(3)
        if camera.model == "OPENCV":
            theirs, _ = cv2.projectPoints(points, zero, zero, K, np.array(camera.distortion))
        else:
            theirs, _ = cv2.fisheye.projectPoints(
                points[:, None], zero, zero, K, np.array(camera.distortion)
            )
        pinhole = replace(camera, model="PINHOLE", distortion=())
        uv, _ = geometry.project(points, np.eye(4), pinhole.K)
        ours = calibration.distort_pixels(camera, pinhole, uv)
        assert np.allclose(ours, theirs[:, 0] + 0.5, atol=1e-6)


@pytest.mark.parametrize("camera", [BARREL, FISHEYE], ids=lambda c: c.model)
def test_undistorting_undoes_distorting(camera: Camera) -> None:
    pinhole = calibration.pinhole_for(camera)
    grid = geometry.pixel_grid(pinhole.width, pinhole.height)[::20, ::20].reshape(-1, 2)
    bent = calibration.distort_pixels(camera, pinhole, grid)
    inside = (bent > 0).all(1) & (bent < [camera.width, camera.height]).all(1)
    back = calibration.undistort_pixels(camera, pinhole, bent[inside])
    assert inside.sum() > 50 and np.allclose(back, grid[inside], atol=0.02)


@pytest.mark.parametrize("camera", [BARREL, FISHEYE], ids=lambda c: c.model)
def test_undistorted_pictures_and_undistorted_pixels_are_the_same_place(camera: Camera) -> None:
    pinhole = calibration.pinhole_for(camera)
    spot = np.array([camera.width * 0.7, camera.height * 0.35])
    y, x = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    picture = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 18.0).astype(np.float32)
    straight = cv2.remap(picture, *calibration.undistort_maps(camera, pinhole), cv2.INTER_LINEAR)
    row, column = np.unravel_index(straight.argmax(), straight.shape)
    expected = calibration.undistort_pixels(camera, pinhole, spot[None])[0]
    assert np.abs(np.array([column + 0.5, row + 0.5]) - expected).max() < 1.0


def test_a_very_wide_lens_is_cut_where_a_pinhole_cannot_follow() -> None:
    wide = Camera(400, 400, 120.0, 120.0, 200.0, 200.0, "OPENCV_FISHEYE", (0.0, 0.0, 0.0, 0.0))
    pinhole = calibration.pinhole_for(wide)  # the corner lies at 135 degrees off the axis
    half = np.degrees(np.arctan(pinhole.width / 2 / pinhole.fx))
    assert 45 < half <= 60.5 and pinhole.width < 1000
