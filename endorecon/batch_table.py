"""A study in words: the live table, plain lines for a log, the estimate, and the verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from endorecon.batch import Estimate, Snapshot, UnitState
from endorecon.batch_clinical import Clinical, clinical, refused
from endorecon.batch_results import Results, collect, regressions, summaries
from endorecon.errors import Diverged

SHOWN = 12  # rows of the live table


def drawn(snapshots: Iterator[Snapshot]) -> Iterator[str]:
    """Draw a study until it ends: a live table on a terminal, else lines for whoever prints."""
    if not sys.stdout.isatty():
        for snapshot in snapshots:
            for unit in snapshot.ended:
                yield f"{line_of(unit)}   ({count(snapshot)})"
        return
    from rich.live import Live

    with Live(refresh_per_second=2, transient=True) as live:
        for snapshot in snapshots:
            live.update(table_of(snapshot))
            for unit in snapshot.ended:
                if unit.state == "failed":
                    live.console.print(line_of(unit), highlight=False)


def table_of(snapshot: Snapshot) -> Any:
    """What runs now, as a rich table; the caption tells the rest."""
    from rich.table import Table

    table = Table(caption=f"{snapshot.name}: {count(snapshot)}", expand=True)
    for name in ("case", "setting", "repeat", "stage", "time", "left"):
        table.add_column(name, no_wrap=name != "stage")
    running = [u for u in snapshot.units if u.state == "running"]
    done = [u.seconds for u in snapshot.units if u.state == "done"]
    for u in running[:SHOWN]:
        left = duration(max(0.0, sum(done) / len(done) - u.seconds)) if done else ""
        table.add_row(u.case, u.setting, str(u.repeat), u.stage, duration(u.seconds), left)
    if len(running) > SHOWN:
        table.add_row(f"and {len(running) - SHOWN} more")
    return table


def lines_of(snapshot: Snapshot) -> list[str]:
    """The study as lines: failures first, then what runs, then the count."""
    failed = [u for u in snapshot.units if u.state == "failed"]
    running = [u for u in snapshot.units if u.state == "running"]
    return [*map(line_of, failed), *map(line_of, running), f"{snapshot.name}: {count(snapshot)}"]


def line_of(unit: UnitState) -> str:
    """One unit in one line."""
    who = f"{unit.case} | {unit.setting} | repeat {unit.repeat}"
    what = {
        "failed": f"FAILED at {unit.stage}: {unit.sentence}",
        "running": f"{unit.stage} ({duration(unit.seconds)})",
    }.get(unit.state, f"{unit.state} in {duration(unit.seconds)}")
    return f"{who}: {what}"


def count(snapshot: Snapshot) -> str:
    """How many units are where, and the time left."""
    parts = [f"{snapshot.count(s)} {s}" for s in ("done", "failed", "running", "waiting")]
    left = "" if snapshot.left_s is None else f", about {duration(snapshot.left_s)} left"
    unfinished = snapshot.count("running") + snapshot.count("waiting")
    return f"{len(snapshot.units)} units: {', '.join(parts)}{left if unfinished else ''}"


def duration(seconds: float) -> str:
    """Seconds as a reader wants them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def line_of_the_interrupted(out: Path, engine: str) -> str:
    """What became of a study's units when it was told to end."""
    names = sorted(f.stem for f in (out / "jobs").glob("endorecon-*.json"))
    if engine == "slurm" and names:
        return (
            "endorecon: the study's Slurm jobs go on; the same command takes them over, and "
            f"`scancel --name={','.join(names)}` ends them"
        )
    return "endorecon: the units that ran here were ended; nothing that was finished is lost"


def lines_of_estimate(found: Estimate) -> list[str]:
    """--dry-run."""
    tight = "" if found.gigabytes < found.free_gigabytes else "  TOO LITTLE"
    return [
        *found.lines,
        f"{found.units} units, {found.to_do} to do: about {found.hours:.1f} h and "
        f"{found.gigabytes:.1f} GB ({found.free_gigabytes:.0f} GB are free){tight}",
    ]


def verdict(out: Path, before: Path | None) -> tuple[int, list[str]]:
    """The exit code and the last lines: figures, failures, comparison with an earlier study.

    5: worse than before. A study with failures is a finished study: 0, and they are listed; but
    when nothing was done at all, the exit code of the first failure.
    """
    results = collect(out)
    lines = [*lines_of_distances(results), *_figures(results)]
    lines += [
        f"failed: {u['case']} | {u['setting']} | repeat {u['repeat']} "
        f"at {u['step']}: {u['sentence']}"
        for u in results.units
        if u["state"] == "failed"
    ]
    lines.append(f"tables: {out / 'study.csv'}, {out / 'study.html'}, {out / 'study.tex'}")
    codes = [u["exit_code"] for u in results.units if u["state"] == "failed"]
    if codes and not any(u["state"] == "done" for u in results.units):
        return codes[0], [*lines, "no unit was done"]
    if before is None:
        return 0, lines
    worse = regressions(results, collect(before))
    if worse:
        return Diverged.exit_code, [*lines, *(f"WORSE: {sentence}" for sentence in worse)]
    return 0, [*lines, f"not worse than {before} by more than the noise"]


def lines_of_distances(results: Results) -> list[str]:
    """The paper's table, once a setting: distance, CT, reconstruction, difference, verdicts."""
    out = []
    for setting in results.settings:
        rows = clinical(results, setting)
        if not rows:
            continue
        wide = max(len(r.name) for r in rows)
        margins = "".join(f"  within {m:g}".rjust(14) for m, _, _ in rows[0].verdicts)
        out += [
            f"clinical distances against CT, setting {setting}, mm (difference = reconstruction - "
            "CT; interval over cases; within = TOST at 5 %, p):",
            f"{'':{wide}s}  cases  measures      CT   recon    diff      SD  95 % interval    "
            f"mean |d|  worst |d|{margins}",
            *(_distance(r, wide) for r in rows),
        ]
        out += [f"not measured: {sentence}" for sentence in refused(results, setting)]
    return out


def _distance(r: Clinical, wide: int) -> str:
    few = r.cases < 3  # no interval, and a test of two cases is none
    interval = "needs 3 cases" if few else f"{r.interval[0]:+.3f} to {r.interval[1]:+.3f}"
    measures = f"{r.measures}/{r.planned}"
    sd = "-" if few else f"{r.sd:.3f}"
    verdicts = "".join(
        ("-" if few else f"{'yes' if ok else 'no'} {p:.3f}").rjust(14) for _, p, ok in r.verdicts
    )
    return (
        f"{r.name:{wide}s} {r.cases:6d} {measures:>9s} {r.ct:7.2f} {r.recon:7.2f} "
        f"{r.difference:+7.3f} {sd:>7s}  {interval:17s}{r.absolute:8.3f} {r.worst:10.3f}{verdicts}"
    )


def _sd(value: float) -> str:
    return f"{value:7.3f}" if value == value else "      -"


def _figures(results: Results) -> list[str]:
    return [
        f"{s.setting:24s} {s.metric:16s} mean {s.mean:7.3f}  SD {_sd(s.sd)}  median {s.median:7.3f}"
        f"  P95 {s.p95:7.3f} mm over {len(s.values)} cases"
        for s in summaries(results)
        if s.values
    ]
