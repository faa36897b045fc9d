"""The `endorecon` command: parses, draws events, turns faults into one sentence and an exit code.

It prints, and so do commands.py and faces.py, and no other module. Heavy parts are imported by the
command that needs them, so that `--help` answers at once. Exit codes: 0 ok, 2 usage, 3 input
refused, 4 not enough information, 5 diverged, 6 resources, 7 environment, 70 bug; 130 and 143 when
told to stop (Ctrl-C, SIGTERM: the same command resumes).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from endorecon.config import Config, with_differences
from endorecon.errors import BUG_EXIT_CODE, EndoreconError, UsageError
from endorecon.faces import NOTICE, draw

Device = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Turn an endoscope video into a measured surface; the same command again resumes it.

    --poses PATH gives known poses in place of structure from motion: a COLMAP model, a
    transforms.json or a TUM trajectory.
    """

    input: tyro.conf.Positional[Path]
    """A video, a folder of images, or a data set folder."""
    out: Path | None = None
    """Run folder; runs/<stem of INPUT> when not given."""
    start: float | None = None
    """Begin at this second of the video."""
    end: float | None = None
    """Stop at this second of the video."""
    config: str = ""
    """Preset (default, cpu, accurate) or a YAML file; chosen by the device when not given."""
    camera: Path | None = None
    """Calibration: OpenCV YAML or JSON, ROS camera_info, or our own."""
    device: Device = "auto"
    """Where the field is trained."""
    seed: int = 0
    """Same seed, same numbers (on a CPU with the same number of threads)."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def preset_differences(word: str) -> dict[str, Any]:
    """The differences that a preset name or a YAML file holds. Raises UsageError."""
    import yaml

    folder = Path(__file__).resolve().parent / "configs"
    folder = folder if folder.is_dir() else folder.parent.parent / "configs"
    file = folder / f"{word}.yaml"
    if not file.is_file():
        file = Path(word)
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UsageError(f"There is no preset {word!r}", f"choose one of {known}, or give a file")
    try:
        found = yaml.safe_load(file.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("The preset is not plain YAML", "mend it", file) from error
    if not isinstance(found, dict):
        raise UsageError("A preset holds sections such as `loop:`", "mend it", file)
    return found


def config_of(word: str) -> Config:
    """Defaults with a preset's differences. Raises UsageError that names the nearest right key."""
    try:
        config: Config = with_differences(Config(), preset_differences(word))
    except (KeyError, TypeError) as error:
        raise UsageError(f"Preset {word}: {error.args[0]}", "mend it") from error
    return config


def _value_of(args: list[str], flag: str) -> str | None:
    """The value of a flag before tyro parses: the preset decides tyro's defaults."""
    for k, a in enumerate(args):
        if a == flag and k + 1 < len(args):
            return args[k + 1]
        if a.startswith(flag + "="):
            return a.split("=", 1)[1]
    return None


def _without(args: list[str], flag: str) -> list[str]:
    """The arguments less a flag and its value."""
    out, skip = [], False
    for a in args:
        if skip or a.startswith(flag + "="):
            skip = False
        elif a == flag:
            skip = True
        else:
            out.append(a)
    return out


def fit(args: list[str]) -> int:
    """endorecon fit INPUT ..."""
    # `--poses PATH` shares its word with the section `--poses.key`, which tyro cannot express.
    poses = _value_of(args, "--poses")
    args = _without(args, "--poses")
    from endorecon.field.device import choose_device

    asked = _value_of(args, "--device") or "auto"
    helping = "--help" in args or "-h" in args
    device = "cpu" if helping else choose_device(asked if asked in ("cpu", "cuda") else "auto")  # type: ignore[arg-type]
    word = _value_of(args, "--config") or ("default" if device == "cuda" else "cpu")
    default = Fit(Path(), config=word, settings=config_of(word))
    default = dataclasses.replace(default, input=tyro.MISSING)
    parsed = tyro.cli(Fit, args=args, default=default, prog="endorecon fit")
    from endorecon.pipeline import Job, fit

    out = parsed.out or Path("runs") / parsed.input.stem
    given = None if poses is None else Path(poses)
    job = Job(
        parsed.input, out, parsed.settings, parsed.camera, given, parsed.start, parsed.end,
        device, parsed.seed, word,
    )  # fmt: skip
    draw(word, device, fit(job))
    return 0


READER_GONE = 141  # as a program that SIGPIPE ends: `endorecon doctor | head -1`
COMMANDS = {
    "fit": "turn an endoscope video into a measured surface",
    "evaluate": "register a run to CT, measure, report",
    "phantom": "make a phantom: video, CT and exact truth",
    "demo": "phantom, fit, evaluate and report in one go",
    "validate": "run a study of many cases and settings, here or on Slurm",
    "view": "look at a run, measure in it",
    "export": "write the surface or the poses in another format",
    "check": "say whether a video is fit for reconstruction",
    "doctor": "say what this machine lacks and how to mend it",
}


def run(name: str, args: list[str]) -> int:
    """Run a command of COMMANDS: `fit` is here, the others are functions of commands.py."""
    if name == "fit":
        return fit(args)
    from endorecon import commands

    code: int = getattr(commands, name)(args)
    return code


def _nobody_reads(probe: str = "") -> bool:
    """Whether standard output's reader has left; then nothing more is written to it.

    Where nothing waits to be written only a `probe` tells.
    """
    try:
        print(end=probe, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def usage() -> str:
    """The first page."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}s}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: endorecon COMMAND ...\n\nA measured 3D model of the anatomy from an ordinary "
        f"endoscope video. {NOTICE}\n\n{rows}\n\n`endorecon COMMAND --help` lists the flags. "
        "--debug shows a traceback when something fails."
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    code = _main(argv)
    # What is printed may wait in a buffer until here, and find its reader gone.
    return READER_GONE if _nobody_reads() else code


def _main(argv: list[str] | None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    # Spinning OpenMP threads cost more than they save; it must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from endorecon import __version__

        print(f"endorecon {__version__}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"endorecon: there is no command {args[0]!r}{hint}", file=sys.stderr)
        return UsageError.exit_code
    try:
        return run(args[0], args[1:])
    except EndoreconError as error:
        if debug:
            raise
        print(f"endorecon: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as end:
        print("endorecon: stopped; run the same command again to resume", file=sys.stderr)
        return 128 + (end.args[0] if end.args else signal.SIGINT)  # 130, or 143 for SIGTERM
    except MemoryError:
        print(
            "endorecon: the memory is used up; lower --video.max-width or --video.max-frames",
            file=sys.stderr,
        )
        return 6
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads("\n"):
            return READER_GONE
        if debug:
            raise
        from endorecon.io.atomic import as_resource_error

        if isinstance(error, OSError):
            known = as_resource_error(error, Path(str(error.filename or ".")))
            if isinstance(known, EndoreconError):
                print(f"endorecon: {known}", file=sys.stderr)
                return known.exit_code
        print(
            f"endorecon: this is a bug ({type(error).__name__}: {error}); "
            "run again with --debug and report what it prints",
            file=sys.stderr,
        )
        return BUG_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
