"""`endorecon evaluate`: one run against one CT, from files to a report.

The only function others call is `evaluate_run`. It reads the run folder, the CT and the
landmarks, registers, measures, does the statistics, and writes RUN/evaluation/ (report.html,
report.pdf, report.json, measurements.csv, registration.json, and what 3D Slicer opens:
surface_LPS.ply, landmarks_recon.mrk.json, ct_from_recon.tfm). Nothing of it is for clinical use.
"""

from __future__ import annotations

import csv
import datetime
import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import endorecon
from endorecon.config import EvaluateConfig
from endorecon.errors import UsageError
from endorecon.evaluate import distances as measured
from endorecon.evaluate import inputs as given
from endorecon.evaluate import report, scales, summary
from endorecon.evaluate.icp import Target
from endorecon.evaluate.measure import Plan, read_plans
from endorecon.evaluate.register import OwnScale, Registered, register, surface_points
from endorecon.evaluate.update_ct import update_ct
from endorecon.geometry import apply, scale_of
from endorecon.io import atomic, slicer
from endorecon.io.ct import write_ct
from endorecon.io.plyfile import write_surface
from endorecon.io.rundir import RunDir, hash_file, iterate_depths
from endorecon.scene import Landmarks, Measurement, Registration, Surface

Array = NDArray[Any]
COLUMNS = (
    "name", "kind", "observer", "repeat", "ct_mm", "recon_mm", "difference_mm", "low_mm",
    "high_mm", "status", "held_out",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. `header` and `rows` are the table the command line prints."""

    folder: Path
    summary: str
    warnings: tuple[str, ...]
    scale_text: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    measurements: tuple[Measurement, ...]
    registration: Registration
    similarity: Registration
    rigid: Registration | None
    statistics: dict[str, Any]
    html: Path
    pdf: Path | None


def evaluate_run(
    run: Path,
    ct: Path,
    ct_landmarks: Path | None = None,
    landmarks: Path | None = None,
    clicks: Path | None = None,
    distances: Path | None = None,
    config: EvaluateConfig | None = None,
    hold_out: str | tuple[str, ...] = "pairs",
    series: str | None = None,
    metric_poses: Path | None = None,
) -> Evaluation:
    """Evaluate a run folder against a CT and write RUN/evaluation.

    `distances` is distances.yaml; metric_poses: the camera's path in mm, a source of scale for a
    run that has none. hold_out: "pairs" (the scale of each distance comes from a fit
    that has not seen its landmarks), "none", or names of landmarks left out of every fit. Raises
    EndoreconError subclasses as ecosystem.md 6.2 and 6.3 ask; then nothing is written.
    """
    config = config or EvaluateConfig()
    if landmarks is not None and clicks is not None:
        raise UsageError("Landmarks and clicks were both given", "give one of them")
    if (landmarks or clicks) is not None and ct_landmarks is None:
        raise UsageError(
            "Landmarks on the reconstruction need their partners on the CT", "add --ct-landmarks"
        )
    folder = RunDir(Path(run))
    info = folder.info()
    centres = folder.cameras().world_from_camera[:, :3, 3]
    surface, notes = given.clean_surface(folder.surface(), centres)
    todo = read_plans(distances) if distances is not None else []
    recon = given.recon_landmarks(folder, surface, info, landmarks, clicks, config)
    own, more = scales.own_scale(info, surface)
    if own is None and metric_poses is not None:
        own = scales.scale_from_poses(folder.cameras(), metric_poses)
    if own is None and recon is not None:
        own = scales.scale_from_known(todo, recon)
    side = given.ct_side(Path(ct), ct_landmarks, series, recon, surface, own, config)
    todo = todo or default_plans(side.paired.names if side.paired else ())
    points = surface_points(surface, config)
    target = Target(side.surface.vertices, side.surface.faces)
    held = hold_out if isinstance(hold_out, tuple) else ()
    registered = register(points, target, side.paired, own, held, config)
    lens = scales.lens_sigma(info)
    if lens > 0:  # no length is surer than the lens
        sigma = float(np.hypot(registered.log_scale_sigma, lens))
        registered = replace(registered, log_scale_sigma=sigma, lens_sigma=lens)
        if own is not None:
            own = replace(own, log_sigma=float(np.hypot(own.log_sigma, lens)))
    placed = place(surface, registered.primary.ct_from_recon)
    rows: list[Measurement] = []
    if recon is not None and side.landmarks is not None and side.paired is not None:
        rows = measured.table(
            todo, recon, side.landmarks, registered, placed, side.surface, target, side.paired,
            own, hold_out if isinstance(hold_out, str) else "names", config,
        )  # fmt: skip
    facts = summary.facts(folder, placed, side, target, registered, rows, recon, config)
    warnings = (*_run_warnings(info), *notes, *more, *side.warnings, *registered.warnings)
    warnings = (*warnings, *summary.warnings(rows, registered, own))
    provenance = {
        "endorecon": endorecon.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "ct": side.volume.study if side.volume else hash_file(Path(ct))[:16],
        "ct_kernel": side.volume.kernel if side.volume else "",
        "ct_surface_hu": round(side.air_hu) if side.volume else None,
        "ct_thickness_mm": side.volume.thickness_mm if side.volume else None,
        "surface_sha256": hash_file(folder.path / "surface.ply"),
        "config": asdict(config),
        "hold_out": hold_out if isinstance(hold_out, str) else list(hold_out),
        "run": {k: info.get(k) for k in _RUN_KEYS},
    }
    out = folder.path / "evaluation"
    sentence = summary.sentence(rows, registered, facts, config)
    scale = scale_text(own, registered)
    header, printed = summary.table(rows)
    document = report.Document(
        sentence, warnings, scale, header, printed, tuple(rows), registered, own, facts, provenance
    )
    _write_data(out, document, placed, side.landmarks, recon)
    if config.update_ct and side.volume is not None:
        T = registered.primary.ct_from_recon
        updated = update_ct(side.volume, iterate_depths(folder), placed, T, side.air_hu, config)
        write_ct(out / "ct_updated.nrrd", updated.volume)
        write_ct(out / "ct_updated_dicom", updated.volume)
    html, pdf, missing = report.write(out, document, folder, placed, side.surface, target, config)
    return Evaluation(
        out, sentence, (*warnings, *missing), scale, header, printed, tuple(rows),
        registered.primary, registered.similarity, registered.rigid, facts, html, pdf,
    )  # fmt: skip


_RUN_KEYS = (
    "status", "unit", "scale_source", "frames_read", "frames_kept", "frames_posed", "rounds",
    "seconds", "device", "kernels", "versions", "hashes", "seed",
)  # fmt: skip


def place(surface: Surface, ct_from_recon: Array) -> Surface:
    """The surface moved to LPS mm."""
    return replace(
        surface,
        vertices=apply(ct_from_recon, surface.vertices),
        sigma=(surface.sigma * scale_of(ct_from_recon)).astype(np.float32),
        unit="mm",
        space="LPS",
    )


def default_plans(names: tuple[str, ...]) -> list[Plan]:
    """Without distances.yaml: every pair of matched landmarks, at most 45."""
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    return [Plan(f"{a} to {b}", "point-to-point", (a, b)) for a, b in pairs[:45]]


def scale_text(own: OwnScale | None, registered: Registered) -> str:
    """One sentence: where millimetres come from, and how surely."""
    s = registered.similarity.scale
    e = 1.96 * registered.log_scale_sigma
    if own is None:
        return (
            f"Scale from the CT by the similarity fit: {s:.6g} mm per unit, 95 % interval "
            f"{s * np.exp(-e):.6g} to {s * np.exp(e):.6g}; the run has no scale of its own."
        )
    ratio = s / own.factor
    width = 1.96 * own.log_sigma
    interval = f", 95 % interval +/- {100 * width:.2g} %" if width > 0 else ", no interval recorded"
    return (
        f"Scale from {own.source}{interval}; the CT, asked independently, gives {ratio:.4f} times "
        f"that (95 % interval {ratio * np.exp(-e):.4f} to {ratio * np.exp(e):.4f})."
    )


def _run_warnings(info: dict[str, Any]) -> list[str]:
    out = [f"run: {w}" for w in info.get("warnings", []) if isinstance(w, str)]
    if info.get("status") not in ("converged", "stopped"):
        out.insert(0, f"the run ended as {info.get('status')!r}: its surface is not final")
    return out


def _write_data(
    out: Path,
    document: report.Document,
    placed: Surface,
    ct_landmarks: Landmarks | None,
    recon: given.ReconLandmarks | None,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for m in document.measurements:
        numbers = [m.ct, m.recon, m.recon - m.ct, m.low, m.high]
        writer.writerow(
            [m.name, m.kind, m.observer, m.repeat]
            + ["" if not np.isfinite(x) else f"{x:.4f}" for x in numbers]
            + [m.status, str(m.held_out).lower()]
        )
    atomic.write_text(out / "measurements.csv", text.getvalue())
    atomic.write_json(out / "registration.json", summary.registration_json(document.registered))
    atomic.write_json(out / "report.json", summary.document_json(document))
    T = document.registered.primary.ct_from_recon
    write_surface(out / "surface_LPS.ply", placed, ("registered to the CT",))
    slicer.write_transform(out / "ct_from_recon.tfm", T)
    if recon is not None and len(recon.mean.names):
        moved = Landmarks(recon.mean.names, apply(T, recon.mean.xyz))
        slicer.write_landmarks(out / "landmarks_recon.mrk.json", moved)
