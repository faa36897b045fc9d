"""CT volumes: exact geometry, sub-voxel surfaces, and every fault of a real folder refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from endorecon.errors import EndoreconError, InputRefused, UsageError
from endorecon.geometry import apply, compose
from endorecon.io import dicom
from endorecon.io.ct import CtVolume, ct_surface, edge_hu, read_ct, read_ct_surface, write_ct

CANARY = "DOE^JANE"


def sphere_ct(radius: float = 8.0, noise: float = 0.0) -> tuple[CtVolume, np.ndarray]:
    """Air ball of `radius` mm in tissue on an oblique grid of 0.8 x 0.7 x 1.0 mm."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    affine = compose(turn @ np.diag([0.8, 0.7, 1.0]), [30.0, -40.0, 700.0])
    k, j, i = np.meshgrid(np.arange(26), np.arange(36), np.arange(32), indexing="ij")
    p = apply(affine, np.stack([i, j, k], -1).astype(float))
    centre = apply(affine, np.array([15.5, 17.5, 12.5]))
    f = np.linalg.norm(p - centre, axis=-1) - radius
    hu = -1000 + 1040 * np.clip(f / 2.0 + 0.577, 0, 1)  # crosses -400 at f = 0
    hu = hu + np.random.default_rng(0).normal(0, noise, hu.shape)
    return CtVolume(np.round(hu).astype(np.float32), affine, 1.0, "", "x"), centre


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "ct"
    write_ct(folder, sphere_ct()[0])
    return folder


def edit(folder: Path, change: Callable[[int, Any], None]) -> None:
    for k, file in enumerate(sorted(folder.glob("*.dcm"))):
        d = pydicom.dcmread(file)
        change(k, d)
        d.save_as(file)


def test_a_written_series_comes_back_exactly_in_any_file_order(series: Path) -> None:
    truth, _ = sphere_ct()
    for k, file in enumerate(sorted(series.glob("*.dcm"))):
        file.rename(series / f"{(k * 7919) % 1009:04d}")
    (series / "DIRFILE").write_text("not an image")
    read = read_ct(series)
    assert np.array_equal(read.hu, truth.hu)
    assert np.allclose(read.lps_from_index, truth.lps_from_index, atol=1e-5)
    assert any("1 files" in w for w in read.warnings)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mhd"])
def test_volume_files_keep_geometry_and_nibabel_agrees(tmp_path: Path, suffix: str) -> None:
    truth, _ = sphere_ct()
    file = tmp_path / f"v{suffix}"
    write_ct(file, truth)
    read = read_ct(file)
    assert np.array_equal(read.hu, truth.hu)
    assert np.allclose(read.lps_from_index, truth.lps_from_index, atol=1e-4)
    if suffix == ".nii.gz":
        nibabel = pytest.importorskip("nibabel")
        ras = nibabel.load(file).affine  # an independent reader, in RAS
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ ras, truth.lps_from_index, atol=1e-3)


def test_the_surface_is_sub_voxel_and_its_normals_point_to_air() -> None:
    ct, centre = sphere_ct()
    surface, removed = ct_surface(ct, -400.0)
    error = np.linalg.norm(surface.vertices - centre, axis=1) - 8.0
    assert removed == 0 and np.abs(error).max() < 0.1 and abs(error.mean()) < 0.02
    c = surface.vertices[surface.faces]
    normal = np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0])
    assert (np.einsum("ni,ni->n", normal, centre - c.mean(1)) > 0).mean() > 0.999
    mirrored = CtVolume(ct.hu, ct.lps_from_index @ np.diag([-1.0, 1, 1, 1]), 1.0, "", "")
    m, _ = ct_surface(mirrored, -400.0)
    c, middle = m.vertices[m.faces], m.vertices.mean(0)
    normal = np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0])
    assert (np.einsum("ni,ni->n", normal, middle - c.mean(1)) > 0).mean() > 0.999


@pytest.mark.parametrize(("behind", "half"), [(40.0, -480.0), (900.0, -50.0)])
def test_the_surface_of_a_blurred_border_lies_where_its_edge_is_steepest(
    behind: float, half: float
) -> None:
    from scipy.ndimage import gaussian_filter

    n, fine = 96, 0.25  # a ball of air, 8 mm, blurred by 0.4 mm, then sampled at 0.75 mm
    grid = np.stack(np.meshgrid(*[np.arange(n) * fine] * 3, indexing="ij"), -1)
    away = np.linalg.norm(grid - grid.reshape(-1, 3).mean(0), axis=-1) - 8.0
    hu = np.where(away < 0, -1000.0, behind)
    hu = gaussian_filter(hu, 0.4 / fine)[::3, ::3, ::3]
    hu = hu + np.random.default_rng(0).normal(0, 15, hu.shape)
    ct = CtVolume(hu.astype(np.float32), np.diag([0.75, 0.75, 0.75, 1.0]), 0.75, "", "x")
    found = edge_hu(ct)
    assert abs(found - half) < 0.05 * (behind + 1000)
    surface, _ = ct_surface(ct, found, None, 0.5)
    centre = grid.reshape(-1, 3).mean(0)
    assert abs(np.linalg.norm(surface.vertices - centre, axis=1).mean() - 8.0) < 0.1
    with pytest.raises(InputRefused, match="borders on air"):
        edge_hu(CtVolume(np.full((9, 9, 9), 40.0, np.float32), np.eye(4), 1.0, "", "x"))


def test_a_region_of_interest_cuts_without_moving_and_islands_go() -> None:
    ct, centre = sphere_ct()
    hu = ct.hu.copy()
    hu[2:4, 2:4, 2:4] = -1000.0  # a bubble
    both = CtVolume(hu, ct.lps_from_index, 1.0, "", "")
    whole, removed = ct_surface(both, -400.0, min_island=0.05)
    assert removed == 1
    part, _ = ct_surface(both, -400.0, (centre - 5, centre + np.array([5, 12, 12])))
    assert 0 < len(part.vertices) < len(whole.vertices)
    assert np.abs(np.linalg.norm(part.vertices - centre, axis=1) - 8.0).max() < 0.1


def test_a_tilted_gantry_is_read_with_its_shear(series: Path) -> None:
    truth, _ = sphere_ct()
    shift = 0.2  # mm a slice along the columns

    def tilt(k: int, d: Any) -> None:
        column = np.array(d.ImageOrientationPatient[3:], float)
        d.ImagePositionPatient = [float(x) for x in d.ImagePositionPatient + k * shift * column]

    edit(series, tilt)
    affine = read_ct(series).lps_from_index
    assert np.allclose(affine[:3, 2] - truth.lps_from_index[:3, 2],
                       shift * truth.lps_from_index[:3, 1] / 0.7, atol=1e-5)  # fmt: skip


def _fault(name: str) -> Callable[[Path], None]:
    def delete(folder: Path) -> None:
        sorted(folder.glob("*.dcm"))[10].unlink()

    def duplicate(folder: Path) -> None:
        file = sorted(folder.glob("*.dcm"))[5]
        d = pydicom.dcmread(file)
        d.SOPInstanceUID = pydicom.uid.generate_uid()
        d.save_as(folder / "again.dcm")

    def change(what: Callable[[int, Any], None]) -> Callable[[Path], None]:
        return lambda folder: edit(folder, what)

    def uneven(k: int, d: Any) -> None:
        if k > 12:
            x, y, z = d.ImagePositionPatient
            d.ImagePositionPatient = [x, y, float(z) + 0.03]

    def second(folder: Path) -> None:
        other = folder.with_name("other")
        volume, _ = sphere_ct(6.0)
        dicom.write_series(other, volume.hu, volume.lps_from_index, "other")
        for file in other.glob("*.dcm"):
            d = pydicom.dcmread(file)
            d.PatientID = "x"
            d.save_as(folder / f"b{file.name}")
        edit_all(folder, "x")

    def edit_all(folder: Path, patient: str) -> None:
        for file in folder.glob("*.dcm"):
            d = pydicom.dcmread(file)
            d.PatientID = patient
            d.save_as(file)

    def drop(tag: str) -> Callable[[int, Any], None]:
        return lambda k, d: delattr(d, tag) if k == 3 else None

    return {
        "missing": delete,
        "duplicate": duplicate,
        "uneven": change(uneven),
        "several series": second,
        "patients": change(lambda k, d: setattr(d, "PatientID", str(k // 13))),
        "MR": change(lambda k, d: setattr(d, "Modality", "MR")),
        "no position": change(drop("ImagePositionPatient")),
        "no slope": change(drop("RescaleSlope")),
        "wrong offset": change(lambda k, d: setattr(d, "RescaleIntercept", 1024)),
        "cut pixels": change(lambda k, d: setattr(d, "PixelData", d.PixelData[:100])),
        "no images": lambda f: [x.write_bytes(b"\0" * 50) for x in f.glob("*.dcm")] and None,
        "localizers": change(lambda k, d: setattr(d, "ImageType", ["ORIGINAL", "LOCALIZER"])),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "word"),
    [("missing", "slices are missing"), ("duplicate", "twice"), ("uneven", "uneven|gap"),
     ("several series", "--series"), ("patients", "2 patients"), ("MR", "not CT"),
     ("no position", "ImagePositionPatient is missing in slice 4"),
     ("no slope", "RescaleSlope is missing"), ("wrong offset", "not Hounsfield"),
     ("cut pixels", "cannot be decoded"), ("no images", "no DICOM images"),
     ("localizers", "localizers only")],
)  # fmt: skip
def test_every_fault_of_a_folder_ends_in_one_sentence(series: Path, fault: str, word: str) -> None:
    _fault(fault)(series)
    with pytest.raises(InputRefused, match=word) as caught:
        read_ct(series)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_a_named_series_is_taken_and_a_wrong_name_lists_what_there_is(series: Path) -> None:
    _fault("several series")(series)
    uids = {str(pydicom.dcmread(f).SeriesInstanceUID) for f in series.glob("*.dcm")}
    for uid in uids:
        assert read_ct(series, uid).hu.shape == (26, 36, 32)
    with pytest.raises(UsageError, match="the folder holds"):
        read_ct(series, "1.2.3")


def test_a_localizer_beside_the_series_is_left_out_and_said(series: Path) -> None:
    scout = pydicom.dcmread(sorted(series.glob("*.dcm"))[0])
    scout.ImageType, scout.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.2.9"
    scout.save_as(series / "scout.dcm")
    assert any("localizer" in w for w in read_ct(series).warnings)


def test_thick_slices_are_warned_of(series: Path) -> None:
    edit(series, lambda k, d: setattr(d, "SliceThickness", 2.5))
    assert any("2.5 mm thick" in w for w in read_ct(series).warnings)


def test_fuzzed_headers_never_end_in_a_traceback(series: Path) -> None:
    rng = np.random.default_rng(1)
    for trial in range(12):
        folder = series.with_name(f"fuzz{trial}")
        shutil.copytree(series, folder)
        for file in list(folder.glob("*.dcm"))[:: rng.integers(1, 9)]:
            data = bytearray(file.read_bytes())
            for place in rng.integers(132, 1200, 12):
                data[place] = rng.integers(256)
            file.write_bytes(bytes(data))
        try:
            read_ct(folder)
        except EndoreconError as error:
            assert "\n" not in str(error)


def test_nothing_of_the_patient_is_kept(series: Path, tmp_path: Path) -> None:
    keep = {"Modality", "ImageType", "PixelData"}

    def fill(k: int, d: Any) -> None:
        for tag in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription",
                    "InstitutionName", "ReferringPhysicianName", "AccessionNumber", "StudyID",
                    "ProtocolName", "StationName", "ImageComments"):  # fmt: skip
            assert tag not in keep
            setattr(d, tag, CANARY[:16])
        d.add_new((0x0009, 0x0010), "LO", CANARY)

    edit(series, fill)
    ct = read_ct(series)
    assert CANARY not in repr(ct)
    write_ct(tmp_path / "out", ct)
    write_ct(tmp_path / "out.nrrd", ct)
    for file in [*(tmp_path / "out").iterdir(), tmp_path / "out.nrrd"]:
        assert CANARY.encode() not in file.read_bytes()


def test_a_segmentation_serves_as_the_ct_surface(tmp_path: Path) -> None:
    import SimpleITK as sitk

    ct, centre = sphere_ct()
    image = sitk.GetImageFromArray((ct.hu < -400).astype(np.uint8))
    axes = ct.lps_from_index[:3, :3] / ct.spacing
    image.SetDirection(axes.ravel().tolist())
    image.SetSpacing(ct.spacing.tolist())
    image.SetOrigin(ct.lps_from_index[:3, 3].tolist())
    image.SetMetaData("Segment0_Name", "air")
    image.SetMetaData("Segment0_LabelValue", "1")
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    surface, volume, notes = read_ct_surface(tmp_path / "a.seg.nrrd", -400.0)
    assert volume is None and "segmentation" in notes[0]
    error = np.linalg.norm(surface.vertices - centre, axis=1) - 8.0
    assert abs(error.mean()) < 0.15


@pytest.mark.data
@pytest.mark.parametrize(
    ("place", "shape", "spacing", "kernel"),
    [("ct-visible-human-head/dicom", (110, 512, 512), (1.0, 1.0, 1.0), ""),
     ("ct-skull-phantom/dicom", (50, 512, 512), (0.451171875, 0.451171875, 1.0), "YA"),
     ("ct-unc-cthead/cthead_hu.nii.gz", (113, 256, 256), (1.0, 1.0, 2.0), "")],
)  # fmt: skip
def test_real_cts_load_with_right_geometry_and_give_surfaces(
    data_dir: Path, place: str, shape: tuple[int, ...], spacing: tuple[float, ...], kernel: str
) -> None:
    ct = read_ct(data_dir / place)
    assert ct.hu.shape == shape and np.allclose(ct.spacing, spacing) and ct.kernel == kernel
    assert (ct.lps_from_index[2, 2] > 0) == place.endswith("dicom")  # sorted feet to head
    middle = np.array(ct.hu.shape[::-1]) / 2
    centre = apply(ct.lps_from_index, middle)
    roi = (centre - 45.0, centre + 45.0)
    for iso in (-400.0, 300.0):
        surface, _ = ct_surface(ct, iso, roi)
        assert len(surface.faces) > 10_000
        assert (np.abs(surface.vertices - centre) < 48.0).all()


@pytest.mark.data
def test_a_nrrd_that_does_not_say_how_it_lies_in_the_patient_is_refused(data_dir: Path) -> None:
    with pytest.raises(InputRefused, match="how it lies"):
        read_ct(data_dir / "ct-vtk-headsq" / "quarter.nhdr")
