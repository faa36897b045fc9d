"""Make a phantom: anatomy -> wall -> flight -> video, CT, landmarks, clicks and exact truth.

`make_phantom` writes one folder, LPS mm throughout: `video.mp4`, `calibration.yaml` (OpenCV's own
format: pixel centres at 0), `ct/` (DICOM), `ct.nii.gz`, `landmarks.mrk.json`, `distances.yaml`,
`clicks.csv` and `truth/` (see truth.py: pixel centres at .5). Same arguments, same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.errors import UsageError
from endorecon.io.slicer import write_landmarks
from endorecon.phantom.anatomy import Anatomy, make_anatomy
from endorecon.phantom.clicks import make_clicks, write_clicks
from endorecon.phantom.ct import make_ct, write_dicom, write_nifti
from endorecon.phantom.film import film, fly
from endorecon.phantom.implicit import extract_mesh, gradient, sample_volume
from endorecon.phantom.optics import make_camera, make_stage
from endorecon.phantom.spoilers import Spoilers, check, on_config
from endorecon.phantom.texture import make_mucosa
from endorecon.phantom.truth import write_calibration, write_cameras, write_json, write_mesh
from endorecon.phantom.video import VideoWriter
from endorecon.scene import Landmarks

Array = NDArray[Any]

# What a level changes, as factors on the config. Frozen: benchmarks name a level.
LEVELS: dict[str, dict[str, float]] = {
    "easy": {"texture": 1.6, "vessels": 1.15, "shot_noise": 0.5, "read_noise": 0.5, "wetness": 0.5},
    "default": {},
    "hard": {"texture": 0.55, "vessels": 0.7, "shot_noise": 2.0, "read_noise": 2.0, "wetness": 1.6},
}


@dataclass(frozen=True)
class PhantomProgress:
    """How far the making has come."""

    stage: str  # "anatomy", "ct", "frame", "clicks"
    done: int
    total: int


def at_level(config: PhantomConfig, level: str) -> PhantomConfig:
    """The config with a level's factors; raises UsageError on an unknown level."""
    if level not in LEVELS:
        raise UsageError(f"no phantom level {level!r}", f"choose one of {', '.join(LEVELS)}")
    return replace(config, **{k: getattr(config, k) * f for k, f in LEVELS[level].items()})


def make_phantom(
    out: Path,
    *,
    seed: int = 0,
    family: str = "sinus",
    frames: int = 100,
    width: int = 640,
    height: int = 480,
    level: str = "default",
    ct: Path | None = None,
    seed_point: tuple[float, float, float] | None = None,
    spoil: dict[str, float] | None = None,
    config: PhantomConfig | None = None,
) -> Iterator[PhantomProgress]:
    """Write a phantom folder, yielding progress.

    ct, seed_point: take the anatomy from a real CT, the air round a point in LPS mm, in place of
    the family. spoil: spoilers by name (spoilers.NAMES) with strengths in [0, 1]. Raises UsageError
    for arguments that cannot mean anything.
    """
    config = at_level(config or PhantomConfig(), level)
    spoil = dict(spoil or {})
    _check(family, frames, width, height, ct, seed_point, spoil)
    config = on_config(config, spoil)
    out = Path(out)
    (out / "truth" / "depth").mkdir(parents=True, exist_ok=True)
    yield PhantomProgress("anatomy", 0, 1)
    anatomy = _anatomy(family, seed, ct, seed_point, config)
    volume = sample_volume(anatomy.distance, anatomy.low, anatomy.high, config.side_mm)
    mesh = extract_mesh(anatomy.distance, volume)
    write_mesh(out / "truth" / "mesh.ply", mesh)
    yield PhantomProgress("anatomy", 1, 1)
    hu, lps_from_index = make_ct(volume, anatomy.family, np.random.default_rng([seed, 5]), config)
    del volume
    write_nifti(out / "ct.nii.gz", hu, lps_from_index)
    write_dicom(out / "ct", hu, lps_from_index, seed, anatomy.family)
    _write_landmarks(out, anatomy)
    yield PhantomProgress("ct", 1, 1)

    mucosa = make_mucosa(
        np.random.default_rng([seed, 2]),
        anatomy.family,
        mesh,
        anatomy.distance,
        config.texture,
        config.vessels,
        config.relief,
    )
    stage = make_stage(mesh, mucosa, config)
    camera = make_camera(width, height, config)
    flight = fly(anatomy, stage, seed, frames, config)
    spoilers = Spoilers(spoil, seed, frames, (width, height), 1.0 / config.frames_per_second)
    write_cameras(out / "truth" / "cameras.json", camera, flight.poses, flight.times)
    write_calibration(out / "calibration.yaml", camera)
    write_json(
        out / "truth" / "anatomy.json",
        _describe(anatomy, seed, level)
        | {"spoilers": spoil, "frozen_frames": list(spoilers.frozen)},
    )
    with VideoWriter(out / "video.mp4", camera, config) as video:
        for i, (picture, z, valid) in enumerate(film(stage, camera, flight, seed, spoilers)):
            video.add(picture)
            np.savez_compressed(
                out / "truth" / "depth" / f"{i:06d}.npz", z=z, valid=valid, K=camera.K
            )
            yield PhantomProgress("frame", i + 1, frames)
    normals = {
        name: g / np.linalg.norm(g)
        for name, p in anatomy.landmarks.items()
        for g in gradient(anatomy.distance, p[None])
    }
    rng = np.random.default_rng([seed, 6])
    rows = make_clicks(
        anatomy.landmarks, normals, stage, camera, flight.poses, rng, config, spoilers.frozen
    )
    write_clicks(out / "clicks.csv", rows)
    yield PhantomProgress("clicks", len(rows), len(rows))


def _check(
    family: str,
    frames: int,
    width: int,
    height: int,
    ct: Path | None,
    seed_point: tuple[float, float, float] | None,
    spoil: dict[str, float],
) -> None:
    check(spoil)
    if family not in ("sinus", "colon"):
        raise UsageError(f"no phantom family {family!r}", "choose sinus or colon")
    if frames < 2:
        raise UsageError("a phantom video needs at least 2 frames", "give --frames")
    if width < 64 or height < 64 or width % 2 or height % 2:
        raise UsageError(f"the size {width}x{height} cannot be filmed", "give even numbers from 64")
    if (ct is None) != (seed_point is None):
        raise UsageError("--ct and --seed-point belong together", "give both or neither")


def _anatomy(
    family: str,
    seed: int,
    ct: Path | None,
    seed_point: tuple[float, float, float] | None,
    config: PhantomConfig,
) -> Anatomy:
    if ct is not None and seed_point is not None:
        from endorecon.phantom.patient import patient_anatomy

        return patient_anatomy(Path(ct), seed_point, config)
    return make_anatomy(family, seed, config.size, config.asymmetry, config.roughness)


def _write_landmarks(out: Path, anatomy: Anatomy) -> None:
    names = tuple(anatomy.landmarks)
    points = np.array([anatomy.landmarks[n] for n in names])
    write_landmarks(out / "landmarks.mrk.json", Landmarks(names, points))
    lines = [f"- {{name: {n}, from: {a}, to: {b}}}\n" for n, a, b in anatomy.distances]
    (out / "distances.yaml").write_text("".join(lines))


def _describe(anatomy: Anatomy, seed: int, level: str) -> dict[str, Any]:
    at = anatomy.landmarks
    return {
        "family": anatomy.family,
        "seed": seed,
        "level": level,
        "space": "LPS",
        "unit": "mm",
        "parameters": anatomy.parameters,
        "landmarks": {name: p.tolist() for name, p in at.items()},
        "distances_mm": {n: float(np.linalg.norm(at[a] - at[b])) for n, a, b in anatomy.distances},
    }
