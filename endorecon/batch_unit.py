"""One unit of a study, run in a process of its own: its steps, its lock, its state on disk.

A unit's folder: `unit.json` (the plan), `.lock`, `status.json` (state, step, sentence, times),
`log.txt`, `steps/NAME.done`, `run/`, `result.json`. `status.json` is written last and says "done"
or "failed"; a folder without it, or with "running" and no living process, is work to go on with.
`attempts.json` counts the starts in a row that finished nothing new: Slurm would requeue a unit
that never gets through a stage for ever. The study process removes it when it starts.
Two processes never work in one folder: the second waits for the lock and finds the work done.
A process that dies takes its step with it (PR_SET_PDEATHSIG), and whoever takes the folder over
first ends what is left of the dead one, found by the mark in its environment.
Only the standard library is imported here: a trivial unit costs the start of Python and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from endorecon.errors import BUG_EXIT_CODE
from endorecon.io import atomic

MARK = "ENDORECON_UNIT"
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
# Exit codes that the same input will give again: no use in a second try.
FINAL = (2, 3, 4, 5, BUG_EXIT_CODE)
KILLED = (128 + signal.SIGKILL, 128 + signal.SIGTERM)  # by somebody, or for want of memory


class UnitJob:
    """What submitit starts: `folder` is the unit's. `cores`: the processor cores it may use."""

    def __init__(self, folder: str, cores: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.cores = cores

    def __call__(self) -> None:
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            # The study ends a unit by ending its controller, whose pid is the job's name.
            die_with(int(os.environ["SUBMITIT_LOCAL_JOB_ID"]))
        run_unit(Path(self.folder), self.cores)

    def checkpoint(self) -> Any:
        """Asked by submitit before a preemption: simply start again, the folder is the state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object, or {} when there is none or it cannot be read."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finished(folder: Path) -> dict[str, Any]:
    """status.json of a finished unit (done or failed), else {}."""
    status = read_json(folder / "status.json")
    return status if status.get("state") in ("done", "failed") else {}


def run_unit(folder: Path, cores: tuple[int, ...] = ()) -> str:
    """Run or go on with a unit; returns its state, "done" or "failed"."""
    plan = read_json(folder / "unit.json")
    with locked(folder / ".lock"):
        before = finished(folder)
        if before:
            return str(before["state"])
        if (folder / "status.json").exists():
            end_leftovers(folder)
        if cores:
            with contextlib.suppress(OSError, AttributeError):
                os.sched_setaffinity(0, cores)
        return _run(folder, plan)


def _run(folder: Path, plan: dict[str, Any]) -> str:
    now = read_json(folder / "status.json")
    vain = _starts_in_vain(folder)
    retries = int(plan["resources"].get("retries", 2))
    if vain > retries:
        sentence = (
            f"{vain} starts in a row were ended from outside before a stage was finished (time "
            "limit, memory, preemption); raise unit.hours or unit.memory_gb, or do less in a unit"
        )
        (folder / "attempts.json").unlink()
        _write(
            folder,
            now
            | {"state": "failed", "exit_code": 137, "sentence": sentence, "finished": time.time()},
        )
        return "failed"
    status: dict[str, Any] = {
        "state": "running", "pid": os.getpid(), "ticks": ticks_of(os.getpid()),
        "host": socket.gethostname(),
        "started": time.time(), "starts": int(now.get("starts", 0)) + 1,
        "seconds": dict(now.get("seconds", {})),
    }  # fmt: skip
    threads = str(max(1, int(plan["resources"]["cores"])))
    environment = {
        **os.environ, MARK: str(folder.resolve()), "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
    }  # fmt: skip
    failure: dict[str, Any] = {}
    fresh = False  # what comes after a step that runs now is stale
    for name, required, command in plan["steps"]:
        if (folder / "steps" / f"{name}.done").exists() and not fresh:
            continue
        fresh = True
        _write(folder, status | {"step": name})
        begun = time.monotonic()
        code = _step([str(c) for c in command], folder / "log.txt", environment)
        while code in KILLED and _starts_in_vain(folder) <= retries:
            code = _step([str(c) for c in command], folder / "log.txt", environment)
        spent = status["seconds"].get(name, 0.0) + time.monotonic() - begun
        status["seconds"][name] = round(spent, 3)
        if code == 0:
            atomic.write_text(folder / "steps" / f"{name}.done", "")
            continue
        failure = failure or {
            "step": name, "exit_code": code, "sentence": _sentence(folder / "log.txt", code),
        }  # fmt: skip
        if required:
            break
    status.update({"state": "failed", **failure} if failure else {"state": "done", "step": ""})
    _write(folder, status | {"finished": time.time()})
    return str(status["state"])


def _starts_in_vain(folder: Path) -> int:
    """Note this start; returns how many before it, in a row, finished nothing that is new now."""
    stages = sorted(
        p.relative_to(folder).as_posix()
        for pattern in ("steps/*.done", "run/[!.]*", "run/rounds/[!.]*")
        for p in folder.glob(pattern)
    )
    before = read_json(folder / "attempts.json")
    vain = int(before["starts"]) if before.get("stages") == stages else 0
    atomic.write_json(folder / "attempts.json", {"stages": stages, "starts": vain + 1})
    return vain


def ticks_of(pid: int) -> int:
    """When a process started, in the kernel's ticks; 0 when there is none. Pids come again.

    One that has ended and waits for somebody to take note (a container may have nobody) is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def living_worker(folder: Path) -> int:
    """The pid of the process that runs this unit on this machine; 0 when there is none.

    A pid alone may by now be anybody's: it counts only with the start time it was noted with.
    """
    status = read_json(folder / "status.json")
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return 0
    pid, ticks = int(status.get("pid", 0)), int(status.get("ticks", 0))
    return pid if pid and ticks and ticks_of(pid) == ticks else 0


def _write(folder: Path, status: dict[str, Any]) -> None:
    atomic.write_json(folder / "status.json", status)


def _step(command: list[str], log: Path, environment: dict[str, str]) -> int:
    """Run one command to its end; its output goes to the log. The exit code (128 + signal)."""
    libc, here = ctypes.CDLL(None), os.getpid()
    with open(log, "ab") as file:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                preexec_fn=lambda: die_with(here, libc),
            )  # fmt: skip
        except OSError as error:
            file.write(f"endorecon: this command cannot be started ({error})\n".encode())
            return 7
        try:
            code = process.wait()
        except BaseException:  # preempted: whoever comes next goes on from the step's own files
            process.kill()
            process.wait()
            raise
    return code if code >= 0 else 128 - code


def die_with(parent: int, libc: Any = None) -> None:
    """Let the kernel end this process when `parent`, which must have started it, ends."""
    (libc or ctypes.CDLL(None)).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _sentence(log: Path, code: int) -> str:
    """The sentence that the command left: its last line that begins with `endorecon: `."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [x for x in file.read().decode("utf-8", "replace").splitlines() if x.strip()]
    said = [x.removeprefix("endorecon: ") for x in lines if x.startswith("endorecon: ")]
    if said:
        return said[-1][:600]
    if code > 128:
        return f"the process was ended by signal {code - 128}"
    return f"exit code {code}: {lines[-1][:300] if lines else 'no output'}"


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for it; the kernel frees it when the process dies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def end_leftovers(folder: Path) -> list[int]:
    """End processes of an earlier, dead start of this unit on this machine; returns their pids."""
    wanted = f"{MARK}={folder.resolve()}".encode()
    ended = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                ended.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue  # gone, or another user's
    return ended


if __name__ == "__main__":
    sys.exit(0 if run_unit(Path(sys.argv[1])) == "done" else 1)
