"""From rows and surfaces to statistics, sentences, tables and JSON. No files are read or written.

`facts` is a plain dictionary (numbers, lists, None for unknown) that goes into report.json as it
is and feeds the report. Differences are reconstruction minus CT; mm unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.evaluate import statistics as st
from endorecon.evaluate.distances import CT_SCALE
from endorecon.evaluate.icp import Target, sample_surface
from endorecon.evaluate.inputs import CtSide, ReconLandmarks
from endorecon.evaluate.measure import volume_between
from endorecon.evaluate.register import OwnScale, Registered, observed_part
from endorecon.geometry import apply, transform_pose
from endorecon.io.rundir import RunDir
from endorecon.scene import GUESSED, OBSERVED, WEAK, Measurement, Surface

if TYPE_CHECKING:
    from endorecon.evaluate.report import Document

Array = NDArray[Any]
_REACH_MM = 5.0  # farther than this from the CT is not overlap
MARGINS_MM = (1.0, 0.625, 0.5)


def facts(
    run: RunDir,
    placed: Surface,
    side: CtSide,
    target: Target,
    registered: Registered,
    rows: list[Measurement],
    recon: ReconLandmarks | None,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Everything the report states as a number."""
    out: dict[str, Any] = {"agreement": {}, "surface": {}, "coverage": {}}
    for suffix in ("", CT_SCALE):
        mine = [
            m for m in rows if m.status == "ok" and m.unit == "mm"
            and m.kind.endswith(CT_SCALE) == bool(suffix)
        ]  # fmt: skip
        if mine:
            out["agreement"]["scale from the CT" if suffix else "primary"] = agreement(mine, config)
    vertices, faces = observed_part(placed)
    points = sample_surface(vertices, faces, placed.sigma, 20000, config.seed).xyz
    forth, _ = st.surface_distance(points, target, _REACH_MM)
    out["surface"]["reconstruction to CT"] = asdict(forth)
    if registered.landmark_fit is not None:
        back = np.linalg.inv(registered.primary.ct_from_recon)
        before = apply(registered.landmark_fit.ct_from_recon @ back, points)
        out["surface"]["reconstruction to CT, landmarks only (no ICP)"] = asdict(
            st.surface_distance(before, target, _REACH_MM)[0]
        )
    recon_target = Target(vertices, faces)
    seen = visible_ct(run, registered.primary.ct_from_recon, target)
    if len(seen):
        there, _ = st.surface_distance(seen, recon_target, _REACH_MM)
        out["surface"]["CT seen by the cameras to reconstruction"] = asdict(there)
        distance = np.linalg.norm(seen - recon_target.closest(seen)[0], axis=1)
        out["completeness_1mm"] = float((distance < 1.0).mean())
        out["hd95_mm"] = max(forth.p95, there.p95)
    _, signed = st.surface_distance(placed.vertices, target, _REACH_MM)
    signed[placed.status != OBSERVED] = np.nan
    outside, inside = volume_between(placed, signed)
    out["volume_mm3"] = {"on the air side of the CT": outside, "inside the tissue": inside}
    if side.paired is not None:
        moved = apply(registered.primary.ct_from_recon, side.paired.recon)
        out["landmarks_lps"] = dict(zip(side.paired.names, moved.tolist(), strict=True))
    share = [float((placed.status == s).mean()) for s in (OBSERVED, WEAK, GUESSED)]
    out["coverage"] = dict(zip(("observed", "weak", "guessed"), share, strict=True))
    out["coverage"]["observed_area_mm2"] = float(_area(vertices, faces))
    if recon is not None and recon.noise is not None:
        out["clicks"] = asdict(recon.noise)
        out["clicks"]["observer_spread_mm"] = recon.spread * registered.primary.scale
    return out


def agreement(rows: list[Measurement], config: EvaluateConfig) -> dict[str, Any]:
    """Repeated-measures statistics of rows that hold ok lengths."""
    d = np.array([m.recon - m.ct for m in rows])
    subject = np.array([m.name for m in rows])
    observer = np.array([m.observer for m in rows])
    hits = np.array([m.low <= m.ct <= m.high for m in rows])
    means = np.array([d[subject == s].mean() for s in dict.fromkeys(subject)])
    out: dict[str, Any] = {
        "n": len(d),
        "distances": len(means),
        "observers": len(set(observer)),
        "mean_difference": float(d.mean()),
        "mean_absolute": float(np.abs(d).mean()),
        "rms": float(np.sqrt((d**2).mean())),
        "p95_absolute": float(np.percentile(np.abs(d), 95)),
        "largest_absolute": float(np.abs(d).max()),
        "largest_mean_absolute": float(np.abs(means).max()),
        "held_out": bool(all(m.held_out for m in rows)),
        "median_interval_width": float(np.median([m.high - m.low for m in rows])),
        "interval_coverage": st.share_with_interval(hits, subject, config.seed).tolist(),
        "tost_p": {f"{m:g} mm": st.tost(means, m) for m in (config.margin_mm, *MARGINS_MM)},
    }
    if len(d) >= 2:
        out["bland_altman"] = asdict(st.bland_altman(d, subject))
    out["precision"] = asdict(st.precision(d, subject, observer))
    ratings = _ratings(rows)
    if ratings is not None:
        out["icc_observers"] = asdict(st.icc(ratings))
    pair = np.array([[np.mean([m.ct for m in rows if m.name == s]),
                      np.mean([m.recon for m in rows if m.name == s])]
                     for s in dict.fromkeys(subject)])  # fmt: skip
    if len(pair) >= 3:
        out["icc_with_ct"] = asdict(st.icc(pair))
    return out


def _ratings(rows: list[Measurement]) -> Array | None:
    """Distances x observers, mean over repeats; None when it is not complete."""
    names = list(dict.fromkeys(m.name for m in rows))
    observers = sorted({m.observer for m in rows})
    if len(names) < 2 or len(observers) < 2:
        return None
    table = np.full((len(names), len(observers)), np.nan)
    for i, n in enumerate(names):
        for j, o in enumerate(observers):
            mine = [m.recon for m in rows if m.name == n and m.observer == o]
            if mine:
                table[i, j] = np.mean(mine)
    return table if np.isfinite(table).all() else None


def _area(vertices: Array, faces: Array) -> float:
    c = vertices[faces]
    return float(np.linalg.norm(np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]), axis=1).sum() / 2)


def visible_ct(run: RunDir, ct_from_recon: Array, target: Target, most: int = 40) -> Array:
    """Places on the CT surface (n, 3) that the run's cameras look at, one a half millimetre."""
    import open3d as o3d

    indices = run.depth_indices()
    indices = indices[:: max(1, len(indices) // most)]
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor((target.vertices - target.centre).astype(np.float32)),
        o3d.core.Tensor(target.faces.astype(np.uint32)),
    )
    found = []
    for index in indices:
        depth = run.depth(index)
        h, w = depth.z.shape
        u, v = np.meshgrid(np.linspace(0.5, w - 0.5, 64), np.linspace(0.5, h - 0.5, 48))
        pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
        pose = transform_pose(ct_from_recon, depth.world_from_camera)
        direction = pixels @ np.linalg.inv(depth.K).T @ pose[:3, :3].T
        origin = np.broadcast_to(pose[:3, 3] - target.centre, direction.shape)
        rays = np.concatenate([origin, direction], 1).astype(np.float32)
        t = scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
        hit = np.isfinite(t)
        found.append(origin[hit] + t[hit, None] * direction[hit] + target.centre)
    points = np.concatenate(found) if found else np.zeros((0, 3))
    _, first = np.unique(np.floor(points / 0.5).astype(int), axis=0, return_index=True)
    return np.asarray(points[first])


def warnings(
    rows: list[Measurement], registered: Registered, own: OwnScale | None
) -> tuple[str, ...]:
    """What the reader must know before the numbers."""
    out = []
    refused = [m for m in rows if m.status != "ok"]
    if refused:
        why = [r for m in refused for r in m.status.removeprefix("refused: ").split("; ")]
        often = sorted(dict.fromkeys(why), key=lambda r: -why.count(r))
        more = f"; and {len(often) - 4} other reasons" if len(often) > 5 else ""
        shown = "; ".join(often[:4] if more else often)
        out.append(f"{len(refused)} of {len(rows)} measures were refused: {shown}{more}")
    leaky = {m.name for m in rows if m.status == "ok" and not m.held_out}
    if leaky:
        out.append(
            f"{len(leaky)} distances use landmarks that the fit has seen: their differences "
            "flatter, and do not count as held out"
        )
    if own is not None:
        ratio = registered.similarity.scale / own.factor
        if abs(np.log(ratio)) > max(3 * np.hypot(own.log_sigma, registered.log_scale_sigma), 0.01):
            out.append(
                f"the run's own scale and the CT's differ by {100 * (ratio - 1):+.2f} %, more than "
                "their uncertainty allows"
            )
    if registered.landmark_fit is not None and len(registered.landmark_fit.names) < 4:
        out.append("only 3 landmarks: no held-out error can be given")
    return tuple(out)


def sentence(
    rows: list[Measurement], registered: Registered, numbers: dict[str, Any], config: EvaluateConfig
) -> str:
    """The first sentence of the report."""
    surface = numbers["surface"]["reconstruction to CT"]
    where = (
        f"the observed surface lies {surface['mean']:.2f} mm from the CT on average "
        f"(95 % within {surface['p95']:.2f} mm, {100 * surface['coverage']:.0f} % overlap)"
    )
    main = numbers["agreement"].get("primary")
    if main is None:
        why = "no distance could be measured" if rows else "no landmarks were given"
        return f"{where[0].upper()}{where[1:]}; {why}."
    p = main["tost_p"][f"{config.margin_mm:g} mm"]
    verdict = "is" if p < 0.05 else "could not be shown to be"
    held = "held-out " if main["held_out"] else ""
    many = f"{main['n']} measures of {main['distances']} {held}distances"
    return (
        f"Over {many}, reconstruction minus CT is {main['mean_difference']:+.2f} mm on average and "
        f"at most {main['largest_absolute']:.2f} mm; it {verdict} equivalent to the CT within "
        f"{config.margin_mm:g} mm (TOST, p {_p(p)}), and {where}."
    )


def _p(p: float) -> str:
    return "unknown" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def table(rows: list[Measurement]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and one line a distance (mean over observers and repeats) for print and report."""
    header = ("distance", "kind", "n", "CT", "reconstruction", "difference", "SD",
              "95 % interval", "held out", "status")  # fmt: skip
    out = []
    for name, kind in dict.fromkeys((m.name, m.kind) for m in rows):
        mine = [m for m in rows if (m.name, m.kind) == (name, kind)]
        good = [m for m in mine if m.status == "ok"]
        unit = mine[0].unit.replace("2", "²")
        if not good:
            ct = "–" if not math.isfinite(mine[0].ct) else f"{mine[0].ct:.2f} {unit}"
            out.append((name, kind, "0", ct, "–", "–", "–", "–", "–", mine[0].status))
            continue
        r = np.array([m.recon for m in good])
        low, high = np.mean([m.low for m in good]), np.mean([m.high for m in good])
        sd = f"{r.std(ddof=1):.2f}" if len(r) > 1 else "–"
        status = "ok" if len(good) == len(mine) else f"{len(mine) - len(good)} refused"
        out.append(
            (name, kind, str(len(good)), f"{good[0].ct:.2f} {unit}", f"{r.mean():.2f} {unit}",
             f"{r.mean() - good[0].ct:+.2f}", sd, f"{low:.2f} to {high:.2f}",
             "yes" if all(m.held_out for m in good) else "no", status)
        )  # fmt: skip
    return header, tuple(out)


def registration_json(registered: Registered) -> dict[str, Any]:
    """registration.json: both fits, matrices row by row, LPS mm."""
    fit = registered.landmark_fit
    out = {
        "space": "LPS",
        "unit": "mm",
        "start": registered.start,
        "primary": registered.primary.kind,
        "similarity": registered.similarity,
        "rigid": registered.rigid,
        "basin": registered.basin,
        "log_scale_sigma": registered.log_scale_sigma,
        "deformation_mm": registered.deformation_mm,
        "unexplained_mm": registered.unexplained_mm,
        "warnings": registered.warnings,
        "note": "FRE is no accuracy (Fitzpatrick 2009): it is blind to flips and to scale. "
        "Covariance: rotation (rad), translation at the centroid (mm), log scale.",
        "landmarks": None
        if fit is None
        else {
            n: {"residual_mm": float(r), "left_out_mm": float(e)}
            for n, r, e in zip(fit.names, fit.residuals, fit.left_out, strict=True)
        },
    }
    plain: dict[str, Any] = as_plain(out)
    return plain


def document_json(document: Document) -> dict[str, Any]:
    """report.json: all that the report says, without pictures."""
    out: dict[str, Any] = as_plain(
        {
            "not_for_clinical_use": True,
            "summary": document.summary,
            "warnings": document.warnings,
            "scale": document.scale,
            "facts": document.facts,
            "measurements": document.measurements,
            "registration": registration_json(document.registered),
            "provenance": document.provenance,
        }
    )
    return out


def as_plain(value: Any) -> Any:
    """Numbers, lists and dictionaries that JSON has; NaN and infinities become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: as_plain(v) for k, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [as_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return as_plain(value.tolist())
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer | int):
        return int(value)
    if isinstance(value, np.floating | float):
        return float(value) if math.isfinite(value) else None
    return value if value is None else str(value)
