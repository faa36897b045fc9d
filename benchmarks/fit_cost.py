"""What a whole fit costs: with and without kernels, by number of frames, by number of rounds.

    python benchmarks/fit_cost.py kernels [--out DIR]    the same small fit twice, interleaved stages
    python benchmarks/fit_cost.py frames  [--out DIR] [--counts 25 50 100 200]
    python benchmarks/fit_cost.py rounds  [--out DIR] [--rounds 5]

Phantoms are made at 320x240 (scale of `endorecon demo --quick`) unless --size says otherwise. Without
kernels a fit of the usual size takes hours, so that `kernels` trains on 96-pixel-wide images, 60 + 30
steps of 1024 rays, one round. Times are wall clock but for the CPU seconds, which count all processes
of the fit and hardly move with the load; peak memory is that of the process of the fit, without the
one that pycolmap runs in.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from core import load, machine_name

SMALL = ["--field.width", "96", "--field.rays", "1024", "--field.steps_first", "60",
         "--field.steps_round", "30", "--field.proposal", "48", "--refine.width", "96",
         "--refine.neighbours", "4", "--loop.max_rounds", "1"]  # fmt: skip
LONG = ["--video.max_frames", "1000", "--video.keyframe_motion", "0", "--field.steps_first", "200",
        "--field.steps_round", "80", "--loop.max_rounds", "2", "--loop.tolerance", "0"]  # fmt: skip


def phantom(out: Path, frames: int, size: str) -> Path:
    """A phantom's folder, made once."""
    folder = out / f"phantom-{frames}-{size}"
    if not (folder / "video.mp4").is_file():
        command = ["endorecon", "phantom", str(folder), "--frames", str(frames), "--size", size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def fit(world: Path, run: Path, options: list[str], kernels: str = "auto") -> dict[str, float]:
    """Seconds a stage, `wall` and `peak_gib` of one fit in a process of its own."""
    subprocess.run(["rm", "-rf", str(run)], check=True)
    code = (
        "import resource, sys\nfrom endorecon.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", code, "fit", str(world / "video.mp4"), "--camera",
               str(world / "calibration.yaml"), "--config", "cpu", "--out", str(run), *options]  # fmt: skip
    begun, before = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "ENDORECON_KERNELS": kernels}
    )
    wall = time.perf_counter() - begun
    if not (run / "surface.ply").is_file():
        raise SystemExit(f"the fit failed: {done.stdout[-800:]}{done.stderr[-800:]}")
    info = yaml.safe_load((run / "run.json").read_text())
    peak = int(done.stdout.rsplit("PEAK", 1)[1]) / 2**20
    spent = _cpu_of_children() - before
    return {"wall": wall, "cpu": spent, "peak_gib": peak, "posed": info["frames_posed"],
            **info["seconds"]}  # fmt: skip


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kernels(out: Path, size: str) -> None:
    """The same fit with kernels, without, with: wall times in one run."""
    world = phantom(out, 16, size)
    told = []
    for word in ("auto", "off", "auto"):
        one = fit(world, out / f"run-{word}", SMALL, word)
        told.append(one)
        stages = ", ".join(f"{k} {v:.1f}" for k, v in one.items() if k not in ("posed", "peak_gib"))
        print(f"kernels {word}: {stages} s", flush=True)
    slow = told[1]["rounds"] / np.mean([told[0]["rounds"], told[2]["rounds"]])
    whole = told[1]["wall"] / np.mean([told[0]["wall"], told[2]["wall"]])
    print(f"fit: {whole:.1f} x without kernels; the rounds alone {slow:.1f} x")


def frames(out: Path, size: str, counts: list[int]) -> None:
    """One row a number of frames of the same flight, and how far from a line it is."""
    world = phantom(out, max(counts), size)
    rate = max(counts) / _duration(world / "video.mp4")
    rows = []
    print("| frames | posed | video, poses s | rounds s | surface s | wall s | CPU s | "
          "CPU s a frame | peak GiB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for n in counts:
        one = fit(world, out / f"run-{n}", [*LONG, "--end", f"{(n - 0.5) / rate:.4f}"])
        rows.append(one)
        print(
            f"| {n} | {one['posed']:.0f} | {one['video and poses']:.1f} | {one['rounds']:.1f} | "
            f"{one['surface']:.1f} | {one['wall']:.1f} | {one['cpu']:.0f} | "
            f"{one['cpu'] / n:.2f} | {one['peak_gib']:.2f} |",
            flush=True,
        )
    for stage in ("video and poses", "rounds", "surface", "wall", "cpu"):
        slope, start = np.polyfit([r["posed"] for r in rows], [r[stage] for r in rows], 1)
        power = np.polyfit(np.log([r["posed"] for r in rows]), np.log([r[stage] for r in rows]), 1)[
            0
        ]
        print(f"{stage}: {start:.1f} s + {slope:.2f} s a frame; grows as frames^{power:.2f}")


def rounds(out: Path, size: str, count: int) -> None:
    """Peak memory of this process after each round."""
    from endorecon.cli import config_of
    from endorecon.config import with_differences
    from endorecon.pipeline import Job
    from endorecon.pipeline import fit as run_fit

    world = phantom(out, 30, size)
    config = with_differences(
        config_of("cpu"),
        {
            "field": {"steps_first": 100, "steps_round": 40},
            # never converged, never diverged, never "no further gain" before the limit
            "loop": {"max_rounds": count, "tolerance": 0.0, "diverging": 1.0, "score_drop": 1.0},
        },
    )
    run = out / "run-rounds"
    subprocess.run(["rm", "-rf", str(run)], check=True)
    peaks = []
    for event in run_fit(Job(world / "video.mp4", run, config, world / "calibration.yaml")):
        if type(event).__name__ == "RoundFinished":
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
            print(
                f"round {event.round}: peak {peaks[-1]:.2f} GiB, {event.seconds:.1f} s", flush=True
            )
    print(f"peak memory from round 2 to round {len(peaks) - 1}: {peaks[-1] - peaks[2]:+.3f} GiB")


def _duration(video: Path) -> float:
    import av

    with av.open(str(video)) as opened:
        stream = opened.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        return float(stream.duration * stream.time_base)


def main() -> None:
    """Run one of the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=("kernels", "frames", "rounds"))
    parser.add_argument("--out", type=Path, default=Path("out/fit-cost"))
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{machine_name()}; load {load()}", flush=True)
    if args.table == "kernels":
        kernels(args.out, args.size)
    elif args.table == "frames":
        frames(args.out, args.size, args.counts)
    else:
        rounds(args.out, args.size, args.rounds)
    print(f"load after: {load()}")


if __name__ == "__main__":
    main()
