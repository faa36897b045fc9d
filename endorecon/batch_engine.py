"""Where units run: on this machine, N at a time, or on Slurm as arrays. Both through submitit.

The engine starts processes, waits, and starts again what died; it computes nothing and opens no
port. All it knows of a unit is its folder (batch_unit.py). A unit that fails says so itself; a unit
whose process is gone without a word is started again, `retries` times. Closing the generator ends
what runs here; Slurm jobs go on, and the next start finds them by their name and takes them over.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endorecon.batch_study import Resources
from endorecon.batch_unit import UnitJob, end_leftovers, finished, living_worker, read_json
from endorecon.errors import EnvironmentFault, UsageError
from endorecon.io import atomic

POLL_S = 0.05
GONE_S = 10.0  # a killed process that is not gone by then hangs in the kernel
ARRAY = 500  # tasks of one Slurm array; the usual MaxArraySize is 1001
SLURM_NAMES = (
    "partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "comment",
    "signal_delay_s", "array_parallelism", "setup", "use_srun", "poll_s",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A unit came to an end: "done", "failed", or "died" (no process left, no word)."""

    folder: Path
    state: str


def local(
    folders: list[Path], jobs: Path, at_once: int, resources: Resources
) -> Generator[Ended | None, None, None]:
    """Run units here, `at_once` at a time, each with its own cores and GPU; None = still going."""
    gpus, sets = _gpus(), _core_sets(at_once, resources.cores)
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for k in range(at_once):
        slots.put(k)
    ended: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
    stop: list[bool] = []

    def one(folder: Path) -> None:
        slot = slots.get()
        try:
            if not stop:
                ended.put(_one(folder, jobs, resources, gpus, slot, sets[slot], stop))
        except BaseException as error:
            ended.put(error)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(at_once) as pool:
        for folder in folders:
            pool.submit(one, folder)
        left = len(folders)
        try:
            while left:
                try:
                    event = ended.get(timeout=0.5)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(event, BaseException):
                    raise event
                left -= 1
                yield event
        finally:
            stop.append(True)
            pool.shutdown(wait=True, cancel_futures=True)


def _one(
    folder: Path, jobs: Path, resources: Resources, gpus: list[int], slot: int,
    cores: tuple[int, ...], stop: list[bool],
) -> Ended:  # fmt: skip
    import submitit

    mine = gpus[slot * resources.gpus % max(1, len(gpus)) :][: resources.gpus]
    for _ in range(1 + resources.retries):
        if stop:  # Ctrl-C on a terminal ends the worker before the study process knows
            _end_unit(folder)
            break
        executor = submitit.LocalExecutor(folder=jobs / folder.name)
        executor.update_parameters(
            timeout_min=60 * resources.hours, gpus_per_node=len(mine), visible_gpus=mine,
            tasks_per_node=1, nodes=1, stderr_to_stdout=True,
        )  # fmt: skip
        job = executor.submit(UnitJob(str(folder), cores))
        while not job.done():
            if stop:
                job._process.kill()  # type: ignore[attr-defined]  # the unit dies with it
                job._process.wait()  # type: ignore[attr-defined]
                _end_unit(folder)  # or one that an earlier, killed study left here
                return Ended(folder, "died")
            time.sleep(POLL_S)
        status = finished(folder)
        if status:
            if status["state"] == "done":
                shutil.rmtree(jobs / folder.name, ignore_errors=True)
            return Ended(folder, status["state"])
    return Ended(folder, "died")


def _end_unit(folder: Path) -> None:
    """End a unit's worker and its step, and see them gone: the study is about to say so."""
    end = time.monotonic() + GONE_S
    while (pid := living_worker(folder)) or end_leftovers(folder):
        if pid:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)
        if time.monotonic() > end:
            break
        time.sleep(0.02)


def default_jobs(resources: Resources) -> int:
    """Units at a time on this machine: one for each GPU set, or for each core set."""
    if resources.gpus:
        return max(1, len(_gpus()) // resources.gpus)
    return max(1, len(os.sched_getaffinity(0)) // max(1, resources.cores))


def _gpus() -> list[int]:
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [int(x) for x in asked.split(",") if x.strip().isdigit()]
    names = (p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(int(n.removeprefix("nvidia")) for n in names if n[6:].isdigit())


def _core_sets(at_once: int, cores: int) -> list[tuple[int, ...]]:
    """Cores for each slot; () leaves the choice to the system when there are too few."""
    there = sorted(os.sched_getaffinity(0))
    if at_once * cores > len(there) or cores < 1:
        return [()] * at_once
    return [tuple(there[k * cores : (k + 1) * cores]) for k in range(at_once)]


# -- Slurm ---------------------------------------------------------------------------------------


def slurm(
    folders: list[Path], jobs: Path, at_once: int, resources: Resources, options: dict[str, Any]
) -> Generator[Ended | None, None, None]:
    """Run units as Slurm arrays, at most `at_once` at a time; None = still going.

    Jobs of an earlier start that are still queued or running are taken over. Raises
    EnvironmentFault where there is no Slurm, UsageError for an option that sbatch does not get.
    """
    if shutil.which("sbatch") is None:
        raise EnvironmentFault("There is no Slurm here (no sbatch)", "use --engine local")
    unknown = sorted(set(options) - set(SLURM_NAMES))
    if unknown:
        raise UsageError(f"slurm.{unknown[0]} is not known", f"known: {', '.join(SLURM_NAMES)}")
    jobs.mkdir(parents=True, exist_ok=True)
    waiting = {f.name: f for f in folders}
    starts = dict.fromkeys(waiting, 0)
    alive = _queued(jobs)
    adopted = {n for n in waiting if n in (alive or {})}
    poll = float(options.get("poll_s", 5.0))
    if alive is None:
        raise EnvironmentFault(
            "The Slurm controller does not answer", "try again, or --engine local"
        )
    _submit([f for n, f in waiting.items() if n not in adopted], jobs, at_once, resources, options)
    missing: dict[str, int] = {}
    while waiting:
        time.sleep(poll)
        for name in list(waiting):
            status = finished(waiting[name])
            if status:
                yield Ended(waiting.pop(name), status["state"])
        alive = _queued(jobs)
        if alive is None:  # the controller is away: what runs goes on, and we wait
            yield None
            continue
        # Twice missing: a finished file may come later than the end of its job (NFS).
        missing = {n: missing.get(n, 0) + 1 for n in waiting if n not in alive}
        dead = [n for n, times in missing.items() if times >= 2]
        again = []
        for name in dead:
            del missing[name]
            starts[name] += 1
            if starts[name] > resources.retries:
                yield Ended(waiting.pop(name), "died")
            else:
                again.append(waiting[name])
        _submit(again, jobs, at_once, resources, options)
        yield None
    end = time.monotonic() + 60.0  # submitit's last words come after a unit's own
    while _queued(jobs) and time.monotonic() < end:
        time.sleep(poll)
    if not _queued(jobs):
        shutil.rmtree(jobs, ignore_errors=True)


def _submit(
    folders: list[Path], jobs: Path, at_once: int, resources: Resources, options: dict[str, Any]
) -> None:
    import submitit

    for k in range(0, len(folders), ARRAY):
        part = folders[k : k + ARRAY]
        name = f"endorecon-{uuid.uuid4().hex[:12]}"
        # Written first: whoever comes after a crash knows which unit a queued task is.
        atomic.write_json(jobs / f"{name}.json", {"units": [f.name for f in part]})
        executor = submitit.SlurmExecutor(folder=jobs / "%j", max_num_timeout=100)
        chosen = {word: v for word, v in options.items() if word != "poll_s"}
        gpus = {"gpus_per_node": resources.gpus} if resources.gpus else {}
        executor.update_parameters(**{
            "job_name": name, "time": max(1, round(60 * resources.hours)),
            "cpus_per_task": resources.cores, "mem": f"{round(1024 * resources.memory_gb)}MB",
            "array_parallelism": at_once, "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True}, **gpus, **chosen,
        })  # fmt: skip
        try:
            with executor.batch():
                for folder in part:
                    executor.submit(UnitJob(str(folder)))
        except Exception as error:
            raise EnvironmentFault(
                f"Slurm did not take the jobs ({error})", "check `slurm:` in the study"
            ) from error


def _queued(jobs: Path) -> dict[str, str] | None:
    """Unit name -> job id of what Slurm holds; None when the controller does not answer."""
    names = {f.stem: read_json(f).get("units", []) for f in jobs.glob("endorecon-*.json")}
    if not names:
        command = ["squeue", "-h", "-o", "%i"]
    else:
        command = ["squeue", "-h", "-r", "-o", "%i|%j|%t", "--name", ",".join(names)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    out: dict[str, str] = {}
    for line in found.stdout.splitlines() if names else ():
        job, name, state = line.split("|")
        task = job.partition("_")[2]
        units = names.get(name, [])
        index = int(task) if task.isdigit() else 0
        if index < len(units) and state not in ("CA", "CD", "F", "TO", "NF", "OOM", "BF"):
            out[units[index]] = job
    return out
