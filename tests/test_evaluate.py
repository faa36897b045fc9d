"""`evaluate_run` on made run folders: the table, the report, and every fault with its sentence."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from synthetic_run import ORIGIN, Made, make_run

from endorecon.config import EvaluateConfig
from endorecon.errors import EndoreconError, InputRefused, NotEnoughInformation, UsageError
from endorecon.evaluate import report
from endorecon.evaluate.run import COLUMNS, Evaluation, evaluate_run
from endorecon.evaluate.statistics import share_with_interval
from endorecon.geometry import apply, invert
from endorecon.io.meshes import read_mesh, write_mesh
from endorecon.io.rundir import RunDir
from endorecon.io.slicer import read_landmarks, write_landmarks
from endorecon.scene import GUESSED, Landmarks, Surface

CANARY = "DOE^JANE"


def run_it(made: Made, **changes: object) -> Evaluation:
    arguments: dict[str, object] = {
        "ct_landmarks": made.ct_landmarks,
        "clicks": made.clicks,
        "distances": made.distances,
    }
    arguments.update(changes)
    ct = arguments.pop("ct", made.ct)
    return evaluate_run(made.run, ct, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A unitless run; its DICOM carries a patient's name in every free tag."""
    made = make_run(tmp_path_factory.mktemp("case"), 0, frames=12)
    for file in made.ct.glob("*.dcm"):
        d = pydicom.dcmread(file)
        for tag in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription",
                    "InstitutionName", "ReferringPhysicianName", "AccessionNumber", "StudyID",
                    "ProtocolName", "StationName", "ImageComments", "Manufacturer"):  # fmt: skip
            setattr(d, tag, CANARY)
        d.save_as(file)
    return made


@pytest.fixture(scope="module")
def done(made: Made) -> Evaluation:
    return run_it(made)


@pytest.mark.slow
def test_distances_agree_with_ct_and_every_one_is_held_out(made: Made, done: Evaluation) -> None:
    assert len(done.measurements) == 60 and all(m.status == "ok" for m in done.measurements)
    assert all(m.held_out for m in done.measurements)
    difference = np.array([m.recon - m.ct for m in done.measurements])
    means = difference.reshape(10, 6).mean(1)  # observers err by 0.15 mm, singles may by more
    assert np.abs(means).max() < 0.5 and abs(difference.mean()) < 0.2
    assert np.abs(difference).max() < 1.0
    T = done.registration.ct_from_recon
    v = RunDir(made.run).surface().vertices
    assert np.linalg.norm(apply(T, v) - apply(made.ct_from_recon, v), axis=1).mean() < 0.05
    assert done.rigid is None and "no scale of its own" in done.scale_text
    assert len(done.rows) == 10 and len(done.header) == len(done.rows[0])


@pytest.mark.slow
def test_the_files_are_those_of_the_contract(done: Evaluation) -> None:
    with open(done.folder / "measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 60
    one = rows[7]
    assert float(one["difference_mm"]) == pytest.approx(
        float(one["recon_mm"]) - float(one["ct_mm"]), abs=2e-4
    )
    assert float(one["low_mm"]) < float(one["recon_mm"]) < float(one["high_mm"])
    r = json.loads((done.folder / "registration.json").read_text())
    assert r["rigid"] is None and np.linalg.det(np.array(r["similarity"]["ct_from_recon"])) > 0
    j = json.loads((done.folder / "report.json").read_text())
    assert j["not_for_clinical_use"] and j["summary"] == done.summary
    back = read_mesh(done.folder / "surface_LPS.ply")
    assert (back.space, back.unit) == ("LPS", "mm")
    marks = read_landmarks(done.folder / "landmarks_recon.mrk.json")
    assert len(marks.names) == 10
    assert {m.name for m in done.folder.iterdir()} >= {"report.html", "ct_from_recon.tfm"}


@pytest.mark.slow
def test_the_report_is_self_contained_and_warns_on_every_page(done: Evaluation) -> None:
    html = done.html.read_text("utf-8")
    assert html.count("data:image/png;base64,") == 6
    for word in ("http://", "https://", "<script", 'src="/'):
        assert word not in html
    assert "ot for clinical use" in html and done.summary.split(",")[0] in html
    assert html.index("Read first") < html.index("Distances</h2>")
    assert html.index("FRE ") > html.index("Registration</h2>")  # in the appendix only
    if done.pdf is not None:
        assert done.pdf.read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_no_byte_of_the_patient_s_name_leaves(made: Made, done: Evaluation) -> None:
    for file in made.run.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in repr(done)


def test_without_weasyprint_and_chromium_there_is_no_pdf_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    assert report.pdf_tool() is None


def rewritten(made: Made, tmp_path: Path, change: object) -> Path:
    """The CT landmarks after a change of names or points."""
    names, xyz = change(made.landmarks.names, made.landmarks.xyz.copy())  # type: ignore[operator]
    file = tmp_path / "ct.mrk.json"
    write_landmarks(file, Landmarks(tuple(names), xyz))
    return file


FAULTS = {
    "RAS read as LPS": (lambda n, x: (n, x * [-1, -1, 1]), InputRefused, "LPS and RAS"),
    "metres": (lambda n, x: (n, x / 1000), InputRefused, "in metres"),
    "swapped": (
        lambda n, x: (("L1", "L0", *n[2:]), x), InputRefused, "L0 and L1 look swapped|L1 and L0"
    ),
    "shifted": (lambda n, x: (n, x + np.array([0, 0, 300])), InputRefused, "nowhere near"),
    "too few": (lambda n, x: (n[:2], x[:2]), NotEnoughInformation, "Only 2"),
    "other names": (
        lambda n, x: ([f"Q{k}" for k in n], x), NotEnoughInformation, "Only 0 landmark names"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_ct_landmarks_end_in_their_sentence(made: Made, tmp_path: Path, fault: str) -> None:
    change, kind, words = FAULTS[fault]
    with pytest.raises(kind, match=words) as caught:
        run_it(made, ct_landmarks=rewritten(made, tmp_path, change))
    assert caught.value.exit_code in (3, 4) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_mirrored_ct_and_collinear_landmarks_are_refused(made: Made, tmp_path: Path) -> None:
    from endorecon.io.ct import CtVolume, read_ct, write_ct

    ct = read_ct(made.ct)
    flip = np.diag([-1.0, 1, 1, 1])
    mirrored = CtVolume(ct.hu, flip @ ct.lps_from_index, 0.5, "", "m")
    write_ct(tmp_path / "m.nii.gz", mirrored)
    marks = rewritten(made, tmp_path, lambda n, x: (n, x * [-1, 1, 1]))
    with pytest.raises(InputRefused, match="mirrored"):
        run_it(made, ct=tmp_path / "m.nii.gz", ct_landmarks=marks)
    three = np.argsort(made.landmarks.xyz[:, 2])[:3]
    point = made.landmarks.xyz[three[0]]

    def line(n: tuple[str, ...], x: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [n[k] for k in three], point + np.outer([0, 0.01, 0.02], [1, 0, 0])

    with pytest.raises(NotEnoughInformation, match="one line"):
        run_it(made, ct_landmarks=rewritten(made, tmp_path, line))


@pytest.mark.slow
def test_the_ct_of_somebody_else_is_refused(made: Made, tmp_path: Path) -> None:
    from synthetic_run import make_ct, true_mesh

    from endorecon.io.ct import write_ct

    write_ct(tmp_path / "other.nii.gz", make_ct(0.5, 2))
    surface = true_mesh(2, voxel=0.6).vertices
    near = surface[[int(((surface - p) ** 2).sum(1).argmin()) for p in made.landmarks.xyz]]
    marks = rewritten(made, tmp_path, lambda n, x: (n, near))  # landmarks that do lie on it
    with pytest.raises(EndoreconError, match="CT") as caught:
        run_it(made, ct=tmp_path / "other.nii.gz", ct_landmarks=marks)
    assert caught.value.exit_code in (3, 4)


@pytest.mark.slow
def test_landmarks_that_start_a_fit_in_the_wrong_place_are_refused(
    made: Made, tmp_path: Path
) -> None:
    # four corners of a square, named a quarter turn round: they fit to 2 mm, 90 degrees wrong
    corners = ORIGIN + 10.0 * np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    v = made.mesh.vertices
    on_wall = v[[int(((v - c) ** 2).sum(1).argmin()) for c in corners]]
    turned = apply(invert(made.ct_from_recon), np.roll(on_wall, 1, axis=0))
    write_landmarks(tmp_path / "ct.mrk.json", Landmarks(tuple("abcd"), on_wall))
    write_landmarks(tmp_path / "recon.mrk.json", Landmarks(tuple("abcd"), turned))
    with pytest.raises(EndoreconError, match=r"contradict each other|does not fit|lies on the CT"):
        evaluate_run(made.run, made.ct, tmp_path / "ct.mrk.json", tmp_path / "recon.mrk.json")


@pytest.mark.slow
def test_a_ct_that_hardly_overlaps_the_video_is_refused(made: Made, tmp_path: Path) -> None:
    v, f = made.mesh.vertices, made.mesh.faces
    near = np.linalg.norm(v[:, None] - made.landmarks.xyz, axis=-1).min(1) < 4.0
    write_mesh(tmp_path / "little.stl", dataclasses.replace(made.mesh, faces=f[near[f].all(1)]))
    with pytest.raises(NotEnoughInformation, match=r"Only 1.% of the observed surface lies on"):
        run_it(made, ct=tmp_path / "little.stl")


@pytest.mark.slow
def test_a_failed_evaluation_writes_nothing(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(made.run, copy, ignore=shutil.ignore_patterns("evaluation"))
    marks = rewritten(made, tmp_path, lambda n, x: (n, x / 1000))
    with pytest.raises(InputRefused):
        evaluate_run(copy, made.ct, marks, None, made.clicks, made.distances)
    assert not (copy / "evaluation").exists()


def edited(made: Made, tmp_path: Path, **changes: object) -> Path:
    """A copy of the run with another surface."""
    copy = tmp_path / "run"
    shutil.copytree(made.run, copy, ignore=shutil.ignore_patterns("evaluation"))
    s = RunDir(copy).surface()
    fields = {k: getattr(s, k) for k in ("vertices", "faces", "colors", "status", "sigma")}
    fields.update(changes)
    RunDir(copy).save_surface(Surface(**fields, unit=s.unit, space=s.space))  # type: ignore[arg-type]
    return copy


@pytest.mark.slow
def test_bad_surfaces_are_refused_and_guessed_ones_not_measured(made: Made, tmp_path: Path) -> None:
    s = RunDir(made.run).surface()
    args = (made.ct, made.ct_landmarks, None, made.clicks, made.distances)
    empty = edited(made, tmp_path / "a", faces=s.faces[:0])
    with pytest.raises(NotEnoughInformation, match="no surface"):
        evaluate_run(empty, *args)
    weak = edited(made, tmp_path / "b", status=np.ones_like(s.status))
    with pytest.raises(NotEnoughInformation, match="observed"):
        evaluate_run(weak, *args)
    away = np.linalg.norm(apply(made.ct_from_recon, s.vertices) - made.landmarks["L0"], axis=1)
    status = np.where(away < 2.0, GUESSED, s.status).astype(np.uint8)
    flipped = edited(made, tmp_path / "c", status=status, faces=s.faces[:, ::-1])
    result = evaluate_run(flipped, *args)
    mine = [m for m in result.measurements if m.name.startswith("L0 ") or m.name.endswith(" L0")]
    assert mine and all("guessed" in m.status and not np.isfinite(m.recon) for m in mine)
    assert any("turned" in w for w in result.warnings)
    assert any("refused" in w for w in result.warnings)


@pytest.mark.slow
def test_a_lens_that_the_video_hardly_told_widens_every_interval(
    made: Made, done: Evaluation, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(made.run, copy, ignore=shutil.ignore_patterns("evaluation"))
    play = 0.12
    RunDir(copy).update_info(poses={"focal_play": play})
    unsure = evaluate_run(copy, made.ct, made.ct_landmarks, None, made.clicks, made.distances)
    for a, b in zip(done.measurements, unsure.measurements, strict=True):
        before, now = (a.high - a.low) / 2, (b.high - b.low) / 2
        assert b.status != "ok" or now == pytest.approx(
            np.hypot(before, 0.5 * play * b.recon), rel=1e-3
        )
    assert any(b.status == "ok" for b in unsure.measurements)
    refused = [b.status for b in unsure.measurements if b.status != "ok"]
    assert refused and all("calibrate the endoscope" in r for r in refused)


@pytest.mark.slow
def test_a_metric_run_is_judged_by_its_own_scale_and_by_the_ct_s(tmp_path: Path) -> None:
    made = make_run(tmp_path, 3, frames=10, unit="mm", ct_format="nii", landmark_count=8)
    made.distances.write_text(
        "- {name: a, from: L0, to: L1}\n- {name: way, kind: geodesic, points: [L2, L3]}\n"
        "- {name: bend, kind: angle_deg, points: [L0, L1, L2]}\n"
    )
    result = run_it(made, ct=made.ct)
    assert result.rigid is not None and result.registration.kind == "rigid"
    assert result.rigid.scale == pytest.approx(1.0, abs=1e-9)
    kinds = {m.kind for m in result.measurements}
    assert {"point-to-point", "point-to-point@ct-scale", "angle_deg"} <= kinds
    assert "phantom tracker" in result.scale_text
    assert any("uncertainty of its scale" in w for w in result.warnings)
    bend = [m for m in result.measurements if m.kind == "angle_deg"]
    assert bend[0].unit == "deg" and abs(bend[0].recon - bend[0].ct) < 2.0
    info = RunDir(made.run).info()
    RunDir(made.run).update_info(scale_source=None)
    with pytest.raises(InputRefused, match="no source of its scale"):
        run_it(made)
    RunDir(made.run).update_info(scale_source=info["scale_source"], status="diverged")
    # the same run in metres: its scale contradicts the CT
    s = RunDir(made.run).surface()
    RunDir(made.run).save_surface(
        Surface(s.vertices / 1000, s.faces, s.colors, s.status, s.sigma / 1000, "mm", s.space)
    )
    marks = read_landmarks(result.folder / "landmarks_recon.mrk.json")
    back = np.linalg.inv(result.registration.ct_from_recon)
    write_landmarks(tmp_path / "r.mrk.json", Landmarks(marks.names, apply(back, marks.xyz) / 1000))
    with pytest.raises(InputRefused, match="metres for millimetres"):
        run_it(made, clicks=None, landmarks=tmp_path / "r.mrk.json")


@pytest.mark.slow
def test_a_known_distance_in_view_gives_millimetres_and_is_no_result(
    made: Made, tmp_path: Path
) -> None:
    truth = float(np.linalg.norm(made.landmarks["L0"] - made.landmarks["L3"]))
    (tmp_path / "d.yaml").write_text(
        f"- {{name: ruler, from: L0, to: L3, known_mm: {truth:.4f}, known_sigma_mm: 0.05}}\n"
        "- {name: a, from: L1, to: L2}\n"
    )
    result = run_it(made, distances=tmp_path / "d.yaml")
    assert "known distance in view (ruler)" in result.scale_text
    assert {m.name for m in result.measurements} == {"a"} and result.rigid is not None
    assert abs(np.mean([m.recon - m.ct for m in result.measurements])) < 0.3


@pytest.mark.slow
def test_a_mesh_as_ct_without_landmarks_gives_surface_figures_and_no_distance(
    made: Made, tmp_path: Path
) -> None:
    write_mesh(tmp_path / "ct.stl", made.mesh)
    result = evaluate_run(made.run, tmp_path / "ct.stl")
    assert result.measurements == () and "no landmarks were given" in result.summary
    T, v = result.registration.ct_from_recon, RunDir(made.run).surface().vertices
    assert np.linalg.norm(apply(T, v) - apply(made.ct_from_recon, v), axis=1).mean() < 0.05


def test_contradicting_arguments_are_usage_errors(tmp_path: Path) -> None:
    a = tmp_path / "a"
    with pytest.raises(UsageError, match="one of them"):
        evaluate_run(a, a, a, a, a)
    with pytest.raises(UsageError, match="--ct-landmarks"):
        evaluate_run(a, a, None, a)
    with pytest.raises(InputRefused, match="not a run folder"):
        evaluate_run(a, a)


@pytest.mark.slow
def test_named_landmarks_can_be_held_out_of_every_fit(made: Made) -> None:
    result = run_it(made, hold_out=("L0", "L1", "L2"), config=EvaluateConfig(points=3000))
    assert result.registration.held_out == ("L0", "L1", "L2")
    assert "L0" not in result.registration.used
    for m in result.measurements:
        a, b = m.name.split(" to ")
        assert m.held_out == ({a, b} <= {"L0", "L1", "L2"})


@pytest.mark.slow
def test_intervals_of_whole_runs_hold_the_ct_in_95_percent(tmp_path: Path) -> None:
    hits, cluster = [], []
    for seed in range(10, 18):  # of three runs, 30 distances, chance decides
        made = make_run(
            tmp_path / str(seed), seed, frames=10, depth_sigma=0.05, observers=3, ct_format="nii",
            common_sigma=0.08,
        )  # fmt: skip
        for m in run_it(made, config=EvaluateConfig(points=2500)).measurements:
            if m.status == "ok":
                hits.append(m.low <= m.ct <= m.high)
                cluster.append(f"{seed} {m.name}")
    share, low, high = share_with_interval(np.array(hits), np.array(cluster))
    assert len(hits) >= 600 and low <= 0.95 <= high, (len(hits), share, low, high)
