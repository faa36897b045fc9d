"""Can structure from motion follow the phantom's flights? Ten seeds, both families, a real nose.

    python benchmarks/phantom_poses.py STORE [--cases sinus:0 colon:3 nose ...] [--frames 100]
                                             [--out benchmarks/results/phantom-poses.md]

Each case is a phantom at the default setting without spoilers, 640x480, whose video goes through
the project's own reading and pose stage with the phantom's calibration. Registered is not the same
as right: the poses are laid on the truth by one similarity and what is left of centres and
orientations is told too, in mm and degrees. `nose` is the flight through the nasal cavity of
shared/data/ct-unc-cthead (skipped in words where the data are not here). STORE keeps a result a
case and the phantoms being made; what is done is not done again. The table is of all results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import poses
from endorecon.config import Config, PhantomConfig
from endorecon.errors import EndoreconError
from endorecon.geometry import align_cameras, rotation_angle_deg, scale_of, transform_pose
from endorecon.io.atomic import write_text
from endorecon.io.calibration import read_camera
from endorecon.io.video import read_frames
from endorecon.phantom.truth import Truth, load_truth
from endorecon.phantom.write import make_phantom

NOSE_SEED_POINT = (-12.5, -77.5, -10.0)
ALL = [f"{family}:{seed}" for seed in range(10) for family in ("sinus", "colon")] + ["nose"]
HEAD = (
    "| case | frames read | kept | placed | of kept | centre median mm | P95 mm | turn median deg "
    "| P95 deg | angle deg | flight mm | CPU s making + posing |\n" + "|---" * 12 + "|"
)


def last(events: Generator[Any, None, Any]) -> Any:
    """The value a generator of events returns."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value


def cpu() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    parts = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(p.ru_utime + p.ru_stime for p in parts)


def make(folder: Path, case: str, frames: int) -> bool:
    """The phantom of a case; False when its data are not here."""
    if (folder / "made").is_file():
        return True
    family, _, seed = case.partition(":")
    if case == "nose":
        data = Path(os.environ.get("ENDORECON_DATA", "shared/data"))
        series = data / "ct-unc-cthead" / "cthead_hu.nii.gz"
        if not series.is_file():
            print(f"SKIPPED nose: {series} is not here; set ENDORECON_DATA")
            return False
        events = make_phantom(folder, seed=0, frames=frames, ct=series, seed_point=NOSE_SEED_POINT)
    else:
        events = make_phantom(folder, seed=int(seed), family=family, frames=frames)
    for _ in events:
        pass
    (folder / "made").write_text("")
    return True


def follow(folder: Path) -> dict[str, Any]:
    """Reading and pose stage on a phantom's video, against its truth."""
    config = Config()
    frames = read_frames(
        folder / "video.mp4", config.video, read_camera(folder / "calibration.yaml")
    )
    truth: Truth = load_truth(folder)
    path = truth.world_from_camera[:, :3, 3]
    row: dict[str, Any] = {
        "read": len(truth),
        "kept": len(frames),
        "flight_mm": float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()),
    }
    try:
        found = last(poses.estimate_views(frames, config.poses, folder / "poses", 0))
    except EndoreconError as error:
        return row | {"placed": 0, "why": str(error)}
    ours, true = found.views.world_from_camera, truth.world_from_camera[found.views.frame_index]
    mm_from_ours = align_cameras(ours, true)
    moved = transform_pose(mm_from_ours, ours)
    off = np.linalg.norm(moved[:, :3, 3] - true[:, :3, 3], axis=1)
    turn = rotation_angle_deg(np.swapaxes(moved[:, :3, :3], 1, 2) @ true[:, :3, :3])
    worst = int(np.argmax(off))
    return row | {
        "placed": len(ours),
        "centre": [float(np.median(off)), float(np.quantile(off, 0.95))],
        "turn": [float(np.median(turn)), float(np.quantile(turn, 0.95))],
        "angle": found.median_angle_deg,
        "scale": scale_of(mm_from_ours),
        "worst": [int(found.views.frame_index[worst]), float(off[worst])],
        "missing": [k for k, _ in found.dropped],
    }


def line(case: str, r: dict[str, Any]) -> str:
    if not r["placed"]:
        return f"| {case} | {r['read']} | {r['kept']} | 0: {r['why']} |" + " |" * 8
    return (
        f"| {case} | {r['read']} | {r['kept']} | {r['placed']} "
        f"| {100 * r['placed'] / r['kept']:.0f} % "
        f"| {r['centre'][0]:.3f} | {r['centre'][1]:.3f} | {r['turn'][0]:.2f} | {r['turn'][1]:.2f} "
        f"| {r['angle']:.1f} | {r['flight_mm']:.0f} | {r['cpu_s'][0]:.0f} + {r['cpu_s'][1]:.0f} |"
    )


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("store", type=Path)
    p.add_argument("--cases", nargs="+", default=ALL)
    p.add_argument("--frames", type=int, default=100)
    p.add_argument("--out", type=Path)
    p.add_argument("--keep", action="store_true", help="keep videos and pose folders")
    a = p.parse_args()
    a.store.mkdir(parents=True, exist_ok=True)
    for case in a.cases:
        word = f"{case.replace(':', '-')}-{a.frames}"
        result, folder = a.store / f"{word}.json", a.store / word
        if not result.is_file():
            begin, clock = cpu(), time.monotonic()
            if not make(folder, case, a.frames):
                continue
            made = cpu()
            row = follow(folder) | {"case": case, "config": repr(PhantomConfig())}
            row["cpu_s"] = [made - begin, cpu() - made]
            row["wall_s"] = time.monotonic() - clock
            write_text(result, json.dumps(row, indent=1))
            if not a.keep:
                shutil.rmtree(folder)
        print(line(case, json.loads(result.read_text())), flush=True)
    rows = [json.loads(f.read_text()) for f in sorted(a.store.glob(f"*-{a.frames}.json"))]
    order = {case: k for k, case in enumerate(ALL)}
    rows.sort(key=lambda r: order.get(r["case"], 99))
    good = sum(r["placed"] >= 0.9 * r["kept"] for r in rows)
    stale = sum(r["config"] != repr(PhantomConfig()) for r in rows)
    end = f"{good} of {len(rows)} cases run (of {len(ALL)}) have at least 90 % of their frames placed."
    if stale:
        end += f" {stale} of them were made with another PhantomConfig: delete them and run again."
    table = "\n".join([HEAD, *(line(r["case"], r) for r in rows), "", end])
    print(table)
    if a.out:
        title = "# Structure from motion on the phantom's flights\n\n"
        how = (
            f"`python benchmarks/phantom_poses.py STORE --frames {a.frames}`, default setting.\n\n"
        )
        write_text(a.out, title + how + table + "\n")
    return 0 if rows and good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
