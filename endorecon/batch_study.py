"""The study file: cases x settings x repeats -> units of work, checked before anything starts.

    name: cranial-phantom
    cases:                                  # lists inside a case make a product
      - phantom: {family: sinus, seed: [0, 1, 2], frames: 100, size: 640x480, level: default}
      - dataset: PATH                       # C3VD, SCARED, Hamlyn, EndoNeRF, EndoSLAM, SERV-CT
        poses: given                        # or estimated: the data set's poses only score then
      - video: PATH                         # own video, with its CT
        ct: PATH                            # and camera, ct_landmarks, clicks, landmarks, distances
    settings:                               # lists inside `set` make a product
      - {name: cpu, preset: cpu, set: {loop.max_rounds: [1, 4]}}
    repeats: 1                              # fits of each, with seeds 0, 1, ...
    baseline: cpu                           # what the other settings are tested against
    unit: {device: cpu, cores: 2, hours: 4, memory_gb: 8, minutes: 20, disk_mb: 300}
    slurm: {partition: gpu}                 # passed to sbatch

Paths are relative to the study file; a `$NAME` in them is an environment variable. A unit's key is
the SHA-256 of the content of its case and of its resolved config: the same work has the same key
in every study. A study file holds names and numbers only: nothing in it is executed.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from endorecon.config import Config, as_dict, with_differences
from endorecon.errors import EndoreconError, InputRefused, UsageError

KINDS = ("phantom", "dataset", "video")
_PHANTOM: dict[str, Any] = {
    "family": "sinus", "seed": 0, "frames": 100, "size": "640x480", "level": "default",
    "spoil": {}, "ct": None, "seed_point": None,
}  # fmt: skip
_FILES = ("camera", "ct", "ct_landmarks", "landmarks", "clicks", "distances")
_VIDEO = (*_FILES, "start", "end", "name")
_SETTING = ("name", "preset", "set")
_TOP = ("name", "title", "cases", "settings", "repeats", "baseline", "unit", "slurm", "metric")
_WHOLE = 16 << 20  # larger files are hashed by size, first and last part


@dataclass(frozen=True)
class Resources:
    """What one unit takes; `minutes` and `disk_mb` are the estimate that --dry-run shows."""

    device: str = "cpu"
    cores: int = 2
    gpus: int = 0
    hours: float = 24.0
    memory_gb: float = 8.0
    minutes: float = 20.0
    disk_mb: float = 300.0
    retries: int = 2  # a unit whose process died is started again this often
    keep: str = "all"  # or "results": what only resuming and looking need goes when a unit is done


@dataclass(frozen=True)
class Case:
    """One thing to reconstruct. `what` is its plain description, `key` the hash of its content."""

    name: str
    kind: str
    key: str
    what: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One way to reconstruct: a resolved config."""

    name: str
    preset: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One case x one setting x one repeat. `steps`: (name, required, command line)."""

    key: str
    case: str
    setting: str
    repeat: int
    steps: tuple[tuple[str, bool, tuple[str, ...]], ...] = ()
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Study:
    """A checked study."""

    name: str
    title: str
    cases: tuple[Case, ...]
    settings: tuple[Setting, ...]
    repeats: int
    baseline: str
    resources: Resources
    slurm: dict[str, Any]

    def key(self, case: Case, setting: Setting, repeat: int) -> str:
        """The content hash of a unit."""
        return digest([case.key, setting.config, repeat, self.resources.device])[:16]


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_study(path: Path, presets: Any) -> Study:
    """Read and check a study file. `presets(word)` gives a preset's differences.

    Raises UsageError (keys, values, names) or InputRefused (a case's files are not there).
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise InputRefused("The study file does not exist", "check the path", path)
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("The study is not plain YAML", "mend it", path) from error
    try:
        return _study(found, path.resolve().parent, presets, path.stem)
    except (UsageError, InputRefused) as error:
        if error.path is not None:
            raise
        raise type(error)(error.what, error.remedy, path) from error


def _study(found: Any, folder: Path, presets: Any, stem: str) -> Study:
    if not isinstance(found, dict):
        raise UsageError("A study holds `cases:` and `settings:`", "see docs/batch.md")
    _known(found, _TOP, "the study")
    resources = _resources(found.get("unit") or {})
    cases: list[Case] = []
    for item in _list(found, "cases"):
        cases += _cases(item, folder)
    settings: list[Setting] = []
    for item in found.get("settings") or [{"name": "default", "preset": "default"}]:
        settings += _settings(item, presets)
    for what, names in (
        ("cases", [c.name for c in cases]),
        ("settings", [s.name for s in settings]),
    ):
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise UsageError(f"Two {what} have the name {twice[0]!r}", "give each its own `name`")
    repeats = found.get("repeats", 1)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise UsageError(f"repeats must be a whole number from 1, got {repeats!r}", "mend it")
    baseline = str(found.get("baseline") or settings[0].name)
    if baseline not in [s.name for s in settings]:
        listed = ", ".join(s.name for s in settings)
        raise UsageError(f"The baseline {baseline!r} is no setting", f"choose one of {listed}")
    slurm = found.get("slurm") or {}
    if not isinstance(slurm, dict):
        raise UsageError("`slurm:` holds names and values for sbatch", "see docs/batch.md")
    name = str(found.get("name") or stem)
    title = str(found.get("title") or name)
    return Study(name, title, tuple(cases), tuple(settings), repeats, baseline, resources, slurm)


def _known(found: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict):
        raise UsageError(f"In {where}: {found!r} is not a mapping of names to values", "mend it")
    for key in found:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise UsageError(f"Unknown key {key!r} in {where}", hint)


def _list(found: dict[str, Any], key: str) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list) or not value:
        raise UsageError(f"`{key}:` must be a list with at least one entry", "see docs/batch.md")
    return value


def _resources(found: Any) -> Resources:
    default = asdict(Resources())
    _known(found, tuple(default), "unit")
    for key, value in found.items():
        wanted = type(default[key])
        good = isinstance(value, (int, float) if wanted is float else wanted)
        if not good or isinstance(value, bool) or (wanted is not str and value < 0):
            raise UsageError(f"unit.{key} must be a {wanted.__name__}, got {value!r}", "mend it")
    resources = Resources(**found)
    if resources.device not in ("cpu", "cuda", "auto"):
        raise UsageError(f"unit.device {resources.device!r}", "choose cpu, cuda or auto")
    if resources.keep not in ("all", "results"):
        raise UsageError(f"unit.keep {resources.keep!r}", "choose all or results")
    return resources


# -- cases ---------------------------------------------------------------------------------------


def _product(found: dict[str, Any], keep: tuple[str, ...] = ()) -> list[tuple[dict[str, Any], str]]:
    """All combinations of listed values, each with a name of what varies."""
    lists = {k: v for k, v in found.items() if isinstance(v, list) and k not in keep}
    fixed = {k: v for k, v in found.items() if k not in lists}
    out = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        out.append((fixed | chosen, " ".join(f"{k.split('.')[-1]}={v}" for k, v in chosen.items())))
    return out


def _cases(item: Any, folder: Path) -> list[Case]:
    kind = next((k for k in KINDS if isinstance(item, dict) and k in item), None)
    if kind is None:
        raise UsageError(f"A case is one of {', '.join(KINDS)}, not {item!r}", "mend it")
    if kind == "phantom":
        _known(item, ("phantom", "name"), "a case")
        return _phantoms(item["phantom"] or {}, str(item.get("name", "")), folder)
    _known(item, (kind, *_VIDEO, "poses") if kind == "dataset" else (kind, *_VIDEO), "a case")
    source = _path(item[kind], folder)
    what: dict[str, Any] = {"source": str(source)}
    content: dict[str, Any] = {"source": content_hash(source)}
    for name in (n for n in _FILES if item.get(n) is not None):
        file = _path(item[name], folder)
        what[name], content[name] = str(file), content_hash(file)
    for name in ("start", "end"):
        if item.get(name) is not None:
            what[name] = content[name] = float(item[name])
    if what.get("clicks") and what.get("landmarks"):
        raise UsageError("A case has both clicks and landmarks", "give one of them")
    if kind == "dataset":
        what["poses"] = content["poses"] = str(item.get("poses", "given"))
        if what["poses"] not in ("given", "estimated"):
            raise UsageError(f"poses: {what['poses']!r} in a case", "say given or estimated")
    name = str(item.get("name") or source.stem)
    return [Case(name, kind, digest([kind, content])[:16], what)]


def _phantoms(found: Any, name: str, folder: Path) -> list[Case]:
    from endorecon.phantom.spoilers import check
    from endorecon.phantom.write import LEVELS

    _known(found, tuple(_PHANTOM), "a phantom")
    if isinstance(found.get("ct"), str):
        found = {**found, "ct": str(_path(found["ct"], folder))}
    out = []
    for given, varied in _product(found, ("seed_point",)):
        what = {**_PHANTOM, **given}
        if what["level"] not in LEVELS or what["family"] not in ("sinus", "colon"):
            raise UsageError(
                f"No phantom of family {what['family']!r} and level {what['level']!r}",
                f"families sinus and colon, levels {', '.join(LEVELS)}",
            )
        size = str(what["size"]).lower().split("x")
        if len(size) != 2 or not all(n.isdigit() for n in size):
            raise UsageError(f"The size {what['size']!r} is not WIDTHxHEIGHT", "write 640x480")
        for key, least in (("seed", 0), ("frames", 2)):
            if not isinstance(what[key], int) or what[key] < least:
                raise UsageError(f"phantom {key} {what[key]!r}", f"a whole number from {least}")
        check(what["spoil"])
        content = {**what, "config": as_dict(Config())["phantom"]}
        if what["ct"]:
            content["ct"] = content_hash(Path(what["ct"]))
        label = name or f"{what['family']} {what['level']}"
        varied = " ".join(w for w in varied.split() if not w.startswith(("family=", "level=")))
        out.append(
            Case(f"{label} {varied}".strip(), "phantom", digest(["phantom", content])[:16], what)
        )
    return out


def _path(word: Any, folder: Path) -> Path:
    text = os.path.expandvars(str(word))
    if "$" in text:
        name = text.split("$")[1].split("/")[0]
        raise InputRefused(f"The environment variable {name} is not set", "set it")
    path = folder / Path(text).expanduser()
    if not path.exists():
        raise InputRefused("A file of the study does not exist", "check the path", path)
    return path


def content_hash(path: Path) -> str:
    """SHA-256 of a file or of a folder's tree; of files over 16 MB the size and both ends."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.relative_to(path) if path.is_dir() else ''}\0{size}\0".encode())
        with open(file, "rb") as stream:
            if size <= _WHOLE:
                found.update(stream.read())
            else:
                found.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                found.update(stream.read())
    return found.hexdigest()


# -- settings ------------------------------------------------------------------------------------


def _settings(item: Any, presets: Any) -> list[Setting]:
    _known(item, _SETTING, "a setting")
    preset = str(item.get("preset") or "default")
    wanted = item.get("set") or {}
    if not isinstance(wanted, dict):
        raise UsageError("`set:` holds section.key: value", "mend it")
    try:
        base: Config = with_differences(Config(), presets(preset))
        out = []
        for flat, varied in _product(_flat(wanted)):
            config = with_differences(base, _nested(flat))
            name = f"{item.get('name') or preset} {varied}".strip()
            out.append(Setting(name, preset, as_dict(config)))
        return out
    except EndoreconError:
        raise
    except (KeyError, TypeError) as error:
        raise UsageError(f"Setting {item.get('name')}: {error.args[0]}", "mend it") from error


def _flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in found.items():
        out.update(
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return out


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        place = out
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return out
