"""From unit folders to one long table, and from that to statistics, a LaTeX table, a gate.

`study.csv`: `case,setting,repeat,group,name,kind,observer,repeat_click,truth,found,difference,low,
high,status,held_out`, one row a number: group "distance" (mm, against CT), "depth", "poses",
"surface", "fit". It has no times, so that the same study gives the same file. What one unit gives
(its depth error, its mean absolute distance error) is one number for statistics: clicks, repeats
and pixels of one case are not independent, so intervals are drawn over cases, and settings are
compared in pairs of the same case.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.batch_unit import read_json
from endorecon.errors import BUG_EXIT_CODE, InputRefused
from endorecon.io import atomic

Array = NDArray[Any]
COLUMNS = (
    "case", "setting", "repeat", "group", "name", "kind", "observer", "repeat_click", "truth",
    "found", "difference", "low", "high", "status", "held_out",
)  # fmt: skip
# One number a unit: what tables, plots and tests are about. Smaller is better.
CT_SCALE = "@ct-scale"  # evaluate's mark of what takes its scale from the CT (held by a test)
METRICS = {
    "distance error": "mean |reconstruction - CT| of single measures, each click by itself, mm",
    "depth MAE": "mean |depth - truth|, mm",
    "depth P95": "95th percentile of |depth - truth|, mm",
    "surface to CT": "median distance of the surface to the CT, mm",
    "camera centre": "median error of the camera centres, mm",
}


@dataclass(frozen=True)
class Results:
    """All that the unit folders of a study say."""

    plan: dict[str, Any]
    rows: tuple[dict[str, str], ...]  # the long form
    units: tuple[dict[str, Any], ...]  # one a unit: key, case, setting, repeat, state, ...
    settings: tuple[str, ...]
    baseline: str


@dataclass(frozen=True)
class Summary:
    """One metric of one setting over its units."""

    setting: str
    metric: str
    values: dict[str, float]  # case -> mean over repeats
    mean: float
    sd: float
    median: float
    p95: float
    interval: tuple[float, float]
    failed: int = 0
    against: dict[str, float] = field(default_factory=dict)  # paired test with the baseline


def collect(out: Path) -> Results:
    """Read every unit of the study in `out`. Raises InputRefused when there is none."""
    plan = read_json(out / "study.json")
    if not plan:
        raise InputRefused("This is not a study folder (it has no study.json)", "", out)
    rows: list[dict[str, str]] = []
    units: list[dict[str, Any]] = []
    for u in plan["units"]:
        folder = out / "units" / u["key"]
        status, result = read_json(folder / "status.json"), read_json(folder / "result.json")
        mine = _rows(u, result)
        rows += mine
        units.append(
            {
                **u, "state": status.get("state", "waiting"), "step": status.get("step", ""),
                "sentence": status.get("sentence", ""), "result": result,
                "exit_code": int(status.get("exit_code", BUG_EXIT_CODE)),
                "seconds": sum(status.get("seconds", {}).values()),
                "code": read_json(folder / "unit.json").get("code", ""),
                "metrics": _metrics(mine),
            }
        )  # fmt: skip
    settings = tuple(dict.fromkeys(u["setting"] for u in plan["units"]))
    baseline = str(plan.get("baseline") or (settings[0] if settings else ""))
    return Results(plan, tuple(rows), tuple(units), settings, baseline)


def _rows(unit: dict[str, Any], result: dict[str, Any]) -> list[dict[str, str]]:
    base = {
        "case": unit["case"], "setting": unit["setting"], "repeat": str(unit["repeat"]),
    }  # fmt: skip
    out = []
    for m in result.get("measurements", ()):
        out.append(
            base | {
                "group": "distance", "name": m["name"], "kind": m["kind"],
                "observer": m["observer"], "repeat_click": m["repeat"], "truth": m["ct_mm"],
                "found": m["recon_mm"], "difference": m["difference_mm"], "low": m["low_mm"],
                "high": m["high_mm"], "status": m["status"], "held_out": m["held_out"],
            }
        )  # fmt: skip
    numbers = [("fit", "", result.get("fit", {})), ("depth", "", result.get("depth", {})),
               ("poses", "", result.get("poses", {}))]  # fmt: skip
    numbers += [("surface", kind, found) for kind, found in result.get("surface", {}).items()]
    for group, kind, found in numbers:
        for name, value in found.items():
            if value is not None:
                text = f"{value:.6g}" if isinstance(value, float) else str(value)
                out.append(base | {"group": group, "name": name, "kind": kind, "found": text})
    return [{c: row.get(c, "") for c in COLUMNS} for row in out]


def _metrics(rows: list[dict[str, str]]) -> dict[str, float]:
    """The numbers of METRICS that one unit gives."""
    out: dict[str, float] = {}
    lengths: dict[str, list[float]] = {}
    for r in rows:
        if good_distance(r):
            lengths.setdefault(r["name"], []).append(abs(float(r["difference"])))
    if lengths:  # repeats of one distance count as one
        out["distance error"] = float(np.mean([np.mean(v) for v in lengths.values()]))
    wanted = {
        ("depth", "mae", ""): "depth MAE", ("depth", "p95", ""): "depth P95",
        ("surface", "median", "reconstruction to CT"): "surface to CT",
        ("poses", "centre_mm", ""): "camera centre",
    }  # fmt: skip
    for r in rows:
        name = wanted.get((r["group"], r["name"], r["kind"]))
        if name:
            out[name] = float(r["found"])
    return out


def good_distance(row: dict[str, str]) -> bool:
    """A distance in mm that counts: measured, and with a scale that has not seen its landmarks."""
    return (
        row["group"] == "distance" and row["status"] == "ok" and row["difference"] != ""
        and row["held_out"] == "true" and is_length(row)
    )  # fmt: skip


def is_length(row: dict[str, str]) -> bool:
    """In mm, and not the variant of a distance that takes its scale from the CT."""
    return not row["kind"].endswith(("_mm2", "_deg", CT_SCALE))


def write_csv(results: Results, path: Path) -> None:
    """Write study.csv, all or nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.rows)
    atomic.write_text(path, text.getvalue())


# -- statistics ----------------------------------------------------------------------------------


def summaries(results: Results) -> list[Summary]:
    """Every metric of every setting that any unit gives."""
    out = []
    for metric in METRICS:
        by = {s: per_case(results.units, s, metric) for s in results.settings}
        if not any(by.values()):
            continue
        for setting, values in by.items():
            x = np.array(list(values.values()))
            failed = sum(
                u["setting"] == setting and metric not in u["metrics"] for u in results.units
            )
            against = (
                {} if setting == results.baseline else paired(values, by.get(results.baseline, {}))
            )
            nan = float("nan")
            some = len(x) > 0
            out.append(
                Summary(
                    setting, metric, values, float(x.mean()) if some else nan,
                    float(x.std(ddof=1)) if len(x) > 1 else nan,
                    float(np.median(x)) if some else nan,
                    float(np.percentile(x, 95)) if some else nan,
                    mean_interval(x), failed, against,
                )
            )  # fmt: skip
    return out


def per_case(units: Any, setting: str, metric: str) -> dict[str, float]:
    """case -> mean over repeats of one metric of one setting."""
    found: dict[str, list[float]] = {}
    for u in units:
        if u["setting"] == setting and metric in u["metrics"]:
            found.setdefault(u["case"], []).append(u["metrics"][metric])
    return {case: float(np.mean(v)) for case, v in found.items()}


def mean_interval(x: Array, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval (BCa, percentile where that fails) of the mean over cases."""
    from scipy.stats import bootstrap

    if len(x) < 3:
        return float("nan"), float("nan")
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    for method in ("BCa", "percentile"):
        found = bootstrap(
            (x,), np.mean, vectorized=True, method=method, n_resamples=4000,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        if np.isfinite(found.low) and np.isfinite(found.high):
            return float(found.low), float(found.high)
    return float("nan"), float("nan")


def paired(values: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Difference to the baseline over the cases both have: mean, interval, exact p of its sign.

    p is of the sign-flip permutation test (all 2^n patterns up to 14 cases, else 20,000 drawn).
    """
    cases = [c for c in values if c in base]
    d = np.array([values[c] - base[c] for c in cases])
    if len(d) < 2:
        return {}
    n = len(d)
    if n <= 14:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (20000, n))
        signs[0] = 1
    reached = np.abs((signs * d).mean(1)) >= abs(d.mean()) - 1e-12
    low, high = mean_interval(d)
    return {
        "cases": float(n), "mean": float(d.mean()), "low": low, "high": high,
        "p": float(reached.mean()),
    }  # fmt: skip


# -- two studies ---------------------------------------------------------------------------------


def regressions(now: Results, before: Results) -> list[str]:
    """Sentences on what got worse by more than the noise; empty when nothing did.

    Pairs of the same case and setting. Worse: the mean rises by more than 2 % and the interval of
    the paired difference lies above zero; or a unit that was done fails now. With fewer than 3
    cases there is no interval, and a rise of more than 10 % counts.
    """
    out = []
    was = {(u["case"], u["setting"], u["repeat"]): u["state"] for u in before.units}
    for u in now.units:
        if was.get((u["case"], u["setting"], u["repeat"])) == "done" and u["state"] == "failed":
            out.append(f"{u['case']} | {u['setting']} failed: {u['sentence']}")
    for setting in now.settings:
        for metric in METRICS:
            a = per_case(now.units, setting, metric)
            b = per_case(before.units, setting, metric)
            both = [c for c in a if c in b]
            if not both:
                continue
            mean = float(np.mean([b[c] for c in both]))
            rise = float(np.mean([a[c] - b[c] for c in both]))
            found = paired(a, b)
            sure = found and np.isfinite(found["low"])
            if (sure and found["low"] > 0 and rise > 0.02 * mean) or (
                not sure and rise > 0.10 * mean
            ):
                out.append(
                    f"{setting}: {metric} rose from {mean:.3f} to {mean + rise:.3f} mm "
                    f"over {len(both)} cases"
                )
    return out
