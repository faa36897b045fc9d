"""Clinical distances of several evaluated runs in one table, with pooled interval coverage.

    python benchmarks/distances.py RUN [RUN ...]

Reads RUN/evaluation/measurements.csv of `endorecon evaluate --metric-poses`: the scale from metric
poses (rigid fit) and from the CT (kind ends in @ct-scale). Held-out lengths only. The bootstrap of
the coverage draws whole runs' distances: clicks of one distance share its reconstruction.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from endorecon.evaluate.distances import CT_SCALE
from endorecon.evaluate.statistics import share_with_interval


def read(run: Path) -> list[dict[str, str]]:
    """The held-out lengths of a run that were not refused."""
    with open(run / "evaluation" / "measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [r for r in rows if r["status"] == "ok" and r["held_out"] == "true"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    print(
        "| run | distance | measures | CT mm | scale from CT: difference, SD | metric poses: same |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    pooled: dict[bool, list[tuple[str, float, bool, float]]] = {True: [], False: []}
    for run in runs:
        rows = read(run)
        label = run.parent.name if run.name == "run" else run.name
        for name in dict.fromkeys(r["name"] for r in rows):
            cells = []
            for from_ct in (True, False):
                mine = [r for r in rows if r["name"] == name
                        and r["kind"].endswith(CT_SCALE) == from_ct]  # fmt: skip
                d = np.array([float(r["difference_mm"]) for r in mine])
                sd = f"{d.std(ddof=1):.2f}" if len(d) > 1 else "–"
                cells.append(f"{d.mean():+.2f}, {sd}" if len(d) else "–")
                pooled[from_ct] += [
                    (
                        f"{label} {name}",
                        float(r["difference_mm"]),
                        float(r["low_mm"]) <= float(r["ct_mm"]) <= float(r["high_mm"]),
                        float(r["high_mm"]) - float(r["low_mm"]),
                    )
                    for r in mine
                ]
            count = sum(r["name"] == name for r in rows if r["kind"].endswith(CT_SCALE))
            ct = next(float(r["ct_mm"]) for r in rows if r["name"] == name)
            print(f"| {label} | {name} | {count} | {ct:.2f} | {cells[0]} | {cells[1]} |")
    for from_ct, words in ((True, "scale from the CT"), (False, "scale from metric poses")):
        some = pooled[from_ct]
        if not some:
            continue
        key = np.array([s[0] for s in some])
        d = np.array([s[1] for s in some])
        means = np.array([d[key == k].mean() for k in dict.fromkeys(key)])
        share, low, high = share_with_interval(np.array([s[2] for s in some]), key)
        print(
            f"\n{words}: {len(d)} measures of {len(means)} distances; mean difference "
            f"{d.mean():+.3f}, mean |difference| of the distances {np.abs(means).mean():.3f}, "
            f"largest {np.abs(means).max():.2f}, {(np.abs(means) < 0.5).sum()} of {len(means)} "
            f"below 0.5 mm; largest single {np.abs(d).max():.2f}; 95 % intervals hold "
            f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f}), median width "
            f"{np.median([s[3] for s in some]):.2f} mm"
        )


if __name__ == "__main__":
    main()
