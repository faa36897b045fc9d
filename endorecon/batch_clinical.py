"""The paper's table: clinical distances over cases, CT against reconstruction, with verdicts.

A distance of one case is one subject: the mean over observers and repeats of its clicks. Intervals
and tests over cases take one number a case, because what goes wrong in a case (scale, poses) goes
wrong in all its distances. A distance whose own landmarks gave the scale is no measure of anything:
only held-out ones count. Equivalence by TOST at 1, 0.625 and 0.5 mm; mm throughout, difference =
reconstruction minus CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from endorecon.batch_results import Results, good_distance, is_length, mean_interval
from endorecon.evaluate import statistics as st

MARGINS_MM = (1.0, 0.625, 0.5)
ALPHA = 0.05


@dataclass(frozen=True)
class Measured:
    """One distance of one case: means over clicks, and the interval of one measure."""

    case: str
    setting: str
    name: str
    ct: float
    recon: float
    difference: float
    low: float  # of the reconstruction's length
    high: float
    clicks: int


@dataclass(frozen=True)
class Clinical:
    """One distance over all cases (or all distances together)."""

    name: str
    setting: str
    cases: int
    measures: int  # single ones: observers x click repeats x cases
    planned: int  # of these cases and distances, with those that were refused
    ct: float
    recon: float
    difference: float
    sd: float
    interval: tuple[float, float]
    absolute: float
    worst: float
    inside: float  # share of single measures whose interval holds the CT value
    verdicts: tuple[tuple[float, float, bool], ...]  # margin, p, equivalent


def measured(results: Results) -> list[Measured]:
    """One row a case, setting and distance."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for r in results.rows:
        if good_distance(r):
            groups.setdefault((r["case"], r["setting"], r["name"]), []).append(r)
    out = []
    for (case, setting, name), rows in groups.items():
        ct, recon, low, high = (
            float(np.mean([float(r[k]) for r in rows if r[k] != ""] or [np.nan]))
            for k in ("truth", "found", "low", "high")
        )
        out.append(Measured(case, setting, name, ct, recon, recon - ct, low, high, len(rows)))
    return out


def refused(results: Results, setting: str) -> list[str]:
    """The distances that cases were to give and did not, each with its reasons."""
    had = {(m.case, m.name) for m in measured(results) if m.setting == setting}
    out: dict[str, dict[str, str]] = {}  # distance -> case -> why
    for r in results.rows:
        mine = r["group"] == "distance" and r["setting"] == setting and is_length(r)
        if mine and (r["case"], r["name"]) not in had:
            leaky = r["status"] == "ok"
            why = "not held out, its landmarks gave the scale" if leaky else r["status"]
            out.setdefault(r["name"], {})[r["case"]] = why.removeprefix("refused: ")
    whole = len({r["case"] for r in results.rows if r["setting"] == setting})
    return [
        f"{name} in {len(cases)} of {whole} cases ({'; '.join(dict.fromkeys(cases.values()))})"
        for name, cases in out.items()
    ]


def clinical(results: Results, setting: str) -> list[Clinical]:
    """Each distance over the cases of a setting, then all together; [] without measurements."""
    rows = [m for m in measured(results) if m.setting == setting]
    if not rows:
        return []
    out = []
    for name in dict.fromkeys(m.name for m in rows):
        mine = [m for m in rows if m.name == name]
        out.append(_row(name, setting, mine, np.array([m.difference for m in mine]), results))
    cases = dict.fromkeys(m.case for m in rows)
    means = np.array([np.mean([m.difference for m in rows if m.case == c]) for c in cases])
    out.append(_row("all distances", setting, rows, means, results))
    return out


def _row(
    name: str, setting: str, rows: list[Measured], one_a_case: Any, results: Results
) -> Clinical:
    single = [
        r for r in results.rows
        if good_distance(r) and r["setting"] == setting and r["low"] != ""
        and (r["name"] == name or name == "all distances")
    ]  # fmt: skip
    places = {(m.case, m.name) for m in rows}
    planned = sum(
        r["group"] == "distance" and r["setting"] == setting and is_length(r)
        and (r["case"], r["name"]) in places
        for r in results.rows
    )  # fmt: skip
    hits = [float(r["low"]) <= float(r["truth"]) <= float(r["high"]) for r in single]
    d = np.array([m.difference for m in rows])
    few = len(one_a_case) < 3  # no interval over two cases, and no verdict
    p = [(m, float("nan") if few else st.tost(one_a_case, m)) for m in MARGINS_MM]
    return Clinical(
        name, setting, len(one_a_case), sum(m.clicks for m in rows), planned,
        float(np.mean([m.ct for m in rows])), float(np.mean([m.recon for m in rows])),
        float(one_a_case.mean()),
        float(one_a_case.std(ddof=1)) if len(one_a_case) > 1 else float("nan"),
        mean_interval(one_a_case), float(np.abs(d).mean()), float(np.abs(d).max()),
        float(np.mean(hits)) if hits else float("nan"),
        tuple((m, x, bool(x < ALPHA)) for m, x in p),
    )  # fmt: skip


def agreement(results: Results, setting: str) -> tuple[st.BlandAltman, st.Precision] | None:
    """Limits of agreement over (case, distance), repeats kept together; and what clicks add."""
    rows = [r for r in results.rows if good_distance(r) and r["setting"] == setting]
    subjects = np.array([f"{r['case']}\0{r['name']}" for r in rows])
    if len(set(subjects)) < 2:
        return None
    d = np.array([float(r["difference"]) for r in rows])
    observers = np.array([r["observer"] for r in rows])
    return st.bland_altman(d, subjects), st.precision(d, subjects, observers)
