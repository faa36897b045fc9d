"""Structure from motion as a child process: its pictures, its job and its outcome.

pycolmap may not share a process with cv2, so pictures and masks are written into a folder, and
`endorecon.sfm` works there. A finished outcome of the same frames and settings is found again, and
a job that was killed goes on with what it has matched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endorecon.config import PosesConfig
from endorecon.errors import EndoreconError, EnvironmentFault
from endorecon.io import colmap
from endorecon.io.atomic import write_text
from endorecon.scene import Camera, Frames


@dataclass(frozen=True)
class PoseProgress:
    """How far the poses are: stage in words, done of total (0 of 0: unknown)."""

    stage: str
    done: int = 0
    total: int = 0


def picture_name(frame_index: int) -> str:
    """The name of a frame's picture in the child's folder and in its model."""
    return f"{int(frame_index):06d}.png"


def _cores() -> int:
    """Processor cores that this process may use; a unit of a study has only some of them."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(there or 1, int(told) if told.isdigit() else 1 << 10))


def run(
    frames: Frames,
    camera: Camera,
    config: PosesConfig,
    work: Path,
    seed: int,
    poses: dict[str, Any] | None,
) -> Generator[PoseProgress, None, dict[str, Any]]:
    """The result of the child process, or its finished one of an earlier run."""
    work = Path(work).resolve()
    settings = [dataclasses.asdict(camera), dataclasses.asdict(config), seed, poses]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=float).encode())
    for array in (frames.images, frames.masks, frames.frame_index):
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    finished = work / "result.json"
    if finished.is_file():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        if result.get("key") == key:
            return result
    if (
        not (work / "job.json").is_file()
        or json.loads((work / "job.json").read_text())["key"] != key
    ):
        yield from _write_pictures(frames, work)
        for stale in ("matched.json", "result.json"):
            (work / stale).unlink(missing_ok=True)
        radial = frames.camera is None and config.camera_model == "RADIAL"
        model, parameters = colmap.colmap_camera(camera, radial)
        job = {
            "key": key,
            "images": str(work / "images"),
            "masks": str(work / "masks"),
            "names": [picture_name(k) for k in frames.frame_index],
            "camera": {"model": model, "params": parameters},
            "calibrated": frames.camera is not None,
            "max_features": config.max_features,
            "sift_peak": config.sift_peak,
            "first_octave": -1 if camera.width < config.double_below else 0,
            "guided": config.guided,
            "overlap": config.overlap,
            "sharpen": config.sharpen,
            "seed": seed,
            "threads": _cores(),
            "solver_threads": config.threads or _cores(),
            "poses": poses,
        }
        write_text(work / "job.json", json.dumps(job))
    with open(work / "sfm.log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "endorecon.sfm", str(work / "job.json")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("{"):
                    told = json.loads(line)
                    yield PoseProgress(told["stage"], told["done"], told["total"])
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if code != 0 or not finished.is_file():
        raise _failure(code, work)
    done: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return done


def _failure(code: int, work: Path) -> EndoreconError:
    tail = (work / "sfm.log").read_text(errors="replace").strip().splitlines()[-1:]
    if any("No module named" in line for line in tail):
        return EnvironmentFault("pycolmap is not installed", "pip install 'pycolmap>=4.0,<5'")
    return EnvironmentFault(
        f"structure from motion stopped with code {code} ({' '.join(tail)[:200]})",
        "run the same command again; if it stays, send the log",
        work / "sfm.log",
    )


def _write_pictures(frames: Frames, work: Path) -> Generator[PoseProgress, None, None]:
    import cv2

    for folder in ("images", "masks"):
        (work / folder).mkdir(parents=True, exist_ok=True)
        for old in (work / folder).glob("*.png"):
            old.unlink()
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for k, index in enumerate(frames.frame_index):
        if k % 20 == 0:
            yield PoseProgress("pictures", k, len(frames))
        grey = cv2.cvtColor(frames.images[k], cv2.COLOR_RGB2GRAY)
        for folder, name, picture in (
            ("images", picture_name(index), grey),
            ("masks", picture_name(index) + ".png", frames.masks[k].astype(np.uint8) * 255),
        ):
            if not cv2.imwrite(str(work / folder / name), picture, fast):
                raise EnvironmentFault("a picture could not be written", "is the disk full?", work)
