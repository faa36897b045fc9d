"""What a unit does, step by step: make the case, fit, evaluate, score.

`steps_of` turns a case and a setting into command lines of `endorecon` itself. The file is also the
program of the first and last steps (`python -m endorecon.batch_cases prepare|score|tidy UNIT`):
`prepare` makes the phantom or lays the data set out, once for all units of a case; `score` holds
the run against truth and writes result.json, which has no time and no path in it, so that the same
work gives the same bytes.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from endorecon.batch_study import Case, Resources, Setting, Study, Unit
from endorecon.batch_unit import locked, read_json
from endorecon.errors import EndoreconError
from endorecon.io import atomic

ME = "endorecon.batch_cases"
BULK = ("rounds", "sfm", "frames", "masks", "depth", "dataset")  # of a run; the surface stays
_FIT_KEYS = ("status", "unit", "frames_read", "frames_kept", "frames_posed", "rounds")


def python(module: str, *args: object) -> tuple[str, ...]:
    """A command line of this same Python."""
    return (sys.executable, "-m", module, *(str(a) for a in args))


def units_of(study: Study, out: Path) -> list[Unit]:
    """All units of a study with their steps; repeats and settings of one case stand together."""
    out = out.resolve()
    return [
        Unit(
            key := study.key(case, setting, repeat), case.name, setting.name, repeat,
            steps_of(case, setting, repeat, out / "units" / key, out, study.resources),
            study.resources,
        )
        for case in study.cases
        for setting in study.settings
        for repeat in range(study.repeats)
    ]  # fmt: skip


def steps_of(
    case: Case, setting: Setting, repeat: int, folder: Path, out: Path, resources: Resources
) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
    """(name, required, command) of each step."""
    what, place = case.what, out / "cases" / case.key
    given: dict[str, Any] = dict(what)
    if case.kind == "phantom":
        given = {
            "source": place / "video.mp4", "camera": place / "calibration.yaml",
            "ct": place / "ct", "ct_landmarks": place / "landmarks.mrk.json",
            "clicks": place / "clicks.csv", "distances": place / "distances.yaml",
        }  # fmt: skip
    elif case.kind == "dataset":
        given = {**what, "source": place / "images"}
        given["camera"] = what.get("camera") or place / "camera.yaml"
        given["poses"] = place / "poses.json" if what["poses"] == "given" else None
    run = folder / "run"
    fit = ["fit", given["source"], "--out", run, "--config", folder / "config.yaml"]
    fit += ["--device", resources.device, "--seed", repeat]
    for name in ("camera", "poses", "start", "end"):
        if given.get(name) is not None and not _absent(given[name], case, name):
            fit += [f"--{name}", given[name]]
    steps = [("prepare", True, python(ME, "prepare", folder))]
    steps.append(("fit", True, python("endorecon.cli", *fit)))
    if given.get("ct"):
        evaluate = ["evaluate", run, "--ct", given["ct"]]
        for name in ("ct_landmarks", "landmarks", "clicks", "distances"):
            if given.get(name):
                evaluate += [f"--{name.replace('_', '-')}", given[name]]
        for name, value in setting.config["evaluate"].items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                evaluate.append(f"--evaluate.{'' if value else 'no-'}{flag}")
            else:
                evaluate += [f"--evaluate.{flag}", value]
        steps.append(("evaluate", False, python("endorecon.cli", *evaluate)))
    steps.append(("score", True, python(ME, "score", folder)))
    if resources.keep == "results":
        steps.append(("tidy", False, python(ME, "tidy", folder)))
    return tuple(steps)


def _absent(file: Any, case: Case, name: str) -> bool:
    """True for what a data set of this kind does not have (known before it is laid out)."""
    if case.kind != "dataset" or case.what.get(name) or name not in ("camera", "poses"):
        return False
    from endorecon.io.datasets import open_dataset

    found = open_dataset(Path(case.what["source"]))
    return found is None or getattr(found, "camera" if name == "camera" else "poses") is None


# -- the first step ------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make the case of a unit, if nobody has; it appears by one rename."""
    plan = read_json(folder / "unit.json")
    case = plan["case_what"]
    place = Path(plan["case_folder"])
    with locked(place.parent / f".{place.name}.lock"):
        if place.is_dir():
            return
        fresh = place.with_name(f".{place.name}.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        if plan["case_kind"] == "phantom":
            _make_phantom(case, fresh)
        elif plan["case_kind"] == "dataset":
            from endorecon.io import datasets

            found = datasets.open_dataset(Path(case["source"]))
            if found is None:
                raise SystemExit("endorecon: this is no data set folder that I know")
            datasets.lay_out(found, fresh)
        os.rename(fresh, place)


def _make_phantom(what: dict[str, Any], out: Path) -> None:
    from endorecon.phantom.write import make_phantom

    width, height = (int(n) for n in str(what["size"]).lower().split("x"))
    for _ in make_phantom(
        out, seed=what["seed"], family=what["family"], frames=what["frames"], width=width,
        height=height, level=what["level"], spoil=dict(what["spoil"] or {}),
        ct=Path(what["ct"]) if what["ct"] else None,
        seed_point=tuple(what["seed_point"]) if what["seed_point"] else None,
    ):  # fmt: skip
        pass


# -- the last step -------------------------------------------------------------------------------


def score(folder: Path) -> None:
    """Write result.json: the fit, depth and poses against truth, measurements, surface."""
    plan = read_json(folder / "unit.json")
    run = folder / "run"
    info = read_json(run / "run.json")
    result: dict[str, Any] = {"fit": {k: info.get(k) for k in _FIT_KEYS}, "measurements": []}
    truth = _truth(plan)
    if truth is not None and (run / "depth").is_dir():
        from endorecon import batch_scoring
        from endorecon.io.rundir import RunDir

        errors = batch_scoring.score(RunDir(run), truth)
        result["depth"] = _plain(batch_scoring.figures(errors))
        if truth.world_from_camera is None:
            result["depth_scale"] = "depths"
        else:
            poses = batch_scoring.similarity(RunDir(run), truth)[1]
            result["poses"] = _plain({k: v for k, v in poses.items() if k != "scale"})
    table = run / "evaluation" / "measurements.csv"
    if table.is_file() and (folder / "steps" / "evaluate.done").exists():
        with open(table, encoding="utf-8") as file:
            result["measurements"] = list(csv.DictReader(file))
        facts = read_json(run / "evaluation" / "report.json")
        facts = facts.get("facts", facts)
        for name, value in (facts.get("surface") or {}).items():
            result.setdefault("surface", {})[name] = _plain(value)
    atomic.write_json(folder / "result.json", result)


def tidy(folder: Path) -> None:
    """Remove what a finished unit has no more use for: rounds, frames, depth maps, matching."""
    for name in BULK:
        shutil.rmtree(folder / "run" / name, ignore_errors=True)


def _truth(plan: dict[str, Any]) -> Any:
    if plan["case_kind"] == "phantom":
        from endorecon.phantom.truth import load_truth

        return load_truth(Path(plan["case_folder"]))
    if plan["case_kind"] == "dataset":
        from endorecon.io import datasets

        found = datasets.open_dataset(Path(plan["case_what"]["source"]))
        return None if found is None else datasets.truth_of(found)
    return None


def _plain(found: dict[str, Any]) -> dict[str, float | None]:
    """Numbers rounded to what they mean; None for those that are not."""
    return {
        k: round(float(v), 6) if math.isfinite(float(v)) else None
        for k, v in found.items()
        if isinstance(v, int | float)
    }


if __name__ == "__main__":
    try:
        {"prepare": prepare, "score": score, "tidy": tidy}[sys.argv[1]](Path(sys.argv[2]))
    except EndoreconError as error:
        sys.stderr.write(f"endorecon: {error}\n")
        sys.exit(error.exit_code)
