"""Studies: `endorecon validate STUDY.yaml --out DIR` runs units, survives deaths, writes tables.

OUT/study.json (the plan), OUT/cases/KEY (phantoms and laid-out data sets, shared by units),
OUT/units/KEY (one unit each: batch_unit.py), OUT/jobs (what submitit keeps of living jobs),
OUT/study.csv, study.html, study.tex (batch_results.py, batch_report.py). The folder is the state:
the same command again skips what is finished, goes on with what is broken, lists what failed.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from endorecon import __version__
from endorecon.batch_cases import units_of
from endorecon.batch_study import Resources, Study, Unit, digest
from endorecon.batch_unit import FINAL, finished, living_worker, read_json
from endorecon.errors import InputRefused, OutOfResources, UsageError
from endorecon.io import atomic

SCHEMA = 1


@dataclass(frozen=True)
class UnitState:
    """Where one unit stands."""

    key: str
    case: str
    setting: str
    repeat: int
    state: str  # waiting, running, done, failed, died
    stage: str = ""
    seconds: float = 0.0  # since its start, or in all when it has ended
    sentence: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Where a study stands. `left_s` is None while nothing has ended yet."""

    name: str
    units: tuple[UnitState, ...]
    left_s: float | None = None
    ended: tuple[UnitState, ...] = ()  # what came to an end since the last snapshot

    def count(self, state: str) -> int:
        """Units in a state."""
        return sum(u.state == state for u in self.units)


@dataclass(frozen=True)
class Estimate:
    """What --dry-run says."""

    units: int
    to_do: int
    hours: float  # of wall clock
    gigabytes: float
    free_gigabytes: float
    lines: tuple[str, ...] = field(default=())


def estimate(study: Study, out: Path, at_once: int) -> Estimate:
    """The work of a study, less what stands finished in `out`."""
    units = units_of(study, out)
    todo = [u for u in units if not finished(out / "units" / u.key)]
    r = study.resources
    spent = [s for u in units for s in [_spent(out / "units" / u.key)] if s]
    minutes = sum(spent) / len(spent) / 60 if spent else r.minutes
    there = next(p for p in (out, *out.resolve().parents) if p.exists())
    return Estimate(
        len(units), len(todo), math.ceil(len(todo) / at_once) * minutes / 60,
        len(todo) * r.disk_mb / 1024,
        shutil.disk_usage(there).free / 2**30,
        tuple(
            f"{u.key}  {'waiting' if u in todo else 'finished':8s}  {u.case} | {u.setting} | "
            f"repeat {u.repeat}"
            for u in units
        ),
    )  # fmt: skip


def units_at_once(engine: str, resources: Resources) -> int:
    """How many units run side by side when nobody says."""
    from endorecon import batch_engine

    return batch_engine.default_jobs(resources) if engine == "local" else 256


def run_study(
    study: Study, out: Path, engine: str = "local", at_once: int = 0, retry: bool = False
) -> Generator[Snapshot, None, None]:
    """Run or go on with a study, yielding where it stands; the results are written at the end.

    `retry` also starts again what the same input made fail. Raises EndoreconError subclasses.
    """
    units = units_of(study, out)
    facts = {
        "name": study.name, "title": study.title, "baseline": study.baseline,
        "cases": [asdict(c) for c in study.cases],
        "settings": [asdict(s) for s in study.settings], "repeats": study.repeats,
    }  # fmt: skip
    cases = {c.name: c for c in study.cases}
    configs = {s.name: s.config for s in study.settings}
    more = {
        u.key: {
            "case_kind": cases[u.case].kind, "case_what": cases[u.case].what,
            "case_folder": str(out.resolve() / "cases" / cases[u.case].key),
            "config": configs[u.setting],
        }
        for u in units
    }  # fmt: skip
    yield from run_units(units, out, facts, engine, at_once, retry, study.slurm, more)


def run_units(
    units: list[Unit],
    out: Path,
    facts: dict[str, Any],
    engine: str = "local",
    at_once: int = 0,
    retry: bool = False,
    slurm: dict[str, Any] | None = None,
    more: dict[str, dict[str, Any]] | None = None,
) -> Generator[Snapshot, None, None]:
    """Run units whatever their steps are. `facts` goes into study.json, `more` into unit.json."""
    from endorecon import batch_engine
    from endorecon.io.rundir import RunDir

    if engine not in ("local", "slurm"):
        raise UsageError(f"There is no engine {engine!r}", "choose local or slurm")
    if not units:
        raise UsageError("The study has no work", "give it cases")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    resources = units[0].resources
    with RunDir(out).lock():  # a second study process on one folder is refused at once
        _write_plan(units, out, facts, more or {})
        todo = [u for u in units if _is_work(out / "units" / u.key, retry)]
        for u in todo:  # a new start of the study is a new chance
            (out / "units" / u.key / "attempts.json").unlink(missing_ok=True)
        _check_disk(out, len(todo), resources)
        folders = [out / "units" / u.key for u in todo]
        at_once = at_once or units_at_once(engine, resources)
        watch = _Watch(units, out, str(facts.get("name", "study")), at_once)
        yield watch.snapshot()
        if folders:
            jobs = out / "jobs"
            events = (
                batch_engine.local(folders, jobs, at_once, resources)
                if engine == "local"
                else batch_engine.slurm(folders, jobs, at_once, resources, slurm or {})
            )
            try:
                last = time.monotonic()
                for event in events:
                    if event is not None:
                        if event.state == "died":
                            _say_died(event.folder)
                        watch.end(event.folder.name)
                    # Looking at thousands of folders costs: now and then is enough.
                    if time.monotonic() - last >= 1.0 + len(units) / 1000:
                        yield watch.snapshot()
                        last = time.monotonic()
            finally:
                events.close()
        yield watch.snapshot()
        from endorecon.batch_report import write_report
        from endorecon.batch_results import collect, write_csv

        results = collect(out)
        write_csv(results, out / "study.csv")
        write_report(results, out)


def _write_plan(
    units: list[Unit], out: Path, facts: dict[str, Any], more: dict[str, dict[str, Any]]
) -> None:
    import yaml

    plan = {
        "schema": SCHEMA, "endorecon": __version__, **facts,
        "units": [
            {"key": u.key, "case": u.case, "setting": u.setting, "repeat": u.repeat} for u in units
        ],
    }  # fmt: skip
    before = read_json(out / "study.json")
    if before and before.get("name") != plan.get("name"):
        raise InputRefused(
            f"The folder holds another study ({before.get('name')})", "choose another --out", out
        )
    code = code_hash()
    for u in units:
        folder = out / "units" / u.key
        if finished(folder):
            continue
        extra = dict(more.get(u.key, {}))
        config = extra.pop("config", None)
        wanted = {**asdict(u), **extra, "code": code}
        if read_json(folder / "unit.json") != json.loads(json.dumps(wanted)):
            folder.mkdir(parents=True, exist_ok=True)
            if config is not None:
                # not JSON: YAML would read its 1e-05 as a word
                atomic.write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            atomic.write_json(folder / "unit.json", wanted)
    atomic.write_json(out / "study.json", plan)


def code_hash() -> str:
    """SHA-256 of the program's own sources: units made by two versions are told apart."""
    here = Path(__file__).resolve().parent
    cuda = here / "cuda" if (here / "cuda").is_dir() else here.parent / "cuda"
    files = [*sorted(here.rglob("*.py")), *sorted(p for p in cuda.glob("*") if p.is_file())]
    return digest([[p.name, digest(p.read_text("utf-8", "replace"))] for p in files])[:16]


def _is_work(folder: Path, retry: bool) -> bool:
    """True unless finished; what failed for want of means (disk, a signal) is work again."""
    status = finished(folder)
    if not status:
        return True
    if status["state"] == "done":
        return False
    if retry or int(status.get("exit_code", 0)) not in FINAL:
        (folder / "status.json").unlink()
        return True
    return False


def _say_died(folder: Path) -> None:
    """A status for a unit whose process went without a word, again and again."""
    status = read_json(folder / "status.json")
    starts = int(status.get("starts", 0))
    sentence = f"the process was ended from outside {starts} times (memory, time limit, or a kill)"
    atomic.write_json(
        folder / "status.json",
        status
        | {"state": "failed", "exit_code": 137, "sentence": sentence, "finished": time.time()},
    )


def _check_disk(out: Path, units: int, resources: Resources) -> None:
    need, free = units * resources.disk_mb / 1024, shutil.disk_usage(out).free / 2**30
    if need > free:
        raise OutOfResources(
            f"The study needs about {need:.1f} GB and {free:.1f} GB are free",
            "choose another --out, or lower unit.disk_mb if that is too much",
            out,
        )


# -- looking at a study --------------------------------------------------------------------------


class _Watch:
    """Reads unit folders; those that have ended are read once."""

    def __init__(self, units: list[Unit], out: Path, name: str, at_once: int) -> None:
        self.out, self.name, self.at_once = out, name, at_once
        self.states = {u.key: UnitState(u.key, u.case, u.setting, u.repeat, "?") for u in units}
        self.fresh: list[str] = []

    def end(self, key: str) -> None:
        self.fresh.append(key)

    def snapshot(self) -> Snapshot:
        for key, before in self.states.items():
            if before.state not in ("done", "failed"):
                self.states[key] = state_of(self.out / "units" / key, before)
        units = tuple(self.states.values())
        ended = tuple(self.states[k] for k in self.fresh)
        self.fresh.clear()
        return Snapshot(self.name, units, _left(units, self.at_once), ended)


def status_of(out: Path) -> Snapshot:
    """Where the study in a folder stands. Raises InputRefused when there is none."""
    plan = read_json(Path(out) / "study.json")
    if not plan:
        raise InputRefused(
            "This is not a study folder (it has no study.json)",
            "give the --out of `endorecon validate`", out,
        )  # fmt: skip
    units = tuple(
        state_of(
            Path(out) / "units" / u["key"],
            UnitState(u["key"], u["case"], u["setting"], int(u["repeat"]), "?"),
        )
        for u in plan["units"]
    )
    running = sum(u.state == "running" for u in units)
    return Snapshot(str(plan.get("name", "study")), units, _left(units, max(1, running)))


def state_of(folder: Path, unit: UnitState) -> UnitState:
    """The state that a unit's folder tells."""
    status = read_json(folder / "status.json")
    state = str(status.get("state", "waiting"))
    sentence = str(status.get("sentence", ""))
    if state in ("done", "failed"):
        seconds = sum(status.get("seconds", {}).values())
        return _with(unit, state, str(status.get("step", "")), seconds, sentence)
    if state == "running":
        here = status.get("host") == socket.gethostname()
        if here and not living_worker(folder):
            return _with(unit, "waiting", "interrupted", 0.0, "")
        step = str(status.get("step", ""))
        stage = _stage(folder / "run" / "events.jsonl") if step == "fit" else step
        return _with(unit, "running", stage, time.time() - float(status["started"]), "")
    return _with(unit, "waiting", "", 0.0, "")


def _with(u: UnitState, state: str, stage: str, seconds: float, sentence: str) -> UnitState:
    return UnitState(u.key, u.case, u.setting, u.repeat, state, stage, seconds, sentence)


def _stage(events: Path) -> str:
    """The last thing a fit said, from the end of its events."""
    try:
        with open(events, "rb") as file:
            file.seek(max(0, events.stat().st_size - 8192))
            lines = file.read().splitlines()
    except OSError:
        return "fit: starting"
    for line in reversed(lines):
        try:
            e = json.loads(line)
        except ValueError:
            continue
        kind = e.get("kind")
        if kind == "StageStarted":
            return f"fit: {e['stage']}"
        if kind == "StepDone":
            return f"fit: field, step {e.get('step')} of {e.get('steps')}"
        if kind == "ViewsMeasured":
            return f"fit: round {e.get('round')}, {e.get('what')}"
        if kind == "RoundFinished":
            return f"fit: round {e.get('round')} done"
        if kind == "PoseProgress":
            return f"fit: poses, {e.get('stage')}"
    return "fit"


def _spent(folder: Path) -> float:
    status = finished(folder)
    return sum(status.get("seconds", {}).values()) if status.get("state") == "done" else 0.0


def _left(units: tuple[UnitState, ...], at_once: int) -> float | None:
    """Seconds to the end, from the mean of what is done; the last unit has a slot to itself."""
    done = [u.seconds for u in units if u.state == "done"]
    if not done:
        return None
    mean = sum(done) / len(done)
    waiting = sum(u.state == "waiting" for u in units)
    running = [max(0.0, mean - u.seconds) for u in units if u.state == "running"]
    whole = (waiting * mean + sum(running)) / at_once
    return max(whole, mean if waiting else 0.0, *running)
