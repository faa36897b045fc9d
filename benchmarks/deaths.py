"""Ten SIGKILLs on real fits: `python benchmarks/deaths.py STUDY.yaml OUT [JOBS]`.

A study runs undisturbed in OUT/calm, and in OUT/wild with a kill at each stage of a unit: of the
study process, of a unit's worker, of the step it runs, in turn. The last start ends it; then every
result must have the same bytes. Prints what was killed when; exit code 1 when anything differs.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from endorecon.batch import status_of
from endorecon.batch_unit import living_worker, read_json
from endorecon.errors import EndoreconError

MOMENTS = (
    "prepare", "video", "poses", "round 0", "field|round 1", "round 1, ", "round 1", "surface|round 2",
    "evaluate", "evaluate|score",
)  # fmt: skip
SAME = ("result.json", "run/surface.ply", "run/evaluation/measurements.csv", "run/depth/*.npz")
PATIENCE_S = 900.0  # for a moment to come; the next one is taken when it does not


def stages(out: Path) -> dict[str, str]:
    """unit -> what it is at, of those that run."""
    try:
        return {u.key: u.stage for u in status_of(out).units if u.state == "running"}
    except EndoreconError:
        return {}


def step_of(pid: int) -> int:
    """The pid of the step that a worker runs, or 0."""
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return int(found[0]) if found else 0


def kill_at(moment: str, out: Path, command: list[str], whom: int, rng: random.Random) -> str:
    """Start the study, wait for the moment, kill; returns what happened."""
    with open(out.parent / "wild.log", "a") as log:
        study = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    end, hit = time.monotonic() + PATIENCE_S, ""
    while not hit and time.monotonic() < end and study.poll() is None:
        hit = next((k for k, s in stages(out).items() if re.search(moment, s)), "")
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, 1.0))
    at, victim = stages(out).get(hit, "gone"), "study process"
    worker = living_worker(out / "units" / hit) if hit else 0
    prey = {1: worker, 2: step_of(worker) if worker else 0}.get(whom, 0)
    if prey:
        os.kill(prey, signal.SIGKILL)
        victim = {1: "worker, then study process", 2: "step, then study process"}[whom]
        time.sleep(rng.uniform(0.0, 1.0))
    ended = study.poll()
    study.kill()
    study.wait()
    return f"{victim} at {at!r}" if ended is None else f"the study had ended with {ended}"


def prints(folder: Path) -> dict[str, str]:
    """unit/file -> SHA-256 of all that must be the same, and how often each round was finished."""
    out = {"study.csv": hashlib.sha256((folder / "study.csv").read_bytes()).hexdigest()}
    for unit in sorted((folder / "units").iterdir()):
        out[f"{unit.name} state"] = str(read_json(unit / "status.json").get("state"))
        for pattern in SAME:
            data = b"".join(p.read_bytes() for p in sorted(unit.glob(pattern)))
            out[f"{unit.name} {pattern}"] = hashlib.sha256(data).hexdigest() if data else "none"
        events = (unit / "run" / "events.jsonl").read_text()
        rounds = re.findall(r'"kind": "RoundFinished".*?"round": (\d+)', events)
        out[f"{unit.name} rounds finished"] = " ".join(rounds)
    return out


def main(study: str, place: str, jobs: str = "2") -> int:
    calm, wild = Path(place) / "calm", Path(place) / "wild"
    calm.parent.mkdir(parents=True, exist_ok=True)
    begin = [sys.executable, "-m", "endorecon.cli", "validate", study, "--jobs", jobs, "--out"]
    t = time.monotonic()
    subprocess.run([*begin, str(calm)], check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {time.monotonic() - t:.0f} s", flush=True)
    rng = random.Random(0)
    for k, moment in enumerate(MOMENTS):
        print(k, moment, "->", kill_at(moment, wild, [*begin, str(wild)], k % 3, rng), flush=True)
    t = time.monotonic()
    subprocess.run([*begin, str(wild)], check=True, stdout=subprocess.DEVNULL)
    print(f"the last start: {time.monotonic() - t:.0f} s")
    a, b = prints(calm), prints(wild)
    for unit in sorted((wild / "units").iterdir()):
        status = read_json(unit / "status.json")
        print(unit.name, status["state"], "starts", status["starts"], status["seconds"])
    differing = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    for k in differing:
        print("DIFFERS", k, a.get(k), b.get(k))
    print(f"{len(a)} results compared, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
