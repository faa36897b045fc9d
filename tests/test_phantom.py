"""The phantom folder: every file against an independent reader or an independent computation."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from endorecon.config import PhantomConfig
from endorecon.errors import InputRefused, UsageError
from endorecon.geometry import apply, invert, pixel_grid
from endorecon.io.calibration import read_camera
from endorecon.io.ct import read_ct, read_ct_surface
from endorecon.io.slicer import read_landmarks
from endorecon.phantom.board import CORNERS, SQUARE_MM, make_board_clip
from endorecon.phantom.implicit import Mesh
from endorecon.phantom.optics import lens_rays, project_points
from endorecon.phantom.sensor import next_exposure
from endorecon.phantom.spoilers import BREATH_S, Spoilers, on_config
from endorecon.phantom.truth import Truth, load_truth
from endorecon.phantom.write import make_phantom

SMALL = replace(PhantomConfig(), side_mm=0.4, lens="brown")
SEED, FRAMES = 3, 6


def make(out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "seed": SEED, "family": "sinus", "frames": FRAMES, "width": 160, "height": 120,
        "config": SMALL,
    }  # fmt: skip
    for _ in make_phantom(out, **(settings | changes)):
        pass
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("phantom") / "a")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return load_truth(folder)


@pytest.fixture(scope="module")
def scene(truth: Truth) -> Any:
    """The truth mesh as another program reads it."""
    import open3d as o3d

    mesh = o3d.io.read_triangle_mesh(str(truth.mesh_path))
    out = o3d.t.geometry.RaycastingScene()
    out.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    return out


def cloud(truth: Truth, frame: int) -> tuple[np.ndarray, np.ndarray]:
    z, valid = truth.depth(frame)
    rays = lens_rays(pixel_grid(truth.camera.width, truth.camera.height), truth.camera)
    return apply(truth.world_from_camera[frame], rays * z[..., None])[valid], valid


def pictures(path: Path) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def test_the_folder_holds_what_the_contract_lists(folder: Path) -> None:
    want = [
        "video.mp4", "calibration.yaml", "ct.nii.gz", "landmarks.mrk.json", "distances.yaml",
        "clicks.csv", "truth/mesh.ply", "truth/cameras.json", "truth/anatomy.json",
        *[f"truth/depth/{i:06d}.npz" for i in range(FRAMES)],
    ]  # fmt: skip
    assert [w for w in want if not (folder / w).is_file()] == []
    assert len(list((folder / "ct").glob("*.dcm"))) > 50
    assert len(list(pictures(folder / "video.mp4"))) == FRAMES


def test_truth_depth_of_one_frame_agrees_with_another_within_two_hundredths(
    truth: Truth, scene: Any
) -> None:
    import open3d as o3d

    shared = 0
    for i, j in ((0, 5), (5, 0), (2, 4)):
        points, _ = cloud(truth, i)
        origin = truth.world_from_camera[j, :3, 3]
        uv, z = project_points(apply(invert(truth.world_from_camera[j]), points), truth.camera)
        inside = (z > 0) & (uv > 0).all(1) & (uv < [160, 120]).all(1)
        d = points[inside] - origin
        rays = np.concatenate([np.broadcast_to(origin, d.shape), d], 1).astype(np.float32)
        t = scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
        miss = (1 - t) * np.linalg.norm(d, axis=1)  # > 0: something stands before the point
        seen = np.abs(miss) < 0.5
        shared += int(seen.sum())
        # Grazing rays meet the facets of the mesh far along themselves: judge across the wall.
        hit = origin + d * t[:, None]
        off = scene.compute_distance(o3d.core.Tensor(points[inside].astype(np.float32))).numpy()
        assert off.max() < 0.02
        assert np.percentile(np.linalg.norm(hit - points[inside], axis=1)[seen], 99) < 0.02
    assert shared > 10_000


def test_depth_files_also_agree_when_one_is_looked_up_in_the_other(truth: Truth) -> None:
    from scipy.ndimage import map_coordinates

    points, _ = cloud(truth, 0)
    z1, valid1 = truth.depth(2)
    uv, z = project_points(apply(invert(truth.world_from_camera[2]), points), truth.camera)
    at = (uv - 0.5)[:, ::-1].T
    looked = 1 / map_coordinates(1 / np.where(valid1, z1, np.nan), at, order=1, cval=np.nan)
    off = np.abs(looked - z)
    off = off[np.isfinite(off)]
    assert len(off) > 5000 and np.median(off) < 0.02


def test_the_ct_surface_is_the_truth_surface_within_half_a_voxel(
    folder: Path, truth: Truth, scene: Any
) -> None:
    import open3d as o3d

    surface, volume, _ = read_ct_surface(folder / "ct", -480.0)
    assert volume is not None
    half = 0.5 * float(volume.spacing.min())
    there = scene.compute_distance(o3d.core.Tensor(surface.vertices.astype(np.float32))).numpy()
    ct = o3d.t.geometry.RaycastingScene()
    ct.add_triangles(
        o3d.core.Tensor(surface.vertices.astype(np.float32)),
        o3d.core.Tensor(surface.faces.astype(np.uint32)),
    )
    mesh = o3d.io.read_triangle_mesh(str(truth.mesh_path))
    back = ct.compute_distance(o3d.core.Tensor(np.asarray(mesh.vertices, np.float32))).numpy()
    assert there.mean() < half and back.mean() < half
    assert np.percentile(there, 99) < 0.6 and np.percentile(back, 99) < 0.6


def test_both_ct_readers_see_one_volume_with_sound_hounsfield_units(folder: Path) -> None:
    import nibabel
    import pydicom

    series, packed = read_ct(folder / "ct"), read_ct(folder / "ct.nii.gz")
    assert np.array_equal(series.hu, packed.hu)
    assert np.allclose(series.lps_from_index, packed.lps_from_index, atol=1e-4)
    pixel, step = SMALL.ct_pixel_mm, SMALL.ct_slice_mm
    assert np.allclose(series.spacing, [pixel, pixel, step], atol=1e-4)
    ras = nibabel.load(folder / "ct.nii.gz").affine
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ ras, series.lps_from_index, atol=1e-4)
    air, bone = np.mean(series.hu < -900), np.mean(series.hu > 500)
    assert 0.05 < air < 0.6 and 0.02 < bone < 0.5
    assert abs(np.median(series.hu[series.hu < -900]) + 1000) < 10
    d = pydicom.dcmread(sorted((folder / "ct").glob("*.dcm"))[0])
    assert d.PatientIdentityRemoved == "YES" and "PHANTOM" in str(d.PatientName)
    assert d.Modality == "CT" and list(d.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert d.pixel_array.dtype == np.int16


def test_the_dicom_series_reads_in_simpleitk_with_the_right_geometry(folder: Path) -> None:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder / "ct"))
    reader.SetFileNames(names)
    image = reader.Execute()
    ours = read_ct(folder / "ct")
    assert image.GetSpacing() == pytest.approx(tuple(ours.spacing), abs=1e-5)
    assert image.GetOrigin() == pytest.approx(tuple(ours.lps_from_index[:3, 3]), abs=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(image), ours.hu.astype(np.int16))


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed"
)
def test_the_dicom_series_passes_dciodvfy(folder: Path) -> None:
    """An independent reading of the standard's tables, without a network."""
    names = sorted((folder / "ct").glob("*.dcm"))
    for name in (names[0], names[-1]):
        done = subprocess.run(["dciodvfy", str(name)], capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        assert "CTImage" in said and "Error" not in said, said


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("dicom_validator") is None, reason="dicom-validator is not installed"
)
def test_the_dicom_series_passes_dicom_validator(folder: Path) -> None:
    first = sorted((folder / "ct").glob("*.dcm"))[0]
    tool = str(Path(sys.executable).parent / "validate_iods")
    done = subprocess.run([tool, str(first)], capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    if "Failed to get DICOM editions" in said or "Invalid DICOM edition" in said:
        pytest.skip("dicom-validator cannot fetch the DICOM standard on this machine")
    assert done.returncode == 0, said


def test_landmarks_lie_on_the_mesh_and_distances_are_their_own(
    folder: Path, truth: Truth, scene: Any
) -> None:
    import open3d as o3d

    points = read_landmarks(folder / "landmarks.mrk.json")
    assert points.space == "LPS" and points.unit == "mm"
    off = scene.compute_distance(o3d.core.Tensor(points.xyz.astype(np.float32))).numpy()
    assert off.max() < 0.05
    table = yaml.safe_load((folder / "distances.yaml").read_text())
    assert len(table) >= 8
    for row in table:
        length = np.linalg.norm(points[row["from"]] - points[row["to"]])
        assert truth.distances[row["name"]] == pytest.approx(length, abs=1e-5)


def test_calibration_reads_in_opencv_and_in_our_own_reader(folder: Path, truth: Truth) -> None:
    import cv2

    store = cv2.FileStorage(str(folder / "calibration.yaml"), cv2.FILE_STORAGE_READ)
    K = store.getNode("camera_matrix").mat()
    assert K[0, 2] == pytest.approx(truth.camera.cx - 0.5)
    numbers = store.getNode("distortion_coefficients").mat().ravel()
    assert np.allclose(numbers[: len(truth.camera.distortion)], truth.camera.distortion)
    ours = read_camera(folder / "calibration.yaml")
    assert (ours.width, ours.height, ours.model) == (160, 120, "OPENCV")
    assert ours.cx == pytest.approx(truth.camera.cx) and ours.fx == pytest.approx(truth.camera.fx)


def test_clicks_lie_near_their_landmarks_and_repeats_differ(folder: Path, truth: Truth) -> None:
    with open(folder / "clicks.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["observer", "repeat", "landmark", "frame", "u", "v"]
    assert {r["observer"] for r in rows} == {"A", "B"} and {r["repeat"] for r in rows} == set("012")
    off = []
    for r in rows:
        camera_point = apply(
            invert(truth.world_from_camera[int(r["frame"])]), truth.landmarks[r["landmark"]]
        )
        uv, _ = project_points(camera_point, truth.camera)
        off.append(np.array([float(r["u"]), float(r["v"])]) - uv)
    size = np.sqrt(np.mean(np.square(off)))
    assert 0.7 * SMALL.click_px < size < 3.0 * SMALL.click_px
    assert len({(r["u"], r["v"]) for r in rows}) == len(rows)


def test_the_video_shows_what_the_truth_says(folder: Path, truth: Truth) -> None:
    """Nearer is brighter, and outside the round picture nothing is claimed."""
    picture = next(pictures(folder / "video.mp4")).astype(float).mean(-1)
    z, valid = truth.depth(0)
    assert np.corrcoef(1 / z[valid] ** 0.9, picture[valid])[0, 1] > 0.6
    outside = ~np.isfinite(z)
    assert not valid[outside].any() and outside.mean() > 0.3
    assert picture[outside].mean() < 0.1 * picture[valid].mean()


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    def prints(place: Path) -> dict[str, str]:
        return {
            str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(place.rglob("*"))
            if p.is_file()
        }

    assert prints(folder) == prints(make(tmp_path / "again"))


def spoilers_of(**spoil: float) -> Spoilers:
    return Spoilers(spoil, 5, 40, (160, 120), 0.1)


def test_without_spoilers_nothing_is_touched() -> None:
    picture = np.full((120, 160, 3), 90, np.uint8)
    radiance = np.full((120, 160, 3), 0.1, np.float32)
    none = spoilers_of()
    out, hidden = none.on_picture(picture, picture // 2, 3)
    assert np.array_equal(out, picture) and not hidden.any() and none.frozen == ()
    assert none.on_radiance(radiance, 3) is radiance
    for spoil in ({}, {"smoke": 1.0}, {"highlights": 0.0, "exposure": 0.0}):
        assert on_config(SMALL, spoil) == SMALL


def test_highlights_and_exposure_are_settings_that_grow_with_strength() -> None:
    wet = [on_config(SMALL, {"highlights": s}) for s in (0.0, 0.5, 1.0)]
    assert wet[0].wetness < wet[1].wetness < wet[2].wetness
    assert wet[2].exposure_speed == SMALL.exposure_speed
    slow = [on_config(SMALL, {"exposure": s}) for s in (0.0, 0.5, 1.0)]
    assert slow[0].exposure_speed > slow[1].exposure_speed > slow[2].exposure_speed > 0
    # The way from a dark place to one three stops brighter, in ten frames: who has arrived?
    left = []
    for config in slow:
        exposure = next_exposure(None, 1.0, config)
        for _ in range(10):
            exposure = next_exposure(exposure, 8.0, config)
        left.append(float(np.log2(exposure * 8.0 / config.exposure_target)))
    assert left[0] < 0.01 and 0.5 < left[1] < left[2] < 3.0


def test_a_wet_wall_and_a_slow_camera_leave_the_truth_as_it_is(
    folder: Path, truth: Truth, tmp_path: Path
) -> None:
    spoilt = make(tmp_path / "x", spoil={"highlights": 1.0, "exposure": 1.0})
    other = load_truth(spoilt)
    assert np.array_equal(other.world_from_camera, truth.world_from_camera)
    (z, valid), (z_other, valid_other) = truth.depth(4), other.depth(4)
    assert np.array_equal(z, z_other, equal_nan=True) and np.array_equal(valid, valid_other)
    plain = np.stack(list(pictures(folder / "video.mp4"))).astype(float)
    glaring = np.stack(list(pictures(spoilt / "video.mp4"))).astype(float)
    assert np.abs(plain - glaring)[:, valid].mean() > 10


def test_each_spoiler_does_what_its_name_says() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(40, 200, (120, 160, 3)).astype(np.uint8)
    before = rng.integers(40, 200, (120, 160, 3)).astype(np.uint8)
    radiance = rng.random((120, 160, 3)).astype(np.float32)
    assert spoilers_of(smoke=0.8).on_radiance(radiance, 2).std() < 0.9 * radiance.std()
    for name in ("blood", "instrument"):
        out, hidden = spoilers_of(**{name: 1.0}).on_picture(picture, before, 30)
        assert 0.002 < hidden.mean() < 0.6
        assert np.abs(out.astype(int) - picture)[hidden].mean() > 10
    woven, _ = spoilers_of(interlace=1.0).on_picture(picture, before, 2)
    assert np.array_equal(woven[1::2], before[1::2]) and np.array_equal(woven[::2], picture[::2])
    dropped = spoilers_of(dropped=1.0)
    assert 2 <= len(dropped.frozen) <= 20
    assert np.array_equal(dropped.on_picture(picture, before, dropped.frozen[0])[0], before)
    text = spoilers_of(overlay=1.0)
    first, second = (text.on_picture(0 * picture, None, k)[0] for k in (3, 4))
    changed = (first != second).any(-1)
    assert first.max() > 120 and 0 < changed.sum() < 200  # only the clock moves


def test_breathing_moves_the_wall_smoothly_and_comes_back() -> None:
    rng = np.random.default_rng(0)
    at_rest = Mesh(rng.uniform(-20, 20, (500, 3)), np.zeros((1, 3), np.int32), np.zeros((500, 3)))
    breath = spoilers_of(breathing=1.0)
    assert breath.deform(at_rest, 0.0) is at_rest
    out = breath.deform(at_rest, BREATH_S / 4).vertices - at_rest.vertices
    back = breath.deform(at_rest, 3 * BREATH_S / 4).vertices - at_rest.vertices
    assert 0.3 < np.linalg.norm(out, axis=1).mean() < 4.0 and np.allclose(out, -back)


@pytest.mark.parametrize(
    "wrong",
    [
        {"family": "nose"},
        {"level": "brutal"},
        {"frames": 1},
        {"width": 161},
        {"spoil": {"fog": 0.5}},
        {"spoil": {"smoke": 2.0}},
        {"ct": Path("x")},
    ],
)
def test_arguments_that_mean_nothing_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make(tmp_path / "x", **wrong)
    assert not (tmp_path / "x" / "video.mp4").exists()


def test_a_folder_without_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no phantom truth"):
        load_truth(tmp_path)


def test_opencv_calibrates_the_phantoms_lens_from_its_checkerboard_clip(tmp_path: Path) -> None:
    import cv2

    brown = replace(PhantomConfig(), lens="brown")
    camera = make_board_clip(tmp_path, seed=1, frames=10, width=480, height=360, config=brown)
    grid = np.zeros((CORNERS[0] * CORNERS[1], 3), np.float32)
    grid[:, :2] = np.mgrid[0 : CORNERS[0], 0 : CORNERS[1]].T.reshape(-1, 2) * SQUARE_MM
    found = []
    for picture in pictures(tmp_path / "board.mp4"):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        ok, corners = cv2.findChessboardCornersSB(grey, CORNERS, flags=cv2.CALIB_CB_ACCURACY)
        if ok:
            found.append(corners.astype(np.float32))
    assert len(found) >= 6
    rms, K, *_ = cv2.calibrateCamera(
        [grid] * len(found), found, (480, 360), None, None, flags=cv2.CALIB_FIX_K3
    )
    assert rms < 0.35
    assert K[0, 0] == pytest.approx(camera.fx, rel=0.015)
    assert K[0, 2] + 0.5 == pytest.approx(camera.cx, abs=3.0)


@pytest.mark.slow
@pytest.mark.data
def test_a_real_head_ct_becomes_a_phantom_of_that_patient(data_dir: Path, tmp_path: Path) -> None:
    import open3d as o3d

    ct = data_dir / "ct-unc-cthead" / "cthead_hu.nii.gz"
    place = make(
        tmp_path / "p", ct=ct, seed_point=(-12.5, -77.5, -10.0), frames=2,
        config=replace(SMALL, side_mm=0.5, patient_cell_mm=0.7, patient_reach_mm=25.0),
    )  # fmt: skip
    truth = load_truth(place)
    mesh = o3d.io.read_triangle_mesh(str(truth.mesh_path))
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    # The wall of the patient's own CT, near the camera, is the wall of the phantom.
    roi = (np.array([-30.0, -85.0, -25.0]), np.array([0.0, -65.0, 0.0]))
    surface, volume, _ = read_ct_surface(ct, -450.0, roi=roi)
    assert volume is not None
    off = scene.compute_distance(o3d.core.Tensor(np.asarray(mesh.vertices, np.float32))).numpy()
    assert off.max() < 1e-3
    own = o3d.t.geometry.RaycastingScene()
    own.add_triangles(
        o3d.core.Tensor(surface.vertices.astype(np.float32)),
        o3d.core.Tensor(surface.faces.astype(np.uint32)),
    )
    v = np.asarray(mesh.vertices)
    inner = ((v > roi[0] + 3) & (v < roi[1] - 3)).all(1)
    gap = own.compute_distance(o3d.core.Tensor(v[inner].astype(np.float32))).numpy()
    assert inner.sum() > 500 and np.median(gap) < 0.5 * volume.spacing.max()
    z, valid = truth.depth(0)
    assert valid.mean() > 0.4 and 1.0 < np.median(z[valid]) < 40.0
