"""Clinical distances of several runs in one table, with pooled interval coverage.

    python benchmarks/distances.py RUN_OR_STUDY_OR_STORE [...] [--noise 0.1] [--preset cpu]

A RUN has been evaluated (`endorecon evaluate`, with --metric-poses for the second row). A STUDY is
the folder of `endorecon validate STUDY.yaml --out DIR` on phantoms, a STORE that of accuracy.py:
each finished run in it is evaluated once more here, into `metric` beside it, with the true camera
path as metric poses, NOISE mm of noise an axis; what stands there is not done again. Two scales:
from the CT by a fit that has not seen the row's landmarks, and from the metric poses with a rigid
fit. Held-out lengths only. The coverage's bootstrap draws whole seeds (runs); beside it, whole
distances: clicks share a reconstruction.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from endorecon.evaluate.distances import CT_SCALE
from endorecon.evaluate.statistics import share_with_interval


@dataclass(frozen=True)
class Measure:
    """One measure: of which run and distance, by which scale, mm."""

    run: str
    distance: str
    from_ct: bool
    ct: float
    difference: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.low <= self.ct <= self.high


def read(run: Path, label: str) -> tuple[list[Measure], int]:
    """The held-out lengths of an evaluated run, and how many measures were refused."""
    with open(run / "evaluation" / "measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    both = any(r["kind"].endswith(CT_SCALE) for r in rows)  # else there is the CT's scale only
    good = [r for r in rows if r["status"] == "ok" and r["held_out"] == "true"
            and r["kind"].removesuffix(CT_SCALE) == "point-to-point"]  # fmt: skip
    found = [
        Measure(
            label, r["name"], r["kind"].endswith(CT_SCALE) or not both,
            *(float(r[k]) for k in ("ct_mm", "difference_mm", "low_mm", "high_mm")),
        )
        for r in good
    ]  # fmt: skip
    refused = sum(r["status"] != "ok" and not r["kind"].endswith(CT_SCALE) for r in rows)
    return found, refused


def of_study(study: Path) -> list[tuple[Path, Path, str]]:
    """(run, phantom, label) of each finished unit of a study."""
    out = []
    for unit in json.loads((study / "study.json").read_text())["units"]:
        folder = study / "units" / unit["key"]
        status = folder / "status.json"
        if not status.is_file() or json.loads(status.read_text())["state"] != "done":
            print(f"{unit['case']}: not done, left out")
            continue
        world = Path(json.loads((folder / "unit.json").read_text())["case_folder"])
        out.append((folder / "run", world, str(unit["case"])))
    return out


def of_store(store: Path, preset: str) -> list[tuple[Path, Path, str]]:
    """(run, phantom, label) of each finished full run in a store of accuracy.py."""
    runs = sorted(store.glob(f"*/runs/{preset}-full"))
    return [
        (run, run.parents[1], run.parents[1].name)
        for run in runs
        if (run / "surface.ply").is_file()
    ]


def with_metric_poses(run: Path, world: Path, noise_mm: float) -> Path:
    """The run evaluated against its phantom with metric poses; the folder of that."""
    from endorecon.evaluate.run import evaluate_run
    from endorecon.phantom.truth import load_truth

    beside = run.parent / ("metric" if run.name == "run" else f"{run.name}-metric")
    copy = beside / "run"
    if not (copy / "evaluation" / "measurements.csv").is_file():
        copy.mkdir(parents=True, exist_ok=True)
        for item in run.iterdir():
            if item.name != "evaluation" and not (copy / item.name).exists():
                (copy / item.name).symlink_to(item.resolve())
        poses = load_truth(world).world_from_camera.copy()
        poses[:, :3, 3] += np.random.default_rng(1).normal(0, noise_mm, (len(poses), 3))
        frames = [{"frame_index": i, "camera_to_world": p.tolist()} for i, p in enumerate(poses)]
        tracker = beside / "tracker.json"
        tracker.write_text(json.dumps({"unit": "mm", "frames": frames}))
        evaluate_run(
            copy, world / "ct", world / "landmarks.mrk.json", None, world / "clicks.csv",
            world / "distances.yaml", metric_poses=tracker,
        )  # fmt: skip
    return copy


def surface_row(run: Path, label: str) -> str:
    """One line of the table of surfaces: observed surface and CT, both ways, mm."""
    facts = json.loads((run / "evaluation" / "report.json").read_text())["facts"]
    there = facts["surface"]["reconstruction to CT"]
    back = facts["surface"]["CT seen by the cameras to reconstruction"]
    a, b = (f"{x['mean']:.3f}, {x['median']:.3f}, {x['p95']:.2f}" for x in (there, back))
    seen = f"{100 * facts['coverage']['observed']:.0f} %, {100 * facts['completeness_1mm']:.0f} %"
    return f"| {label} | {a} | {b} | {facts['hd95_mm']:.2f} | {seen} |"


def sentence(some: list[Measure], words: str) -> str:
    """The figures that issue 5 asks for, of one scale."""
    d = np.array([m.difference for m in some])
    key = np.array([f"{m.run}\0{m.distance}" for m in some])
    means = np.array([d[key == k].mean() for k in dict.fromkeys(key)])
    held = np.array([m.holds for m in some])
    runs = np.array([m.run for m in some])
    share, low, high = share_with_interval(held, runs)
    _, low_d, high_d = share_with_interval(held, key)
    z = d / [(m.high - m.low) / 3.92 for m in some]
    return (
        f"**{words}**: {len(d)} measures of {len(means)} distances on {len(set(runs))} runs; mean "
        f"difference {d.mean():+.3f} mm, mean |difference| of the distances "
        f"{np.abs(means).mean():.3f}, largest {np.abs(means).max():.2f}, "
        f"{(np.abs(means) < 0.5).sum()} of {len(means)} below 0.5 mm; largest single "
        f"{np.abs(d).max():.2f}. 95 % intervals hold {100 * share:.1f} % (bootstrap over runs "
        f"{100 * low:.1f} to {100 * high:.1f}, over distances {100 * low_d:.1f} to "
        f"{100 * high_d:.1f}), median width {np.median([m.high - m.low for m in some]):.2f} mm; "
        f"RMS of difference / sigma {np.sqrt((z**2).mean()):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--preset", default="cpu", help="whose runs of a STORE")
    arguments = parser.parse_args()
    runs: list[tuple[Path, str]] = []
    for folder in arguments.folders:
        if (folder / "evaluation").is_dir():
            runs.append((folder, folder.parent.name if folder.name == "run" else folder.name))
            continue
        study = (folder / "study.json").is_file()
        for run, world, label in of_study(folder) if study else of_store(folder, arguments.preset):
            runs.append((with_metric_poses(run, world, arguments.noise), label))
    if not runs:
        parser.error("no evaluated run, no finished study and no store with finished runs is given")
    everything: list[Measure] = []
    refused = 0
    for run, label in runs:
        mine, lost = read(run, label)
        everything += mine
        refused += lost
    print(
        "| run | distance | measures | CT mm | scale from CT: difference, SD | metric poses: same |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for run, distance in dict.fromkeys((m.run, m.distance) for m in everything):
        both = [m for m in everything if (m.run, m.distance) == (run, distance)]
        cells = []
        for from_ct in (True, False):
            d = np.array([m.difference for m in both if m.from_ct == from_ct])
            sd = f"{d.std(ddof=1):.2f}" if len(d) > 1 else "–"
            cells.append(f"{d.mean():+.2f}, {sd}" if len(d) else "–")
        count = max(sum(m.from_ct == x for m in both) for x in (True, False))
        print(f"| {run} | {distance} | {count} | {both[0].ct:.2f} | {cells[0]} | {cells[1]} |")
    for from_ct, words in ((True, "scale from the CT"), (False, "scale from metric poses, rigid")):
        some = [m for m in everything if m.from_ct == from_ct]
        if some:
            print(f"\n{sentence(some, words)}")
    print(
        "\n| run | surface to CT: mean, median, P95 | CT to surface: same | HD95 | observed share of "
        "the surface, CT reached within 1 mm |\n| --- | --- | --- | --- | --- |"
    )
    for run, label in runs:
        print(surface_row(run, label))
    print(f"\n{refused} measures were refused (not seen, or not known surely enough).")


if __name__ == "__main__":
    main()
