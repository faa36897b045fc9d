"""The smoke study with its real fits on a real Slurm: `python benchmarks/slurm_smoke.py OUT`.

tests/slurm/start.sh starts munged, slurmctld and slurmd on loopback. The study (two fits of the
smoke phantom) first runs undisturbed on the local engine in OUT/calm, then on Slurm in OUT/slurm,
where one job is cancelled in its fit, the other runs into its time limit in its fit, and the
controller is stopped and started again while both go on. Then the results must have the same bytes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml
from deaths import prints, stages

from endorecon.batch_engine import _queued
from endorecon.batch_unit import finished, read_json

HERE = Path(__file__).resolve().parent.parent
START = HERE / "tests" / "slurm" / "start.sh"
PATIENCE_S = 900.0


def told(*command: object) -> str:
    """What a command prints."""
    return subprocess.run([str(c) for c in command], capture_output=True, text=True).stdout


def field(job: str, name: str) -> str:
    """One field of `scontrol show job`, or ""."""
    found = re.search(rf"\b{name}=(\S+)", told("scontrol", "show", "job", job))
    return found[1] if found else ""


def main(place: str) -> int:
    out = Path(place).resolve()
    calm, slurm, cluster = out / "calm", out / "slurm", out / "cluster"
    out.mkdir(parents=True, exist_ok=True)
    study = yaml.safe_load((HERE / "configs" / "studies" / "smoke.yaml").read_text())
    study["repeats"] = 2
    study["unit"]["cores"] = 1
    study["slurm"] = {"poll_s": 1, "signal_delay_s": 30}
    file = out / "smoke.yaml"
    file.write_text(yaml.safe_dump(study))
    begin = [sys.executable, "-m", "endorecon.cli", "validate", str(file), "--jobs", "2", "--out"]
    clock = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - clock:6.0f} s  {text}", flush=True)

    subprocess.run([*begin, str(calm)], check=True, stdout=subprocess.DEVNULL)
    say("undisturbed, local engine: done")
    ready = told(START, cluster, "2")
    if "ready" not in ready:
        print("Slurm cannot start here:", ready)
        return 1
    os.environ["SLURM_CONF"] = str(cluster / "slurm.conf")
    say(told("sinfo", "--version").strip() + " is up")
    try:
        with open(out / "slurm.log", "w") as log:
            process = subprocess.Popen(
                [*begin, str(slurm), "--engine", "slurm"], stdout=log, stderr=log
            )
        disturb(slurm, cluster, process, say)
        say(f"the study ended with {process.wait()}")
    finally:
        told(START, cluster, "stop")
    a, b = prints(calm), prints(slurm)
    for unit in sorted((slurm / "units").iterdir()):
        status = read_json(unit / "status.json")
        print(unit.name, status["state"], "starts", status["starts"], status["seconds"])
    differing = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    for k in differing:
        print("DIFFERS", k, a.get(k), b.get(k))
    print(f"{len(a)} results compared, {len(differing)} differ")
    return 1 if differing else 0


def disturb(out: Path, cluster: Path, study: subprocess.Popen[bytes], say: object) -> None:
    """Shorten one job, cancel the other in its fit, take the controller away, watch both resume."""
    assert callable(say)
    limited = cancelled = ""
    away = False
    seen: dict[str, str] = {}
    end = time.monotonic() + PATIENCE_S
    while study.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
        jobs = _queued(out / "jobs") or {}
        at = stages(out)
        for unit, stage in at.items():
            stage = re.sub(r", step.*", "", stage)
            if seen.get(unit) != stage:
                seen[unit] = stage
                say(f"{unit} in job {jobs.get(unit)}: {stage}")
        fitting = [u for u, s in at.items() if re.search("fit: (field|round)", s) and u in jobs]
        if not limited and fitting:
            limited = fitting[0]
            # its time so far, and a minute: Slurm knows whole minutes
            spent = re.findall(r"\d+", field(jobs[limited], "RunTime"))[-3:]
            minutes = int(spent[0]) * 60 + int(spent[1]) + 1
            told("scontrol", "update", f"JobId={jobs[limited]}", f"TimeLimit={minutes}")
            say(f"{limited}: time limit of job {jobs[limited]} set to {minutes} min")
            limit_job = jobs[limited]
        elif limited and not cancelled and (others := [u for u in fitting if u != limited]):
            cancelled = others[0]
            gone = jobs[cancelled]
            told("timeout", "20", "scancel", gone)
            say(f"{cancelled}: job {gone} cancelled at {at[cancelled]!r}")
        elif limited and field(limit_job, "Restarts") not in ("", "0") and not away:
            away = True
            say(
                f"{limited}: job {limit_job} ran into its limit and is {field(limit_job, 'JobState')}"
            )
            told(START, cluster, "stop-controller")
            say("controller stopped")
            time.sleep(10)
            told(START, cluster, "restart")
            say("controller started again")
            told("scontrol", "update", f"JobId={limit_job}", "TimeLimit=60", "StartTime=now")
        units = list((out / "units").glob("*"))
        if units and all(finished(u) for u in units):
            break
    if not (limited and cancelled and away):
        say(f"NOT ALL HAPPENED: limit {limited}, cancel {cancelled}, controller {away}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
