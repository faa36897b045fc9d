"""Studies: the study file, the units, deaths at any moment, Slurm, statistics, the page."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_units import results, run_all, trivial_units

from endorecon.batch import estimate, run_units, status_of
from endorecon.batch_cases import units_of
from endorecon.batch_clinical import clinical
from endorecon.batch_engine import _core_sets
from endorecon.batch_report import write_report
from endorecon.batch_results import CT_SCALE, collect, paired, regressions, summaries, write_csv
from endorecon.batch_study import Resources, Study, Unit, content_hash, read_study
from endorecon.batch_table import line_of_the_interrupted, lines_of, lines_of_distances, verdict
from endorecon.batch_unit import end_leftovers, living_worker, read_json, run_unit
from endorecon.errors import InputRefused, OutOfResources, UsageError

HERE = Path(__file__).resolve().parent
STUDIES = HERE.parent / "configs" / "studies"
STUDY = """
name: small
cases:
  - phantom: {seed: [0, 1], frames: 30, size: 320x240}
  - {video: clip.mp4, name: own}
settings:
  - {name: plain, preset: none}
  - {name: rounds, preset: none, set: {loop.max_rounds: [1, 2], field: {width: 160}}}
repeats: 2
"""


def presets(word: str) -> dict[str, object]:
    return {}


def study_in(folder: Path, text: str = STUDY) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.mp4").write_bytes(b"film")
    (folder / "study.yaml").write_text(text)
    return read_study(folder / "study.yaml", presets)


# -- the study file ------------------------------------------------------------------------------


def test_cases_settings_and_repeats_make_a_product_with_distinct_keys(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    units = units_of(study, tmp_path / "out")
    assert len(units) == 3 * 3 * 2 and len({u.key for u in units}) == 18
    assert [c.name for c in study.cases] == ["sinus default seed=0", "sinus default seed=1", "own"]
    assert [s.name for s in study.settings] == [
        "plain", "rounds max_rounds=1", "rounds max_rounds=2",
    ]  # fmt: skip
    assert study.settings[2].config["loop"]["max_rounds"] == 2
    assert study.settings[2].config["field"]["width"] == 160


def test_a_key_depends_on_content_not_on_names_or_places(tmp_path: Path) -> None:
    here = study_in(tmp_path / "a")
    there = study_in(tmp_path / "b", STUDY.replace("name: own", "name: mine"))
    keys = [[u.key for u in units_of(s, tmp_path / "x")] for s in (here, there)]
    assert keys[0] == keys[1]
    (tmp_path / "a" / "clip.mp4").write_bytes(b"another film")
    again = read_study(tmp_path / "a" / "study.yaml", presets)
    changed = [u.key for u in units_of(again, tmp_path / "x")]
    assert changed[:12] == keys[0][:12] and not set(changed[12:]) & set(keys[0])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("repeats: 2", "repeat: 2", "did you mean 'repeats'"),
        ("repeats: 2", "repeats: 0", "whole number from 1"),
        ("loop.max_rounds", "loop.max_round", "did you mean loop.max_rounds"),
        ("max_rounds: [1, 2]", "max_rounds: [1, two]", "must be int"),
        ("frames: 30", "frame: 30", "did you mean 'frames'"),
        ("size: 320x240", "size: large", "not WIDTHxHEIGHT"),
        ("seed: [0, 1]", "seed: [0, 0]", "Two cases have the name"),
        ("clip.mp4", "clap.mp4", "does not exist"),
        ("clip.mp4", "$NOT_SET_HERE/clip.mp4", "NOT_SET_HERE is not set"),
        ("repeats: 2", "baseline: best", "is no setting"),
        ("repeats: 2", "unit: {cores: many}", "must be a int"),
        ("name: small", "name: !!python/name:os.system", "not plain YAML"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_starts(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in STUDY
    with pytest.raises((UsageError, InputRefused), match=re.escape(says)):
        study_in(tmp_path, STUDY.replace(old, new))


def test_a_setting_whose_default_is_none_takes_a_number_and_null(tmp_path: Path) -> None:
    bone = study_in(tmp_path, STUDY.replace("loop.max_rounds: [1, 2]", "evaluate.air_hu: 250"))
    assert bone.settings[1].config["evaluate"]["air_hu"] == 250.0
    assert bone.settings[0].config["evaluate"]["air_hu"] is None
    steps = dict((s[0], s[2]) for s in units_of(bone, tmp_path)[2].steps)
    at = steps["evaluate"].index("--evaluate.air-hu")
    assert steps["evaluate"][at + 1] == "250.0"
    with pytest.raises(UsageError, match="must be float or null, got 'bone'"):
        study_in(tmp_path, STUDY.replace("loop.max_rounds: [1, 2]", "evaluate.air_hu: bone"))


def test_the_content_of_a_large_file_is_seen_by_size_and_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"a" * (17 << 20))
    first = content_hash(file)
    with open(file, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"b")
    assert content_hash(file) != first


@pytest.mark.parametrize("name", ["cranial-phantom", "ablation", "peers", "smoke"])
def test_the_studies_that_come_along_are_sound(name: str, tmp_path: Path) -> None:
    from endorecon.cli import preset_differences

    study = read_study(STUDIES / f"{name}.yaml", preset_differences)
    units = units_of(study, tmp_path)
    assert len({u.key for u in units}) == len(units) > 0
    steps = dict((s[0], s[2]) for s in units[0].steps)
    assert list(steps) == ["prepare", "fit", "evaluate", "score"]
    assert "--clicks" in steps["evaluate"]
    if name == "cranial-phantom":
        assert len(study.cases) >= 5 and study.repeats == 1


def test_a_unit_that_keeps_results_alone_ends_by_throwing_the_bulk_away(tmp_path: Path) -> None:
    study = study_in(tmp_path, STUDY + "unit: {keep: results}\n")
    unit = units_of(study, tmp_path / "out")[0]
    name, required, command = unit.steps[-1]
    assert name == "tidy" and not required
    run = tmp_path / "out" / "units" / unit.key / "run"
    for kept in ("rounds/00", "frames", "depth", "evaluation"):
        (run / kept).mkdir(parents=True)
    (run / "surface.ply").write_text("ply")
    subprocess.run(command, check=True)
    assert sorted(p.name for p in run.iterdir()) == ["evaluation", "surface.ply"]
    with pytest.raises(UsageError, match="all or results"):
        study_in(tmp_path, STUDY + "unit: {keep: most}\n")


def test_every_flag_that_a_unit_passes_is_one_the_commands_know(tmp_path: Path) -> None:
    import tyro

    from endorecon.cli import Fit
    from endorecon.commands import Evaluate

    unit = units_of(study_in(tmp_path), tmp_path)[0]
    steps = {s[0]: list(s[2]) for s in unit.steps}
    fit = steps["fit"][4:]
    got = tyro.cli(Fit, args=fit)
    assert got.seed == 0 and got.device == "cpu" and got.camera is not None
    e = tyro.cli(Evaluate, args=steps["evaluate"][4:])
    assert e.clicks is not None and e.evaluate.margin_mm == 1.0 and e.evaluate.update_ct is False


# -- units ---------------------------------------------------------------------------------------


def one_unit(tmp_path: Path, *steps: tuple[str, bool, str]) -> Path:
    folder = tmp_path / "units" / "k"
    folder.mkdir(parents=True)
    commands = [(n, r, ["/bin/sh", "-c", c]) for n, r, c in steps]
    (folder / "unit.json").write_text(json.dumps({"steps": commands, "resources": {"cores": 1}}))
    return folder


def test_a_failed_step_leaves_its_sentence_and_its_exit_code(tmp_path: Path) -> None:
    folder = one_unit(
        tmp_path, ("fit", True, "echo noise; echo 'endorecon: no parallax; move' >&2; exit 4"),
        ("score", True, "touch never"),
    )  # fmt: skip
    assert run_unit(folder) == "failed"
    status = read_json(folder / "status.json")
    assert status["sentence"] == "no parallax; move" and status["exit_code"] == 4
    assert status["step"] == "fit" and not (folder / "never").exists()


def test_a_step_that_may_fail_does_not_stop_the_next_but_the_unit_is_failed(tmp_path: Path) -> None:
    folder = one_unit(
        tmp_path, ("evaluate", False, "exit 4"), ("score", True, f"touch {tmp_path}/scored")
    )
    assert run_unit(folder) == "failed" and (tmp_path / "scored").exists()


def test_a_finished_unit_is_not_run_again_and_a_broken_one_goes_on(tmp_path: Path) -> None:
    folder = one_unit(
        tmp_path, ("a", True, f"echo x >> {tmp_path}/a"), ("b", True, f"echo x >> {tmp_path}/b")
    )
    assert run_unit(folder) == "done" and run_unit(folder) == "done"
    (folder / "status.json").write_text('{"state": "running", "pid": 1, "starts": 1}')
    (folder / "steps" / "b.done").unlink()
    assert run_unit(folder) == "done"
    assert (tmp_path / "a").read_text() == "x\n" and (tmp_path / "b").read_text() == "x\nx\n"


def test_a_killed_worker_takes_its_step_with_it(tmp_path: Path) -> None:
    folder = one_unit(tmp_path, ("long", True, f"echo $$ > {tmp_path}/pid; exec sleep 600"))
    worker = subprocess.Popen([sys.executable, "-m", "endorecon.batch_unit", str(folder)])
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    worker.kill()
    worker.wait()
    wait_for(lambda: not alive(pid))


def test_what_a_dead_worker_left_running_is_ended_by_who_takes_over(tmp_path: Path) -> None:
    environment = {**os.environ, "ENDORECON_UNIT": str(tmp_path.resolve())}
    left = subprocess.Popen(["sleep", "600"], env=environment)
    other = subprocess.Popen(["sleep", "600"])
    wait_for(lambda: b"sleep" in Path(f"/proc/{left.pid}/cmdline").read_bytes())
    assert end_leftovers(tmp_path) == [left.pid]
    assert left.wait() == -signal.SIGKILL and other.poll() is None
    other.kill()
    other.wait()


def test_a_unit_that_is_started_in_vain_is_failed_and_one_that_gets_on_is_not(
    tmp_path: Path,
) -> None:
    """As Slurm does it: the worker is ended and started again, and the study hears nothing."""
    stuck = one_unit(tmp_path, ("fit", True, f"echo x >> {tmp_path}/starts; kill -9 $PPID"))
    script = f"mkdir -p run/rounds; mkdir run/rounds/$(ls run/rounds | wc -l); cd {tmp_path}"
    script += "; [ $(ls slow/run/rounds | wc -l) = 6 ] || kill -9 $PPID"
    slow = tmp_path / "slow"
    slow.mkdir()
    steps = [["fit", True, ["/bin/sh", "-c", f"cd {slow}; {script}"]]]
    (slow / "unit.json").write_text(json.dumps({"steps": steps, "resources": {"cores": 1}}))
    for folder in (stuck, slow):
        command = [sys.executable, "-m", "endorecon.batch_unit", str(folder)]
        codes = [subprocess.run(command).returncode for _ in range(6)]
        assert codes[:3] == [-signal.SIGKILL] * 3
    assert (tmp_path / "starts").read_text() == "x\n" * 3
    status = read_json(stuck / "status.json")
    assert status["state"] == "failed" and status["step"] == "fit"
    assert status["sentence"].startswith("3 starts in a row were ended from outside")
    assert read_json(slow / "status.json")["state"] == "done"


def test_a_killed_step_is_run_again_by_its_worker_a_few_times(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ] || kill -9 $$"
    assert run_unit(one_unit(tmp_path, ("fit", True, script))) == "done"
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    stuck = one_unit(tmp_path / "stuck", ("fit", True, f"echo x >> {tmp_path}/more; kill -9 $$"))
    assert run_unit(stuck) == "failed" and (tmp_path / "more").read_text() == "x\n" * 3
    status = read_json(stuck / "status.json")
    assert status["sentence"] == "the process was ended by signal 9" and status["exit_code"] == 137


def test_a_pid_that_is_somebody_elses_by_now_is_no_worker(tmp_path: Path) -> None:
    import socket

    from endorecon.batch_unit import ticks_of

    status = {"state": "running", "pid": os.getpid(), "host": socket.gethostname()}
    for ticks, wanted in ((ticks_of(os.getpid()), os.getpid()), (12345, 0), (0, 0)):
        (tmp_path / "status.json").write_text(json.dumps({**status, "ticks": ticks}))
        assert living_worker(tmp_path) == wanted


def wait_for(condition: object, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def running_in(folder: Path, word: str = "") -> list[int]:
    """Processes that have a folder, and a word, in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in line and word in line and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


# -- a study on this machine ---------------------------------------------------------------------


def test_a_study_runs_each_unit_once_and_the_second_start_does_nothing(tmp_path: Path) -> None:
    units = trivial_units(4, tmp_path)
    last = run_all(units, tmp_path, at_once=2)
    assert last.count("done") == 4
    assert sorted(results(tmp_path).values()) == ["0\n", "1\n", "4\n", "9\n"]
    run_all(units, tmp_path, at_once=2)
    assert all(p.read_text() == "x\n" for p in tmp_path.glob("units/*/started"))
    assert not any((tmp_path / "jobs").glob("*")), "submitit's files of finished jobs stay behind"
    assert (tmp_path / "study.html").is_file() and (tmp_path / "study.csv").is_file()
    assert "4 done" in lines_of(status_of(tmp_path))[-1]


def test_a_unit_whose_process_dies_is_started_again_then_listed(tmp_path: Path) -> None:
    resources = Resources(cores=1, disk_mb=0.01, retries=1)
    steps = (("die", True, ("/bin/sh", "-c", "kill -9 $PPID; sleep 60")),)
    unit = Unit("dying", "case", "only", 0, steps, resources)
    last = run_all([unit], tmp_path)
    assert last.count("failed") == 1 and "ended from outside 2 times" in last.units[0].sentence
    assert "FAILED" in lines_of(last)[0]


def test_what_the_same_input_makes_fail_is_not_tried_again_unless_asked(tmp_path: Path) -> None:
    def unit(code: int) -> Unit:
        script = f"echo x >> {tmp_path}/{code}; exit {code}"
        steps = (("fit", True, ("/bin/sh", "-c", script)),)
        return Unit(f"unit{code}", f"case {code}", "only", 0, steps, Resources(disk_mb=0.01))

    units = [unit(4), unit(6)]
    for retry in (False, False, True):
        run_all(units, tmp_path, retry=retry)
    assert (tmp_path / "4").read_text().count("x") == 2  # refused: first and on request
    assert (tmp_path / "6").read_text().count("x") == 3  # disk, memory: every time


def test_a_study_that_does_not_fit_the_disk_is_refused(tmp_path: Path) -> None:
    unit = replace(trivial_units(1, tmp_path)[0], resources=Resources(disk_mb=1e12))
    with pytest.raises(OutOfResources, match="GB are free"):
        run_all([unit], tmp_path)


def test_two_study_processes_on_one_folder_are_refused(tmp_path: Path) -> None:
    running = run_units(trivial_units(1, tmp_path, sleep=1.0), tmp_path, {"name": "trivial"})
    next(running)
    with pytest.raises(OutOfResources, match="in use"):
        run_all(trivial_units(1, tmp_path), tmp_path)
    for _ in running:
        pass


def test_each_slot_has_its_own_cores_or_none_at_all() -> None:
    there = sorted(os.sched_getaffinity(0))
    one = _core_sets(len(there), 1)
    assert sorted(c for s in one for c in s) == there
    assert _core_sets(len(there) + 1, 1) == [()] * (len(there) + 1)


def start_study(out: Path, count: int, sleep: float, engine: str = "local") -> subprocess.Popen:
    command = [sys.executable, HERE / "batch_units.py", out, str(count), "2", str(sleep), engine]
    return subprocess.Popen([str(c) for c in command], start_new_session=True)


@pytest.mark.parametrize(("number", "whom"), [(signal.SIGINT, "all"), (signal.SIGTERM, "study")])
def test_a_study_that_is_told_to_stop_ends_its_workers(
    tmp_path: Path, number: signal.Signals, whom: str
) -> None:
    """Ctrl-C reaches the whole process group, `kill` the study alone."""
    (tmp_path / "study.yaml").write_text(
        "name: stopped\ncases: [{phantom: {seed: [0, 1, 2], frames: 100, size: 640x480}}]\n"
        "settings: [{name: cpu, preset: cpu}]\nunit: {cores: 1}\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "endorecon.cli", "validate", str(tmp_path / "study.yaml"),
               "--out", str(out), "--jobs", "2"]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        study = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            # A test run in the background of a shell hands on that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        wait_for(lambda: len(running_in(out, "batch_cases")) == 2)  # both are at their first step
        (os.killpg if whom == "all" else os.kill)(study.pid, number)
        assert study.wait(30) == 128 + number
        assert running_in(out) == [], "controllers, workers or their steps go on"
    finally:
        for pid in running_in(out):
            os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert "the units that ran here were ended" in said and "same command again to resume" in said
    assert {u.state for u in status_of(out).units} == {"waiting"}


def test_a_stopped_study_on_slurm_says_that_its_jobs_go_on_and_what_ends_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "endorecon-12ab.json").write_text('{"units": ["k"]}')
    said = line_of_the_interrupted(tmp_path, "slurm")
    assert "jobs go on" in said and "`scancel --name=endorecon-12ab`" in said
    assert "were ended" in line_of_the_interrupted(tmp_path, "local")


@pytest.mark.slow
def test_kills_at_ten_moments_leave_a_study_that_ends_as_if_undisturbed(tmp_path: Path) -> None:
    rng = random.Random(0)
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    run_all(trivial_units(12, calm), calm, at_once=2)
    for k in range(10):
        study = start_study(wild, 12, 0.4)
        time.sleep(rng.uniform(0.2, 4.0))
        pids = [pid for p in wild.glob("units/*") if (pid := living_worker(p))]
        if k % 2 and pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
            time.sleep(rng.uniform(0.0, 0.5))
        study.kill()
        study.wait()
    run_all(trivial_units(12, wild, 0.4), wild, at_once=2)
    assert results(wild) == results(calm)
    # Each result was computed once: the last step of a unit ran to its end a single time, but for
    # a kill between its last byte and the note of it.
    counts = [p.read_text().count("x") for p in wild.glob("units/*/computed")]
    assert len(counts) == 12 and sum(counts) <= 13
    assert (wild / "study.csv").read_text() == (calm / "study.csv").read_text()


@pytest.mark.slow
def test_scheduling_a_unit_costs_less_than_a_second_of_processor_time(tmp_path: Path) -> None:
    import resource

    units = trivial_units(10, tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_all(units, tmp_path, at_once=2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent / 10 < 1.0


# -- Slurm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """slurmctld, slurmd and munged on loopback; skips, with the reason, where they cannot start."""
    folder = tmp_path_factory.mktemp("slurm")
    script = HERE / "slurm" / "start.sh"
    found = subprocess.run([script, folder, "4"], capture_output=True, text=True, timeout=180)
    if found.returncode or "ready" not in found.stdout:
        subprocess.run([script, folder, "stop"], timeout=60)
        pytest.skip(f"Slurm cannot start here: {(found.stdout + found.stderr).strip()[-200:]}")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    if before is None:
        del os.environ["SLURM_CONF"]
    subprocess.run([script, folder, "stop"], timeout=60)


def jobs_in(state: str) -> list[str]:
    found = subprocess.run(
        ["squeue", "-h", "-r", "-t", state, "-o", "%i"], capture_output=True, text=True
    )
    return found.stdout.split()


def restarts(job: str) -> int:
    """How often Slurm has started a job again."""
    found = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return max((int(n) for n in re.findall(r"Restarts=(\d+)", found.stdout)), default=0)


@pytest.mark.slow
def test_slurm_runs_a_study_through_scancel_and_a_restarted_controller(
    cluster: Path, tmp_path: Path
) -> None:
    script = HERE / "slurm" / "start.sh"
    study = start_study(tmp_path, 6, 8.0, "slurm")
    try:
        wait_for(lambda: len(list(tmp_path.glob("units/*/started"))) == 2)
        first, second = sorted(jobs_in("R"))[:2]
        # 1. preempted (USR2 is what Slurm sends before a time limit): requeued under its own id.
        # 2. cancelled outright: the study submits it again.
        # scancel goes on trying when the job is gone before it has looked: not waited for.
        cancels = [
            subprocess.Popen(["scancel", *how], stderr=subprocess.DEVNULL)
            for how in (["--signal=USR2", first], [second])
        ]
        wait_for(lambda: restarts(first) == 1 and second not in jobs_in("R"))
        for cancel in cancels:
            cancel.kill()
            cancel.wait()
        # 3. the controller goes away and comes back
        subprocess.run([script, cluster, "stop-controller"], check=True)
        time.sleep(3)
        subprocess.run([script, cluster, "restart"], check=True)
        # Slurm holds a requeued job back for two minutes: here it is let go at once.
        wait_for(lambda: first in jobs_in("PD"))
        subprocess.run(["scontrol", "update", f"JobId={first}", "StartTime=now"], check=True)
    finally:  # 4. the study itself is killed; the next one takes over what is queued
        study.kill()
        study.wait()
    last = run_all(
        trivial_units(6, tmp_path, 8.0), tmp_path, engine="slurm", at_once=4,
        slurm={"poll_s": 0.5},
    )  # fmt: skip
    assert last.count("done") == 6, lines_of(last)
    assert len(results(tmp_path)) == 6
    computed = [p.read_text().count("x") for p in tmp_path.glob("units/*/computed")]
    started = [p.read_text().count("x") for p in tmp_path.glob("units/*/started")]
    assert computed == [1] * 6, (computed, started)
    assert sum(started) >= 8, f"nothing was interrupted: {started}"


# -- results -------------------------------------------------------------------------------------


def made_study(out: Path, shift: float = 0.0, cases: int = 6, fail: bool = False) -> None:
    """Units with made results: setting b is 0.2 mm worse than a in every case."""
    rng = np.random.default_rng(1)
    units = []
    for c in range(cases):
        for s, worse in (("a", 0.0), ("b", 0.2)):
            key = f"{s}{c}"
            units.append({"key": key, "case": f"case {c}", "setting": s, "repeat": 0})
            folder = out / "units" / key
            folder.mkdir(parents=True)
            lost = fail and c == 0 and s == "a"
            status = {"state": "done", "seconds": {"fit": 60.0}}
            if lost:
                status = {"state": "failed", "step": "fit", "sentence": "no parallax <x>"}
            (folder / "status.json").write_text(json.dumps(status))
            error = 0.3 + 0.02 * c + worse + shift
            rows = []
            for name, length in (("width", 20.0), ("height", 30.0)):
                for observer in "AB":
                    d = 0.1 + worse + 0.05 * rng.standard_normal()
                    rows.append(
                        dict(name=name, kind="point-to-point", observer=observer, repeat="0",
                             ct_mm=f"{length}", recon_mm=f"{length + d:.4f}",
                             difference_mm=f"{d:.4f}", low_mm=f"{length + d - 0.5:.4f}",
                             high_mm=f"{length + d + 0.5:.4f}", status="ok", held_out="true")
                    )  # fmt: skip
            scaled = dict(rows[0], kind=f"point-to-point{CT_SCALE}", difference_mm="9.0")
            result = {"fit": {"status": "converged", "rounds": 3},
                      "depth": {"mae": error, "p95": 2 * error, "in95": None},
                      "measurements": [*rows, scaled]}  # fmt: skip
            if not lost:
                (folder / "result.json").write_text(json.dumps(result))
    plan = {"name": "made", "title": "Made", "baseline": "a", "units": units}
    (out / "study.json").write_text(json.dumps(plan))


def test_the_mark_of_ct_scale_is_the_one_that_evaluate_writes() -> None:
    from endorecon.evaluate import distances

    assert CT_SCALE == distances.CT_SCALE


def test_a_shift_common_to_all_cases_is_found_by_the_paired_test(tmp_path: Path) -> None:
    made_study(tmp_path)
    found = {(s.setting, s.metric): s for s in summaries(collect(tmp_path))}
    b = found["b", "depth MAE"]
    assert b.mean == pytest.approx(0.55) and found["a", "depth MAE"].mean == pytest.approx(0.35)
    assert b.against["mean"] == pytest.approx(0.2)
    assert b.against["low"] == pytest.approx(0.2) and b.against["p"] == pytest.approx(2 / 64)
    assert found["a", "distance error"].mean < 0.2  # the 9 mm of the CT-scale row is left out


def test_the_sign_flip_test_gives_few_false_alarms() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        noise = rng.standard_normal(8)
        hits += paired({str(k): x for k, x in enumerate(noise)}, dict.fromkeys("01234567", 0.0))[
            "p"
        ] < 0.05  # fmt: skip
    assert hits <= 20


def test_the_clinical_table_counts_a_case_once_and_gives_verdicts(tmp_path: Path) -> None:
    made_study(tmp_path)
    rows = clinical(collect(tmp_path), "b")
    assert [r.name for r in rows] == ["width", "height", "all distances"]
    assert all(r.cases == 6 for r in rows)
    assert rows[2].difference == pytest.approx(0.3, abs=0.05)
    assert [ok for _, _, ok in rows[2].verdicts] == [True, True, True]
    assert rows[0].inside == 1.0 and rows[0].ct == 20.0


def test_the_papers_table_is_printed_with_its_verdicts(tmp_path: Path) -> None:
    made_study(tmp_path)
    _, lines = verdict(tmp_path, None)
    width = next(x for x in lines if x.startswith("width"))
    # distance, cases, measures (6 cases x 2 observers), CT, reconstruction
    assert width.split()[:4] == ["width", "6", "12/12", "20.00"] and width.count("yes") == 3
    assert sum(x.startswith("all distances") for x in lines) == 2  # one a setting


def test_a_distance_whose_landmarks_gave_the_scale_is_named_and_does_not_count(
    tmp_path: Path,
) -> None:
    made_study(tmp_path, cases=3)
    for file in tmp_path.glob("units/*/result.json"):
        found = json.loads(file.read_text())
        for m in found["measurements"]:
            m["held_out"] = "false" if m["name"] == "width" else "true"
        file.write_text(json.dumps(found))
    found = collect(tmp_path)
    assert [r.name for r in clinical(found, "a")] == ["height", "all distances"]
    assert "not measured: width in 3 of 3 cases (not held out" in "\n".join(
        lines_of_distances(found)
    )


def test_an_estimate_rounds_up_to_whole_turns(tmp_path: Path) -> None:
    study = study_in(tmp_path, STUDY + "unit: {minutes: 30}\n")
    hours = [estimate(study, tmp_path / "out", n).hours for n in (1, 5, 18, 500)]
    assert hours == [9.0, 2.0, 0.5, 0.5]


def test_the_page_puts_failures_first_and_fetches_nothing(tmp_path: Path) -> None:
    made_study(tmp_path, fail=True)
    results_ = collect(tmp_path)
    write_report(results_, tmp_path)
    html = (tmp_path / "study.html").read_text()
    assert html.index("no parallax &lt;x&gt;") < html.index("Clinical distances")
    assert "Not for clinical use" in html and not re.search(r'(src|href)="https?:', html)
    assert html.count("data:image/png;base64,") >= 5
    tex = (tmp_path / "study.tex").read_text()
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") >= 4


def test_the_long_table_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    for name in ("x", "y"):
        made_study(tmp_path / name)
        write_csv(collect(tmp_path / name), tmp_path / f"{name}.csv")
    text = (tmp_path / "x.csv").read_text()
    assert text == (tmp_path / "y.csv").read_text()
    assert "seconds" not in text and str(tmp_path) not in text


def test_the_gate_closes_for_a_loss_above_the_noise_and_for_new_failures(tmp_path: Path) -> None:
    for name, shift, fail in (("old", 0.0, False), ("worse", 0.05, False), ("lost", 0.0, True)):
        made_study(tmp_path / name, shift, fail=fail)
    old = collect(tmp_path / "old")
    assert regressions(old, old) == []
    assert any("depth MAE rose" in s for s in regressions(collect(tmp_path / "worse"), old))
    assert "failed: no parallax" in regressions(collect(tmp_path / "lost"), old)[0]
    assert regressions(old, collect(tmp_path / "worse")) == []
    assert verdict(tmp_path / "worse", tmp_path / "old")[0] == 5
    assert verdict(tmp_path / "old", tmp_path / "worse")[0] == 0


def test_a_study_in_which_nothing_was_done_ends_with_the_code_of_its_first_failure(
    tmp_path: Path,
) -> None:
    made_study(tmp_path)
    for k, file in enumerate(sorted(tmp_path.glob("units/*/status.json"))):
        assert verdict(tmp_path, None)[0] == 0, k  # while one is done
        file.write_text(json.dumps({"state": "failed", "step": "fit", "exit_code": 4}))
    assert verdict(tmp_path, None)[0] == 4


@pytest.mark.slow
def test_dry_run_lists_the_work_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-m", "endorecon.cli", "validate", STUDIES / "smoke.yaml", "--out", out,
         "--dry-run"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "1 units, 1 to do" in found.stdout and not out.exists()
