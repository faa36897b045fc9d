"""The corridor: video -> Frames -> Views -> rounds -> Surface -> run folder, resumable at any door.

`fit` is a generator of events; whoever iterates draws them (cli), stores them (events.jsonl is
written here) or collects them (tests). A finished stage leaves files that the next start finds:
`views.json` (written last) for the poses, `rounds/NN` for the loop. Nothing flows left.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import __version__
from endorecon.config import Config, as_dict
from endorecon.errors import EndoreconError, InputRefused, NotEnoughInformation
from endorecon.io import calibration, datasets, trajectories, viewstore
from endorecon.io.rundir import RunDir, hash_file
from endorecon.scene import DepthMap, Frames, Views

# Sections that may change between two starts of one run.
RESUMABLE_DIFFERENCES = ("loop", "surface", "evaluate", "phantom")


@dataclass(frozen=True)
class StageStarted:
    """A stage begins: video, poses, rounds, surface."""

    stage: str


@dataclass(frozen=True)
class StageFinished:
    """A stage is done."""

    stage: str
    seconds: float
    resumed: bool = False  # found finished from an earlier start


@dataclass(frozen=True)
class Note:
    """One sentence for the reader; a warning when it bears on the result."""

    sentence: str
    warning: bool = False


@dataclass(frozen=True)
class Fitted:
    """The end: where the run is and how the loop ended."""

    run: str
    status: str
    why: str
    unit: str
    frames_kept: int
    frames_posed: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """What to fit, as the command line says it."""

    source: Path
    out: Path
    config: Config
    camera: Path | None = None
    poses: Path | None = None
    start: float | None = None
    end: float | None = None
    device: str = "cpu"
    seed: int = 0
    preset: str = "default"


def fit(job: Job) -> Iterator[Any]:
    """Run or resume a job; yields events; raises EndoreconError with run.json saying "failed"."""
    run = RunDir(job.out)
    if not job.source.exists():
        raise InputRefused("The input does not exist", "check the path", job.source)
    with run.lock():
        _open_run(run, job)
        begun = time.monotonic()
        try:
            for event in _stages(run, job, begun):
                run.append_events([as_record(event)])
                yield event
        except EndoreconError as error:
            run.update_info(status="failed", error=str(error), exit_code=error.exit_code)
            run.append_events([{"kind": "Failed", "time": _now(), "sentence": str(error)}])
            raise


def _stages(run: RunDir, job: Job, begun: float) -> Iterator[Any]:
    warnings: list[str] = []
    seconds: dict[str, float] = dict(run.info().get("seconds", {}))

    def noting(events: Iterator[Any]) -> Iterator[Any]:
        for event in events:
            sentence = getattr(event, "sentence", None)
            if sentence and getattr(event, "warning", True) and sentence not in warnings:
                warnings.append(sentence)
            yield event

    if viewstore.is_complete(run.path):
        views = viewstore.load(run.path)
        warnings += run.info().get("warnings", [])
        yield StageFinished("poses", 0.0, resumed=True)
    else:
        t = time.monotonic()
        yield from noting(_frames_to_views(run, job))
        views = viewstore.load(run.path)  # what resume would see is what everybody sees
        seconds["video and poses"] = time.monotonic() - t
        run.update_info(seconds=seconds, warnings=warnings)
    from endorecon import loop  # torch: only now

    t = time.monotonic()
    yield StageStarted("rounds")
    ended: loop.RoundsFinished | None = None
    config = _as_given(job.config) if (run.info().get("poses") or {}).get("given") else job.config
    for event in noting(loop.rounds(views, config, run, job.seed, job.device)):
        if isinstance(event, loop.RoundsFinished):
            ended = event
        yield event
    assert ended is not None
    seconds["rounds"] = seconds.get("rounds", 0.0) + time.monotonic() - t
    yield StageFinished("rounds", time.monotonic() - t)
    t = time.monotonic()
    yield StageStarted("surface")
    try:
        _finish(run, views, job.config, ended.best)
    except NotEnoughInformation as error:
        run.update_info(warnings=[*warnings, str(error)])
        raise
    seconds["surface"] = time.monotonic() - t
    yield StageFinished("surface", seconds["surface"])
    metrics = run.load_round_metrics(len(run.rounds()) - 1)
    run.update_info(
        status=ended.status,
        why=ended.why,
        best_round=ended.best,
        rounds=len(run.rounds()),
        seconds={k: round(v, 2) for k, v in seconds.items()},
        kernels=metrics.get("kernels", ""),
        warnings=list(dict.fromkeys(warnings)),
        finished=_now(),
    )
    info = run.info()
    yield Fitted(
        str(run.path), ended.status, ended.why, views.unit, int(info.get("frames_kept", 0)),
        len(views), len(run.rounds()), time.monotonic() - begun,
    )  # fmt: skip


def _frames_to_views(run: RunDir, job: Job) -> Generator[Any, None, None]:
    """Decode, screen, find poses; write frames, masks, transforms.json, views.json."""
    from endorecon import poses
    from endorecon.io.video import read_frames

    yield StageStarted("video")
    t = time.monotonic()
    # A data set folder is laid out in the run; a video or a folder of images is itself.
    given = datasets.inputs(job.source, run.path / "dataset", job.camera, job.poses)
    camera = None if given.camera is None else calibration.read_camera(given.camera)
    frames = read_frames(given.source, job.config.video, camera, job.start, job.end)
    run.update_info(
        frames_read=len(frames.records),
        frames_kept=len(frames),
        quality=list(frames.summary),
        input_hash=_hash_input(job.source),
    )
    viewstore.write_records(run.path, frames.records)
    for sentence in frames.summary:
        yield Note(sentence)
    for sentence in frames.warnings:
        yield Note(sentence, warning=True)
    yield StageFinished("video", time.monotonic() - t)
    yield StageStarted("poses")
    t = time.monotonic()
    work = run.path / "sfm"
    if given.poses is None:
        result = yield from poses.estimate_views(frames, job.config.poses, work, job.seed)
    else:
        result = yield from poses.given_views(frames, given.poses, job.config.poses, work)
    for sentence in result.warnings:
        yield Note(sentence, warning=True)
    _save_views(run, frames, result)
    yield StageFinished("poses", time.monotonic() - t)


def _save_views(run: RunDir, frames: Frames, result: Any) -> None:
    views: Views = result.views
    dropped = {int(i): reason for i, reason in result.dropped}
    records = [
        dataclasses.replace(r, kept=False, reason=dropped[r.frame_index])
        if r.kept and r.frame_index in dropped
        else r
        for r in frames.records
    ]
    viewstore.write_records(run.path, records)
    lens = result.camera
    run.update_info(
        unit=views.unit,
        scale_source=views.scale_source,
        frames_posed=len(views),
        camera={
            "model": lens.model, "width": lens.width, "height": lens.height, "fx": lens.fx,
            "fy": lens.fy, "cx": lens.cx, "cy": lens.cy, "distortion": list(lens.distortion),
        },
        source_size=[frames.source_width, frames.source_height],
        source_from_working=np.asarray(frames.source_from_working, float).tolist(),
        poses={
            "median_angle_deg": result.median_angle_deg,
            "mean_error_px": result.mean_error_px,
            "refined_intrinsics": result.refined_intrinsics,
            "focal_play": result.focal_play,
            "depth_sigma": result.depth_sigma,
            "other_models": list(result.other_models),
            "given": result.given,
        },
    )  # fmt: skip
    viewstore.save(run.path, views)


def _finish(run: RunDir, views: Views, config: Config, best: int) -> None:
    """Final depths and surface from the best round."""
    from endorecon import surface

    least = float((run.info().get("poses") or {}).get("depth_sigma") or 0.0)
    limit = config.loop.max_relative_sigma
    depths = [_measured(d, limit, least) for d in run.round_depths(best)]
    for depth in depths:
        run.save_depth(depth)
    # views.json keeps the poses that the rounds began with: a later start repeats their bits.
    trajectories.write_transforms(
        run.path / "transforms.json",
        views.with_poses(np.stack([d.world_from_camera for d in depths])),
    )
    fused = surface.fuse(depths, list(views.images), config.surface, views.unit, views.space)
    run.save_surface(fused, (f"endorecon {__version__}", f"round={best}"))


def _as_given(config: Config) -> Config:
    """The config for poses that the user has given: they stay."""
    return dataclasses.replace(config, refine=dataclasses.replace(config.refine, settle=False))


def _measured(depth: DepthMap, limit: float, least: float) -> DepthMap:
    """The map without the depths that are too unsure to be called measured, limit * z; `least` is
    the relative sigma that poses in contradiction to the matches leave to every depth."""
    with np.errstate(invalid="ignore"):
        sigma = np.hypot(depth.sigma, least * depth.z)
        sure = sigma <= limit * depth.z
    z, sigma = (np.where(sure, a, np.nan).astype(np.float32) for a in (depth.z, sigma))
    return dataclasses.replace(depth, z=z, sigma=sigma, trust=np.where(sure, depth.trust, 0))


def _open_run(run: RunDir, job: Job) -> None:
    """A fresh run.json, or a check that the folder belongs to this job."""
    request = {
        "input": job.source.name,
        "start": job.start,
        "end": job.end,
        "camera": None if job.camera is None else hash_file(job.camera),
        "poses": None if job.poses is None else _hash_input(job.poses),
        "seed": job.seed,
        "device": job.device,
    }
    resolved = as_dict(job.config)
    if run.exists:
        info = run.info()
        old, was = info.get("request", {}), info.get("config", {})
        different = [k for k in request if old.get(k) != request[k]]
        for section, values in resolved.items():
            if section not in RESUMABLE_DIFFERENCES and was.get(section) != values:
                changed = was.get(section, {})
                keys = [k for k in values if changed.get(k) != values[k]]
                different += [f"{section}.{k}" for k in keys] or [section]
        if info.get("input_hash") not in (None, _hash_input(job.source)):
            different.append("the content of the input")
        if different:
            raise InputRefused(
                f"The run folder was made with other settings ({', '.join(different[:4])})",
                "choose another folder with --out, or delete this one",
                run.path,
            )
        run.update_info(status="running", config=resolved)
        return
    if run.path.is_dir() and any(p.name != ".lock" for p in run.path.iterdir()):
        raise InputRefused(
            "The folder is not empty and is not a run folder", "choose another --out", run.path
        )
    run.update_info(
        status="running",
        request=request,
        config=resolved,
        preset=job.preset,
        seed=job.seed,
        device=job.device,
        unit="unitless",
        scale_source=None,
        started=_now(),
        versions=_versions(),
        machine={"cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        warnings=[],
        frames_read=0,
        frames_kept=0,
        frames_posed=0,
        rounds=0,
        seconds={},
        kernels="",
    )


def as_record(event: Any) -> dict[str, Any]:
    """One line of events.jsonl."""
    return {"kind": type(event).__name__, "time": _now(), **dataclasses.asdict(event)}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _hash_input(path: Path) -> str:
    """SHA-256 of a file, or of names and contents of all files under a folder."""
    import hashlib

    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0" + hash_file(file).encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    out = {"endorecon": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "opencv-python", "pycolmap", "open3d", "scikit-image", "av"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out
