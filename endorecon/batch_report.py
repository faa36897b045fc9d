"""study.html and study.tex: failures first, then the tables and plots; nothing is fetched.

The page is one file with its pictures inside; the pages of single cases (their evaluation's
report.html) are linked by relative paths. LaTeX: `booktabs` tables that \\input takes as they are.
"""

from __future__ import annotations

import base64
import datetime
import math
from pathlib import Path
from typing import Any

import endorecon
from endorecon import batch_pictures as pictures
from endorecon.batch_clinical import MARGINS_MM, Clinical, agreement, clinical, measured, refused
from endorecon.batch_page import PAGE, STYLE
from endorecon.batch_results import METRICS, Results, Summary, summaries
from endorecon.io import atomic


def write_report(results: Results, out: Path) -> None:
    """Write study.html and study.tex."""
    import jinja2

    found = summaries(results)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    environment.filters["num"] = number
    environment.filters["between"] = between
    environment.filters["p"] = lambda p: "<0.001" if p < 0.001 else number(p, 3)
    units = [
        {
            **u,
            "page": _page_of(out, u["key"], "run/evaluation/report.html"),
            "log": _page_of(out, u["key"], "log.txt"),
        }
        for u in sorted(results.units, key=lambda u: u["state"] != "failed")
    ]
    html = environment.from_string(PAGE).render(
        plan=results.plan, style=STYLE, version=endorecon.__version__,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        units=units, failed=[u for u in units if u["state"] == "failed"],
        done=sum(u["state"] == "done" for u in units),
        open=sum(u["state"] not in ("done", "failed") for u in units),
        warnings=_warnings(results), distances=_distances(results), margins=MARGINS_MM,
        metrics=_metrics(found, results.baseline), words=METRICS, baseline=results.baseline,
        names=[m for m in METRICS if any(m in u["metrics"] for u in units)],
    )  # fmt: skip
    atomic.write_text(out / "study.html", html)
    atomic.write_text(out / "study.tex", latex(results, found))


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """A number for a reader; a dash for what is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def between(ends: tuple[float, float], sign: bool = False) -> str:
    """An interval for a reader; a dash for what is none."""
    if not all(math.isfinite(x) for x in ends):
        return "–"
    return f"{number(ends[0], 3, sign)} to {number(ends[1], 3, sign)}"


def _page_of(out: Path, key: str, name: str) -> str:
    page = f"units/{key}/{name}"
    return page if (out / page).is_file() else ""


def _uri(png: bytes | None) -> str:
    return "" if png is None else "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _warnings(results: Results) -> list[str]:
    out = []
    if len({u["code"] for u in results.units if u["state"] == "done"}) > 1:
        out.append("The units were made by different versions of the program: do not compare them.")
    scaled = dict.fromkeys(u["case"] for u in results.units if "depth_scale" in u["result"])
    if scaled:
        out.append(
            f"Depths scaled by the true depths themselves, there being no true poses: "
            f"{', '.join(scaled)}."
        )
    cases = len({u["case"] for u in results.units if u["metrics"]})
    if 0 < cases < 3:
        out.append(f"Only {cases} case(s): no interval and no test can be given.")
    return out


def _distances(results: Results) -> list[tuple[str, list[Clinical], str, str, Any, list[str]]]:
    out = []
    for setting in results.settings:
        rows = clinical(results, setting)
        if rows:
            found = agreement(results, setting)
            mine = [m for m in measured(results) if m.setting == setting]
            picture = "" if found is None else _uri(pictures.bland_altman(mine, found[0]))
            trees = _uri(pictures.forest_of_distances(rows))
            out.append((setting, rows, trees, picture, found, refused(results, setting)))
    return out


def _metrics(found: list[Summary], baseline: str) -> list[tuple[str, list[Summary], str, str]]:
    out = []
    for metric in dict.fromkeys(s.metric for s in found):
        rows = [s for s in found if s.metric == metric]
        shown = [s for s in rows if s.values]
        out.append(
            (metric, rows, _uri(pictures.boxes(shown)), _uri(pictures.forest(shown, baseline)))
        )
    return out


def latex(results: Results, found: list[Summary]) -> str:
    """Two kinds of table: clinical distances of each setting, and the metrics of all settings."""
    lines = ["% endorecon: not for clinical use. Needs \\usepackage{booktabs}. All lengths in mm."]
    for setting in results.settings:
        rows = clinical(results, setting)
        if not rows:
            continue
        margins = " & ".join(f"$\\pm{m}$" for m in MARGINS_MM)
        lines += [
            f"% setting: {_tex(setting)}", "\\begin{tabular}{lrrrrr" + "c" * len(MARGINS_MM) + "}",
            "\\toprule",
            "Distance & $n$ & CT & Reconstruction & Difference & 95\\,\\% interval & "
            f"{margins} \\\\",
            "\\midrule",
        ]  # fmt: skip
        for r in rows:
            if r is rows[-1]:
                lines.append("\\midrule")
            interval = f"{_n(r.interval[0], True)} to {_n(r.interval[1], True)}"
            verdicts = " & ".join("yes" if ok else "no" for _, _, ok in r.verdicts)
            lines.append(
                f"{_tex(r.name)} & {r.cases} & {_n(r.ct)} & {_n(r.recon)} & "
                f"{_n(r.difference, True)} & {interval} & {verdicts} \\\\"
            )
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    for metric in dict.fromkeys(s.metric for s in found):
        lines += [
            f"% {_tex(METRICS[metric])}", "\\begin{tabular}{lrrrrrr}", "\\toprule",
            "Setting & $n$ & Mean & SD & Median & P95 & 95\\,\\% interval \\\\", "\\midrule",
        ]  # fmt: skip
        for s in (s for s in found if s.metric == metric):
            lines.append(
                f"{_tex(s.setting)} & {len(s.values)} & {_n(s.mean)} & {_n(s.sd)} & {_n(s.median)} "
                f"& {_n(s.p95)} & {_n(s.interval[0])} to {_n(s.interval[1])} \\\\"
            )
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join(lines) + "\n"


def _n(value: float, sign: bool = False) -> str:
    return f"${number(value, 2, sign)}$" if math.isfinite(value) else "--"


def _tex(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": "", "~": " ", "^": " ", "|": "$|$"}
    return "".join(special.get(c, c) for c in text)
