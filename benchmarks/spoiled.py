"""Spoiled videos of one phantom: error and coverage at rising strength, refusals and flags.

    python benchmarks/spoiled.py STORE --family sinus --seeds 51 --frames 60 --size 320 240

Row `none` is the phantom as it is; every other row is the same anatomy and flight with one spoiler
(endorecon/phantom/spoilers.py) at one strength, from its video alone. STORE keeps phantoms and
runs: a row that has ended or was refused is not done again; a refusal is what run.json says of it.

Valid pixels are those in which the wall can be seen: truth inside the round picture, less what a
drop or the instrument hides, in all frames but duplicates (scoring.py); frames that were dropped or
got no pose count as uncovered. Smoke, glare and wrong exposure hide nothing in that sense: what
they drown is valid and wants an answer. The truth keeps the depth of the wall BEHIND what hides it
and says "not valid" there; drops and instrument are painted on the picture and have no depth of
their own. So hidden pixels (valid in row `none`, not here) are judged by themselves: right is no
depth, or the wall behind (which other frames see) within the stated interval; wrong is a depth off
by more than 1.96 sigma and more than WRONG_MM. Beside it the same pixels in row `none`, where
nothing hides them. --write FILE: all tables so far, written anew after each row.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from accuracy import at_coverage, phantom
from scoring import Errors, figures, score

from endorecon.cli import config_of
from endorecon.config import Config
from endorecon.errors import EndoreconError, EnvironmentFault, OutOfResources
from endorecon.io.rundir import RunDir
from endorecon.phantom.spoilers import check
from endorecon.phantom.truth import Truth, load_truth
from endorecon.pipeline import Job, fit

SPOILERS = ("highlights", "smoke", "blood", "instrument", "exposure")
STRENGTHS = (0.33, 0.67, 1.0)
ENDED = ("converged", "stopped", "diverged")
OF_THE_MACHINE = (OutOfResources.exit_code, EnvironmentFault.exit_code)  # no verdict on the video
WRONG_MM = 1.0
SAID = 160  # characters of a sentence in the list below the tables


@dataclass(frozen=True)
class Hidden:
    """The truth of what hides the wall: valid are the pixels that only the plain truth has."""

    spoilt: Truth
    plain: Truth

    @property
    def world_from_camera(self) -> np.ndarray:
        return self.spoilt.world_from_camera

    def depth(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        z, seen = self.spoilt.depth(frame)
        return z, self.plain.depth(frame)[1] & ~seen & np.isfinite(z)

    def __len__(self) -> int:
        return len(self.spoilt)


@dataclass(frozen=True)
class Row:
    """One video: how its run ended, and its errors unless it was refused.

    hidden, bare: errors where a drop or the instrument hides the wall, here and in row `none`.
    """

    name: str
    filmed: int
    info: dict
    reasons: Counter
    errors: Errors | None = None
    hidden: Errors | None = None
    bare: Errors | None = None


def run_of(world: Path, config: Config, preset: str, seed: int) -> RunDir:
    """The run of a phantom's video, made, resumed, or refused as its run.json says."""
    run = RunDir(world / "runs" / f"{preset}-full")
    info = run.info() if run.exists else {}
    refused = info.get("status") == "failed" and info.get("exit_code") not in OF_THE_MACHINE
    if info.get("status") in ENDED or refused:
        return run
    job = Job(
        world / "video.mp4", run.path, config, world / "calibration.yaml", seed=seed, preset=preset
    )
    try:
        for _ in fit(job):
            pass
    except EndoreconError as error:
        if error.exit_code in OF_THE_MACHINE or run.info().get("status") != "failed":
            raise
    return run


def row_of(name: str, world: Path, run: RunDir, plain: tuple[Path, RunDir]) -> Row:
    """A row scored; plain: world and run of row `none`."""
    info, reasons = run.info(), Counter()
    if (run.path / "frames.csv").is_file():
        with open(run.path / "frames.csv") as file:
            reasons = Counter(r["reason"] for r in csv.DictReader(file) if r["reason"])
    filmed = len(load_truth(world))
    if info["status"] not in ENDED:
        return Row(name, filmed, info, reasons)
    behind = Hidden(load_truth(world), load_truth(plain[0]))
    hidden, bare = score(run, behind), None
    if hidden.valid and plain[1].info()["status"] in ENDED:
        bare = score(plain[1], behind)
    return Row(name, filmed, info, reasons, score(run, world), hidden, bare)


def verdict(e: Errors) -> tuple[float, float, float]:
    """Shares of hidden pixels: without a depth, told and right, told and wrong; else unsure."""
    off = np.abs(e.error)
    inside = off <= 1.96 * e.sigma
    wrong = ~inside & (off > WRONG_MM)
    n = max(1, e.valid)
    return 1 - len(off) / n, float(inside.sum()) / n, float(wrong.sum()) / n


def _cells(*cells: object) -> str:
    return f"| {' | '.join(str(c) for c in cells)} |"


def _figures(name: str, f: dict[str, float]) -> str:
    if not f["covered"]:
        return _cells(name, "0.0 %", *"-------")
    three = [f"{f[k]:.3f}" for k in ("mae", "median", "rmse", "p95")]
    share = f"{100 * f['covered']:.1f} %"
    inside = f"{100 * f['in95']:.1f} %"
    return _cells(name, share, *three, f"{f['bias']:+.3f}", inside, f"{f['sigma']:.3f}")


def tables(rows: list[Row]) -> str:
    """Frames and ends; errors; hidden pixels; and what each run said, as Markdown."""
    out = [_cells("row", "end", "frames", "kept", "posed", "left out"), "| --- " * 6 + "|"]
    for r in rows:
        kept, posed = r.info.get("frames_kept", 0), r.info.get("frames_posed", 0)
        why = ", ".join(f"{n} {k}" for k, n in r.reasons.most_common())
        if r.errors is None:
            end = f"refused, exit code {r.info.get('exit_code')}: {r.info.get('error')}"
        else:
            end = f"{r.info['status']} after {r.info['rounds']} rounds"
        out.append(_cells(r.name, end, r.filmed, kept, posed, why or "-"))
    head = ("row", "of valid", "MAE", "median", "RMSE", "P95", "bias", "in 95 %", "sigma")
    out += ["", _cells(*head), "| --- " * len(head) + "|"]
    for r in rows:
        if r.errors is None:
            out.append(_cells(r.name, "refused", *"-------"))
            continue
        out.append(_figures(f"{r.name}, all covered", figures(r.errors)))
        for share in (0.85, 0.75):
            short = len(r.errors.error) < share * r.errors.valid
            name = f"{r.name}, {100 * share:.0f} %{' (not reached)' if short else ''}"
            out.append(_figures(name, at_coverage(r.errors, share)))
    head = ("hidden pixels", "of the wall", "no depth", "right", "wrong", "MAE", "bias", "sigma")
    covered = [r for r in rows if r.errors is not None and r.hidden is not None and r.hidden.valid]
    if covered:
        out += ["", _cells(*head), "| --- " * len(head) + "|"]
    for r in covered:
        assert r.errors is not None and r.hidden is not None
        share = r.hidden.valid / (r.hidden.valid + r.errors.valid)
        for name, e in ((r.name, r.hidden), (f"the same, none for {r.name}", r.bare)):
            if e is None:
                continue
            shares = [f"{100 * s:.1f} %" for s in (share, *verdict(e))]
            f = figures(e)
            told = [f"{f[k]:.3f}" if len(e.error) else "-" for k in ("mae", "bias", "sigma")]
            out.append(_cells(name, *shares, *told))
    out.append("")
    for r in rows:
        said = [*r.info.get("quality", []), *(f"WARNING {w}" for w in r.info.get("warnings", []))]
        said = [s if len(s) <= SAID else s[: SAID - 3] + "..." for s in dict.fromkeys(said)]
        out.append(f"- {r.name}: {' '.join(said) or 'nothing said'}")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[51])
    parser.add_argument("--family", default="sinus", choices=["sinus", "colon"])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240])
    parser.add_argument("--config", default="cpu")
    parser.add_argument("--spoilers", nargs="+", default=list(SPOILERS))
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the field")
    parser.add_argument("--write", type=Path, help="the tables so far, written anew by each row")
    a = parser.parse_args()
    wanted = [{}, *[{name: s} for name in a.spoilers for s in a.strengths]]
    for spoil in wanted:
        check(spoil)
    config, done = config_of(a.config), ""
    for seed in a.seeds:
        title = f"{a.family} seed {seed}, {a.frames} frames {a.size[0]}x{a.size[1]}, preset {a.config}\n\n"
        rows: list[Row] = []
        plain: tuple[Path, RunDir] | None = None
        for spoil in wanted:
            name = " ".join(f"{k} {v:g}" for k, v in spoil.items()) or "none"
            world = phantom(a.store, a.family, seed, a.frames, tuple(a.size), spoil)
            run = run_of(world, config, a.config, a.seed)
            plain = plain or (world, run)
            rows.append(row_of(name, world, run, plain))
            print(json.dumps({"row": name, "status": run.info()["status"]}), flush=True)
            if a.write:
                a.write.write_text(done + title + tables(rows) + "\n")
        done += title + tables(rows) + "\n\n"
    print(done)


if __name__ == "__main__":
    main()
