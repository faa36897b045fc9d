"""Plots of a study as PNG bytes: boxes over cases, forests of differences, Bland-Altman."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from endorecon.batch_clinical import Clinical, Measured
from endorecon.batch_results import Summary
from endorecon.evaluate.statistics import BlandAltman

_BLUE, _ORANGE, _GREY, _INK = "#1f6f9f", "#d1742a", "#8a9299", "#22303a"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def boxes(found: list[Summary]) -> bytes:
    """One metric: a box a setting, every case as a point."""
    figure, axes = _figure(6.4, 0.9 + 0.42 * len(found))
    values = [list(s.values.values()) for s in found]
    axes.boxplot(
        values, orientation="horizontal", widths=0.5, showfliers=False,
        medianprops={"color": _BLUE}, boxprops={"color": _GREY},
        whiskerprops={"color": _GREY}, capprops={"color": _GREY},
    )  # fmt: skip
    for k, v in enumerate(values):
        spread = np.linspace(-0.16, 0.16, len(v)) if len(v) > 1 else [0.0]
        axes.plot(v, k + 1 + np.asarray(spread), "o", ms=3.5, color=_BLUE, alpha=0.7, mec="none")
    axes.set_yticks(range(1, len(found) + 1), [s.setting for s in found])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{found[0].metric} (mm), one point a case", fontsize=9)
    return _png(figure)


def forest(found: list[Summary], baseline: str) -> bytes | None:
    """One metric: paired differences to the baseline with 95 % intervals; None without pairs."""
    pairs = [s for s in found if s.against]
    if not pairs:
        return None
    figure, axes = _figure(6.4, 0.9 + 0.38 * len(pairs))
    for k, s in enumerate(pairs):
        a = s.against
        color = _GREY if not np.isfinite(a["low"]) or a["low"] <= 0 <= a["high"] else (
            _ORANGE if a["mean"] > 0 else _BLUE
        )  # fmt: skip
        if np.isfinite(a["low"]):
            axes.plot([a["low"], a["high"]], [k, k], "-", color=color, lw=1.6)
        axes.plot(a["mean"], k, "s", color=color, ms=5)
    axes.axvline(0, color=_INK, lw=0.8)
    axes.set_yticks(range(len(pairs)), [s.setting for s in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlabel(f"{found[0].metric}: difference to {baseline} (mm), left is better", fontsize=9)
    return _png(figure)


def forest_of_distances(rows: list[Clinical]) -> bytes:
    """Every distance: mean difference to the CT with its 95 % interval, and the margins."""
    figure, axes = _figure(6.4, 1.1 + 0.3 * len(rows))
    for n, (margin, _, _) in enumerate(rows[0].verdicts):
        for side in (-margin, margin):
            axes.axvline(side, color=_ORANGE, lw=0.8, ls=":")
        place = (margin * (-1) ** n, 1.01)  # left and right in turn, so that none covers another
        axes.annotate(
            f"\u00b1{margin:g}", place, xycoords=("data", "axes fraction"), fontsize=7,
            ha="center", color=_ORANGE,
        )  # fmt: skip
    for k, r in enumerate(rows):
        whole = r is rows[-1]
        color = _INK if whole else _BLUE
        if np.isfinite(r.interval[0]):
            axes.plot(r.interval, [k, k], "-", color=color, lw=2.2 if whole else 1.5)
        axes.plot(r.difference, k, "D" if whole else "s", color=color, ms=6 if whole else 5)
    axes.axvline(0, color=_INK, lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{r.name} ({r.cases})" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("mean of reconstruction − CT over (n) cases, 95 % interval (mm)", fontsize=9)
    return _png(figure)


def bland_altman(rows: list[Measured], found: BlandAltman) -> bytes:
    """Differences against means of every distance of every case, with limits and intervals."""
    figure, axes = _figure(6.4, 3.4)
    for key, ci, color in (
        ("bias", "bias_ci", _BLUE), ("lower", "lower_ci", _ORANGE), ("upper", "upper_ci", _ORANGE),
    ):  # fmt: skip
        value = getattr(found, key)
        axes.axhspan(*getattr(found, ci), color=color, alpha=0.12, lw=0)
        axes.axhline(value, color=color, lw=1.2, ls="-" if key == "bias" else "--")
        axes.annotate(
            f"{key} {value:+.2f}", (1.01, value), xycoords=("axes fraction", "data"), fontsize=8,
            va="center", color=color, annotation_clip=False,
        )  # fmt: skip
    axes.axhline(0, color=_GREY, lw=0.6)
    for k, case in enumerate(dict.fromkeys(m.case for m in rows)):
        mine = [m for m in rows if m.case == case]
        axes.plot(
            [(m.ct + m.recon) / 2 for m in mine], [m.difference for m in mine],
            "os^Dv*P"[k % 7], ms=4.5, alpha=0.75, mec="none", label=case,
        )  # fmt: skip
    if len({m.case for m in rows}) <= 10:
        figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    axes.set_xlabel("mean of CT and reconstruction (mm)", fontsize=9)
    axes.set_ylabel("reconstruction − CT (mm)", fontsize=9)
    return _png(figure)
