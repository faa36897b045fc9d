"""Depth accuracy on phantoms, from the video alone, beside its controls in the same run.

    python benchmarks/accuracy.py STORE --seeds 0 1 --family sinus --config cpu [--rows full ...]

STORE keeps phantoms and runs, so the same command again goes on. Each row starts from the same
poses (those of row `full`, found from the video); only `given poses` takes the true ones. Rounds
that a row shares with `full` to the bit (the arithmetic of a resumed run) are taken over, too.
Definitions of valid pixels and of the alignment: scoring.py. "no loop" is the best checkpoint, by
its own held-out score, of a field that is trained on without any stereo or real-frame depth;
nothing here looks at the truth but the scoring and the true poses.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from scoring import HEADER, Errors, figures, line, score, similarity

from endorecon.cli import config_of
from endorecon.config import Config, as_dict, with_differences
from endorecon.io.rundir import RunDir
from endorecon.phantom.write import make_phantom
from endorecon.pipeline import Job, fit

GIVEN_POSES = "given poses"  # the true ones, in mm
# What each row changes in the preset.
ROWS: dict[str, dict[str, dict[str, object]]] = {
    "full": {},
    "pair alone": {"refine": {"enabled": False}},
    "real frames alone": {"stereo": {"enabled": False}},
    "no light model": {"field": {"near_light": False}},
    "no sparse depths": {"field": {"sparse_depth": 0.0}},
    "sgbm": {"stereo": {"matcher": "sgbm"}},
    "one pass": {"loop": {"max_rounds": 1}},
    "two more rounds": {"loop": {"tolerance": 0.0, "max_rounds": 4}},
    GIVEN_POSES: {},
}
# Rounds of row `full` that a row would compute again, bit for bit (None: all of them). The field
# of round 0 is not kept, so that rows which part from `full` there gain nothing.
SHARED_ROUNDS: dict[str, int | None] = {"one pass": 2, "two more rounds": None}
PARTS_OF_POSES = ("frames", "masks", "sparse", "transforms.json", "views.json", "frames.csv")
NO_LOOP = "no loop"
NO_LOOP_CHECKPOINTS = (300, 600, 900)
SHARES = (1.0, 0.85, 0.75, 0.5)


def phantom(
    store: Path,
    family: str,
    seed: int,
    frames: int,
    size: tuple[int, int],
    spoil: dict[str, float] | None = None,
) -> Path:
    """The phantom of a seed, made once."""
    name = f"{family}-{seed}-{frames}-{size[0]}"
    folder = store / "-".join([name, *(f"{k}-{v:g}" for k, v in (spoil or {}).items())])
    if not (folder / ".whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        made = make_phantom(
            folder, seed=seed, family=family, frames=frames, width=size[0], height=size[1],
            spoil=spoil,
        )  # fmt: skip
        for _ in made:
            pass
        (folder / ".whole").write_text("")
    return folder


def run_row(world: Path, name: str, config: Config, preset: str, seed: int) -> RunDir:
    """The run of a row, made or resumed; other rows than `full` take over its poses."""
    out = world / "runs" / f"{preset}-{name.replace(' ', '-')}"
    run = RunDir(out)
    if run.exists and run.info().get("status") in ("converged", "stopped", "diverged"):
        return run
    if not run.exists and name not in ("full", GIVEN_POSES):
        first = world / "runs" / f"{preset}-full"
        out.mkdir(parents=True, exist_ok=True)
        rounds = [f"rounds/{k:02d}" for k in RunDir(first).rounds()[: SHARED_ROUNDS.get(name, 0)]]
        for part in (*PARTS_OF_POSES, *rounds):
            source = first / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, out / part)
        info = json.loads((first / "run.json").read_text())
        info.update(config=as_dict(config), status="running", warnings=[])
        (out / "run.json").write_text(json.dumps(info))
    job = Job(
        world / "video.mp4", out, config, world / "calibration.yaml",
        poses=world / "truth" / "cameras.json" if name == GIVEN_POSES else None,
        seed=seed, preset=preset,
    )  # fmt: skip
    for _ in fit(job):
        pass
    return run


def no_loop(world: Path, config: Config, preset: str, seed: int) -> Errors:
    """Errors of the best no-loop checkpoint of the same field, by its score in held-out frames."""
    from endorecon.field import open_field
    from endorecon.field.fit import fit_field
    from endorecon.io import viewstore
    from endorecon.loop import Bench
    from endorecon.refine import field_map
    from endorecon.stereo.round import read_field

    full = RunDir(world / "runs" / f"{preset}-full")
    store = RunDir(world / "runs" / f"{preset}-no-loop")
    views = viewstore.load(full.path)
    bench = Bench(views, config)
    if not (store.path / "scores.json").is_file():
        # What the loop begins with, several fields together, is a checkpoint without a loop, too.
        first = bench.maps(full.round_depths(0))
        bench.choose_neighbours(first)
        store.save_round(0, {}, bench.depth_maps(first), {})
        field = open_field(config.field, views, seed, "cpu")
        scores, before = [bench.held_out(first)], 0
        for k, steps in enumerate(NO_LOOP_CHECKPOINTS, start=1):
            for _ in fit_field(field, views, None, config.field, steps - before):
                pass
            before = steps
            maps = bench.stacked([field_map(*told) for told in read_field(field, views, bench.eye)])
            store.save_round(k, {}, bench.depth_maps(maps), {})
            scores.append(bench.held_out(maps))
        (store.path / "scores.json").write_text(json.dumps(scores))
    scores = json.loads((store.path / "scores.json").read_text())
    best = max(range(len(scores)), key=lambda k: scores[k])
    return score(full, world, store.round_depths(best))


def at_coverage(e: Errors, covered: float) -> dict[str, float]:
    """Figures of the least-sigma pixels that make up `covered` of the valid ones."""
    return figures(e, min(1.0, covered * e.valid / max(1, len(e.error))))


def report(name: str, e: Errors, out: list[str]) -> None:
    for share in SHARES:
        out.append(line(f"{name}, {100 * share:.0f} % by sigma", figures(e, share)))
    for covered in (0.75, 0.85):
        out.append(line(f"{name}, {100 * covered:.0f} % of valid", at_coverage(e, covered)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--family", default="sinus", choices=["sinus", "colon"])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480])
    parser.add_argument("--config", default="cpu")
    parser.add_argument("--rows", nargs="+", default=[NO_LOOP, *ROWS])
    parser.add_argument("--seed", type=int, default=0, help="seed of the field")
    parser.add_argument("--write", type=Path, help="append the table to this file")
    a = parser.parse_args()
    config = config_of(a.config)
    for seed in a.seeds:
        out = [
            f"\n{a.family} seed {seed}, {a.frames} frames {a.size[0]}x{a.size[1]}, preset {a.config}"
        ]
        world = phantom(a.store, a.family, seed, a.frames, tuple(a.size))
        rows = ["full", *[r for r in a.rows if r != "full"]]
        found: dict[str, Errors] = {}
        for name in rows:
            t = time.monotonic()
            if name == NO_LOOP:
                found[name] = no_loop(world, config, a.config, a.seed)
                how = ""
            else:
                changed = with_differences(config, ROWS[name])
                run = run_row(world, name, changed, a.config, a.seed)
                info = run.info()
                found[name] = score(run, world)
                how = f"{info['status']} after {info['rounds']} rounds, fit {sum(info['seconds'].values()):.0f} s"
            if name == "full":
                T, poses = similarity(run, world)
                del T
                out.append(f"poses: {info['frames_posed']} frames, {json.dumps(poses)}")
                out.append(HEADER)
            report(name, found[name], out)
            out.append(f"    {how} (this call {time.monotonic() - t:.0f} s)")
        best = at_coverage(found[NO_LOOP], 0.75)["mae"] if NO_LOOP in found else float("nan")
        for name, e in found.items():
            mae = at_coverage(e, 0.75)["mae"]
            out.append(
                f"{name}: MAE at 75 % of valid {mae:.3f}, {100 * (1 - mae / best):+.0f} % against no loop"
            )
        if {"full", "real frames alone"} <= set(found):
            both, alone = (
                at_coverage(found[k], 0.75)["mae"] for k in ("full", "real frames alone")
            )
            out.append(
                f"the pair's own gain beside the real frames: {100 * (1 - both / alone):+.1f} %"
            )
        text = "\n".join(out)
        print(text, flush=True)
        if a.write:
            with open(a.write, "a") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    main()
