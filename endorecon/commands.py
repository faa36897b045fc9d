"""The commands beside `fit`: each parses its flags and calls the room that does the work."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

from endorecon.config import Config, EvaluateConfig
from endorecon.errors import InputRefused, UsageError


@dataclasses.dataclass(frozen=True)
class Phantom:
    """Make a phantom: a video, its CT, landmarks, simulated clicks and exact truth."""

    out: tyro.conf.Positional[Path]
    """Folder to write."""
    seed: int = 0
    """Another seed, another anatomy, flight and noise."""
    family: Literal["sinus", "colon"] = "sinus"
    """Kind of anatomy."""
    frames: int = 100
    """Frames of the video."""
    size: str = "640x480"
    """Size of the video, WIDTHxHEIGHT."""
    level: Literal["easy", "default", "hard"] = "default"
    """Texture and noise."""
    ct: Path | None = None
    """Take the anatomy from this CT."""
    seed_point: tuple[float, float, float] | None = None
    """A point in the airway of that CT, LPS mm."""
    spoil: tuple[str, ...] = ()
    """Spoilers with strengths, NAME=STRENGTH in 0..1: smoke, blood, instrument, breathing, dropped,
    overlay, interlace, highlights, exposure."""


def phantom(args: list[str]) -> int:
    """endorecon phantom OUT ..."""
    p = tyro.cli(Phantom, args=args, prog="endorecon phantom")
    for _ in progress(make(p)):
        pass
    print(f"phantom written: {p.out}")
    return 0


def make(p: Phantom) -> Any:
    """The events of a phantom being made. Raises UsageError for a size or spoiler that is none."""
    from endorecon.phantom.write import make_phantom

    try:
        width, height = (int(x) for x in p.size.lower().split("x"))
    except ValueError as error:
        raise UsageError(f"The size {p.size!r} is not WIDTHxHEIGHT", "write 640x480") from error
    spoil: dict[str, float] = {}
    for item in p.spoil:
        name, _, strength = item.partition("=")
        try:
            spoil[name] = float(strength or 1.0)
        except ValueError as error:
            raise UsageError(
                f"The spoiler {item!r} is not NAME=STRENGTH", "write smoke=0.5"
            ) from error
    return make_phantom(
        p.out, seed=p.seed, family=p.family, frames=p.frames, width=width, height=height,
        level=p.level, ct=p.ct, seed_point=p.seed_point, spoil=spoil,
    )  # fmt: skip


def progress(events: Any) -> Any:
    """Events with `stage`, `done`, `total`, shown as a bar on a terminal, as few lines in a log."""
    if not sys.stdout.isatty():
        last = ""
        for event in events:
            if event.stage != last:
                print(f"  {event.stage} ...", flush=True)
            last = event.stage
            yield event
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("", total=None)
        for event in events:
            bar.update(task, description=event.stage, completed=event.done, total=event.total)
            yield event


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Register a run to CT, measure clinical distances, write the report."""

    run: tyro.conf.Positional[Path]
    """Run folder of `endorecon fit`."""
    ct: Path
    """DICOM folder, NIfTI, NRRD, MHD, or a mesh."""
    ct_landmarks: Path | None = None
    """Landmarks on the CT (.mrk.json or .fcsv)."""
    landmarks: Path | None = None
    """The same landmarks on the reconstruction (.mrk.json)."""
    clicks: Path | None = None
    """Or as clicks in video frames (clicks.csv)."""
    distances: Path | None = None
    """Distances to measure (distances.yaml)."""
    series: str | None = None
    """Series UID, when the DICOM folder holds several."""
    metric_poses: Path | None = None
    """The camera's path in mm (tracker, robot; COLMAP folder, JSON or TUM): a source of scale."""
    hold_out: str = "pairs"
    """pairs: each distance is scaled by a fit that has not seen its landmarks; none; or names."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def evaluate(args: list[str]) -> int:
    """endorecon evaluate RUN --ct PATH ..."""
    from endorecon.evaluate.run import evaluate_run

    e = tyro.cli(Evaluate, args=args, prog="endorecon evaluate")
    held: Any = e.hold_out
    if held not in ("pairs", "none"):
        held = tuple(name.strip() for name in held.split(","))
    show(
        evaluate_run(
            e.run, e.ct, e.ct_landmarks, e.landmarks, e.clicks, e.distances, e.evaluate, held,
            e.series, e.metric_poses,
        )
    )  # fmt: skip
    return 0


def show(found: Any) -> None:
    """The table of an evaluation, warnings first."""
    for warning in found.warnings:
        print(f"warning: {warning}")
    print(found.summary)
    print(found.scale_text)
    rows = [found.header, *found.rows]
    widths = [max(len(str(r[k])) for r in rows) for k in range(len(found.header))]
    for row in rows:
        print("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    print(f"report: {found.html}" + (f" and {found.pdf}" if found.pdf else ""))


@dataclasses.dataclass(frozen=True)
class Demo:
    """Make a phantom, reconstruct it from its video alone, hold it against its CT, report."""

    out: tyro.conf.Positional[Path] = Path("out/demo")
    """Folder: OUT/phantom and OUT/run."""
    quick: bool = False
    """A smoke run of a few minutes: fewer and smaller frames."""
    seed: int = 0
    """Seed of the phantom and of the field."""


def demo(args: list[str]) -> int:
    """endorecon demo [OUT] ..."""
    d = tyro.cli(Demo, args=args, prog="endorecon demo")
    from endorecon.cli import config_of
    from endorecon.config import with_differences
    from endorecon.errors import EndoreconError
    from endorecon.faces import draw
    from endorecon.field.device import choose_device
    from endorecon.pipeline import Job, fit

    folder = d.out / "phantom"
    frames, size = (30, "320x240") if d.quick else (72, "640x480")
    wanted = f"seed={d.seed} frames={frames} size={size}\n"
    done = folder / ".demo"
    if not (done.is_file() and done.read_text() == wanted):
        print(f"making a phantom ({frames} frames, {size}) ...", flush=True)
        for _ in progress(make(Phantom(folder, seed=d.seed, frames=frames, size=size))):
            pass
        done.write_text(wanted)
    device = choose_device("auto")
    word = "default" if device == "cuda" else "cpu"
    config: Config = config_of(word)
    if d.quick:
        config = with_differences(
            config,
            {
                "field": {"sisters": 1, "steps_first": 200, "steps_round": 80},
                "loop": {"max_rounds": 2},
            },
        )
    run = d.out / "run"
    job = Job(
        folder / "video.mp4", run, config, folder / "calibration.yaml", device=device, seed=d.seed,
        preset=word,
    )  # fmt: skip
    draw(word, device, fit(job))
    from endorecon.evaluate.run import evaluate_run

    try:
        found = evaluate_run(
            run, folder / "ct", folder / "landmarks.mrk.json", None, folder / "clicks.csv",
            folder / "distances.yaml", config.evaluate,
        )  # fmt: skip
    except EndoreconError as error:
        print(f"the surface stands, but the evaluation against CT does not: {error}")
        print(f"surface: {run / 'surface.ply'}")
        return error.exit_code
    show(found)
    print(f"surface: {run / 'surface.ply'}   look at it: endorecon view {run}")
    return 0


@dataclasses.dataclass(frozen=True)
class View:
    """Look at a run and measure in it. Not for clinical use."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    ct: Path | None = None
    """CT to show beside it (needs an evaluation for the registration)."""
    web: bool = False
    """In a browser, bound to 127.0.0.1."""
    follow: bool = False
    """Show a run while it grows."""
    screenshot: Path | None = None
    """Write a picture and leave."""
    turntable: Path | None = None
    """Write a turning video and leave."""
    host: str = "127.0.0.1"
    """Address of the web view; another than loopback demands a token."""
    port: int = 0
    """Port of the web view; 0 takes a free one."""
    token: str | None = None
    """Secret of the web view."""
    colour: str = "photo"
    """Colour of the surface: photo, plain, sigma, status, distance, depth."""
    frame: int | None = None
    """Look through the endoscope at this frame."""
    compare: Path | None = None
    """Another run beside it."""


def view(args: list[str]) -> int:
    """endorecon view RUN ..."""
    v = tyro.cli(View, args=args, prog="endorecon view")
    from endorecon.viewer.app import view as open_viewer

    open_viewer(
        v.run, v.ct, v.web, v.follow, v.screenshot, v.turntable, v.host, v.port, v.token,
        v.colour, v.frame, v.compare, say=print,
    )  # fmt: skip
    return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the surface (ply, stl, obj, glb, slicer) or the cameras (nerfstudio, colmap, tum)."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    out: Path
    """File or folder to write."""
    format: Literal["ply", "stl", "obj", "glb", "nerfstudio", "colmap", "tum", "slicer"] = "ply"
    """What to write."""


def export(args: list[str]) -> int:
    """endorecon export RUN --format ... --out ..."""
    e = tyro.cli(Export, args=args, prog="endorecon export")
    from endorecon.export import export_run

    export_run(e.run, e.format, e.out)
    print(f"written: {e.out}")
    return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Say whether a video is fit for reconstruction, and what to film next time."""

    video: tyro.conf.Positional[Path]
    """A video or a folder of images."""
    camera: Path | None = None
    """Calibration, if there is one."""


def check(args: list[str]) -> int:
    """endorecon check VIDEO"""
    c = tyro.cli(Check, args=args, prog="endorecon check")
    from endorecon.io.calibration import read_camera
    from endorecon.io.video import read_frames

    if not c.video.exists():
        raise InputRefused("The input does not exist", "check the path", c.video)
    camera = None if c.camera is None else read_camera(c.camera)
    frames = read_frames(c.video, Config().video, camera)
    for sentence in (*frames.summary, *frames.warnings):
        print(sentence)
    return 0


@dataclasses.dataclass(frozen=True)
class Validate:
    """Run a study: many cases, many settings; the same command again goes on with it."""

    study: tyro.conf.Positional[Path | None] = None
    """The study file (YAML)."""
    out: Path | None = None
    """Folder of the study; runs/NAME when not given."""
    engine: Literal["local", "slurm"] = "local"
    """This machine, or a Slurm cluster."""
    jobs: int = 0
    """Units at a time; 0 takes one for each GPU or core set (Slurm: 256)."""
    dry_run: bool = False
    """List the work with an estimate of time and disk, and stop."""
    retry: bool = False
    """Also start again what the same input made fail."""
    status: Path | None = None
    """Say where the study in this folder stands, and stop."""
    compare: Path | None = None
    """Folder of an earlier study: exit code 5 when accuracy fell by more than the noise."""


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM (kill, a shutdown, a batch system) does what Ctrl-C does; `main` knows the signal."""

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def validate(args: list[str]) -> int:
    """endorecon validate STUDY.yaml ..., or endorecon validate --status DIR"""
    from endorecon import batch_table as table

    v = tyro.cli(Validate, args=args, prog="endorecon validate")
    if v.status is not None:
        from endorecon.batch import status_of

        print("\n".join(table.lines_of(status_of(v.status))))
        return 0
    if v.study is None:
        raise UsageError("validate takes STUDY.yaml, or --status DIR", "give one of them")
    from endorecon.batch import estimate, run_study, units_at_once
    from endorecon.batch_study import read_study
    from endorecon.cli import preset_differences
    from endorecon.faces import NOTICE

    study = read_study(v.study, preset_differences)
    out = v.out or Path("runs") / study.name
    if v.dry_run:
        at_once = v.jobs or units_at_once(v.engine, study.resources)
        print("\n".join(table.lines_of_estimate(estimate(study, out, at_once))))
        return 0
    print(f"endorecon validate, study {study.name}, {v.engine} -> {out}. {NOTICE}", flush=True)
    try:
        with (
            _told_to_end(),
            contextlib.closing(run_study(study, out, v.engine, v.jobs, v.retry)) as snapshots,
        ):
            for line in table.drawn(snapshots):
                print(line, flush=True)
    except KeyboardInterrupt:  # by now what ran here has been ended
        print(table.line_of_the_interrupted(out, v.engine), file=sys.stderr)
        raise
    code, lines = table.verdict(out, v.compare)
    print("\n".join(lines))
    return code


def doctor(args: list[str]) -> int:
    """endorecon doctor"""
    if args:
        raise UsageError("doctor takes no flags", "run `endorecon doctor`")
    from endorecon.doctor import findings

    worst = 0
    for good, sentence in findings():
        print(("ok    " if good else "mend  ") + sentence)
        worst = worst or (0 if good else 7)
    return worst
