"""3D Slicer's files: spaces, units, refusals, and that nothing moves on the way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from endorecon.errors import InputRefused
from endorecon.geometry import apply, compose
from endorecon.io import slicer
from endorecon.scene import Landmarks

POINTS = np.array([[1.0, -2.0, 3.5], [10.0, 20.0, -30.25]])


def markups(space: str, unit: str, points: np.ndarray, **point: object) -> str:
    controls = [
        {"label": f"P{k}", "position": p.tolist(), "positionStatus": "defined", **point}
        for k, p in enumerate(points)
    ]
    one = {"type": "Fiducial", "coordinateSystem": space, "controlPoints": controls}
    return json.dumps({"markups": [{**one, "coordinateUnits": unit}]})


@pytest.mark.parametrize(
    ("space", "unit", "factor"),
    [("LPS", "mm", [1, 1, 1]), ("RAS", "mm", [-1, -1, 1]), ("1", "mm", [1, 1, 1]),
     ("0", "mm", [-1, -1, 1]), ("LPS", "um", [1e3, 1e3, 1e3])],
)  # fmt: skip
def test_every_space_and_unit_ends_in_lps_millimetres(
    tmp_path: Path, space: str, unit: str, factor: list[float]
) -> None:
    file = tmp_path / "a.mrk.json"
    file.write_text(markups(space, unit, POINTS * factor))
    assert np.allclose(slicer.read_landmarks(file).xyz, POINTS)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (markups("LPS", "mm", POINTS, label="same"), "Two landmarks"),
        (markups("LPS", "mm", POINTS, positionStatus="undefined"), "without a position"),
        (markups("LPS", "mm", POINTS, label=""), "no label"),
        (markups("IJK", "mm", POINTS), "Unknown coordinate system"),
        (markups("LPS", "inch", POINTS), "'inch'"),
        (markups("LPS", "mm", POINTS[:0]), "no points"),
        ("{", "not a 3D Slicer markups file"),
        ("[]", "not a 3D Slicer markups file"),
    ],
)
def test_landmarks_that_mean_nothing_are_refused_in_words(
    tmp_path: Path, text: str, word: str
) -> None:
    file = tmp_path / "a.mrk.json"
    file.write_text(text)
    with pytest.raises(InputRefused, match=word) as caught:
        slicer.read_landmarks(file)
    assert str(caught.value).endswith(str(file))


def test_fcsv_is_read_in_both_spaces_and_refused_without_one(tmp_path: Path) -> None:
    body = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    body += 'n1,-1,2,3.5,0,0,0,1,1,1,0,"P,0",,\nn2,-10,-20,-30.25,0,0,0,1,1,1,0,P1,,\n'
    file = tmp_path / "a.fcsv"
    for word in ("RAS", "0"):
        file.write_text(
            f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {word}\n{body}"
        )
        read = slicer.read_landmarks(file)
        assert read.names == ("P,0", "P1") and np.allclose(read.xyz, POINTS)
    file.write_text(f"# CoordinateSystem = LPS\n{body}")
    assert np.allclose(slicer.read_landmarks(file).xyz, POINTS * [-1, -1, 1])
    file.write_text(f"# Markups fiducial file version = 4.5\n{body}")
    with pytest.raises(InputRefused, match="LPS or RAS"):
        slicer.read_landmarks(file)


def test_written_landmarks_come_back_and_slicerio_reads_the_same(tmp_path: Path) -> None:
    file = tmp_path / "b.mrk.json"
    slicer.write_landmarks(file, Landmarks(("sill", "ostium"), POINTS))
    back = slicer.read_landmarks(file)
    assert back.names == ("sill", "ostium") and np.array_equal(back.xyz, POINTS)


def test_slicerio_reads_an_fcsv_as_we_do(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio")
    file = tmp_path / "a.fcsv"
    body = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    body += "".join(
        f"n{k},{p[0]},{p[1]},{p[2]},0,0,0,1,1,1,0,P{k},,\n" for k, p in enumerate(POINTS)
    )
    for word in ("LPS", "RAS"):
        file.write_text(
            f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {word}\n{body}"
        )
        slicerio.fcsv_to_markups_json(str(file), str(tmp_path / "theirs.mrk.json"))
        ours, theirs = (slicer.read_landmarks(f) for f in (file, tmp_path / "theirs.mrk.json"))
        assert np.allclose(ours.xyz, theirs.xyz) and ours.names == theirs.names


def test_a_transform_file_holds_the_map_from_the_parent_as_itk_wants(tmp_path: Path) -> None:
    import SimpleITK as sitk

    T = compose(np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]), [5.0, 6.0, 7.0], 1.7)
    slicer.write_transform(tmp_path / "t.tfm", T)
    read = sitk.ReadTransform(str(tmp_path / "t.tfm"))
    for p in POINTS:  # ITK's transform takes a CT point back to the reconstruction
        assert np.allclose(read.TransformPoint(apply(T, p)), p)


def test_a_named_segment_is_read_and_an_unnamed_choice_is_refused(tmp_path: Path) -> None:
    import SimpleITK as sitk

    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2, 3], labels[0, 0, 0] = 1, 2
    image = sitk.GetImageFromArray(labels)
    image.SetOrigin((10.0, -5.0, 2.0))
    image.SetSpacing((0.5, 0.6, 0.7))
    for k, name in enumerate(("airway", "bone")):
        image.SetMetaData(f"Segment{k}_Name", name)
        image.SetMetaData(f"Segment{k}_LabelValue", str(k + 1))
        image.SetMetaData(f"Segment{k}_Layer", "0")
    file = tmp_path / "s.seg.nrrd"
    sitk.WriteImage(image, str(file))
    mask, affine = slicer.read_segment(file, "airway")
    assert np.array_equal(mask, labels == 1)
    assert np.allclose(apply(affine, np.array([3.0, 2.0, 1.0])), [11.5, -3.8, 2.7])
    with pytest.raises(InputRefused, match="airway, bone"):
        slicer.read_segment(file)
