"""Make a phantom: anatomy -> wall -> flight -> video, CT, landmarks, clicks and exact truth.

`make_phantom` writes one folder (LPS mm throughout, see truth.py): `video.mp4`, `calibration.yaml`
and `truth/`. Same arguments, same bytes: every frame
has its own random generator, and the only thing that runs in order is the exposure.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.errors import UsageError
from endorecon.phantom.anatomy import Anatomy, make_anatomy
from endorecon.phantom.implicit import Mesh, extract_mesh, sample_volume
from endorecon.phantom.motion import make_path
from endorecon.phantom.optics import (
    Stage,
    content_mask,
    depth_image,
    lens_rays,
    make_camera,
    make_stage,
    render,
)
from endorecon.phantom.sensor import develop, meter, next_exposure, vignetting
from endorecon.phantom.texture import make_mucosa
from endorecon.phantom.truth import write_calibration, write_cameras, write_json, write_mesh
from endorecon.scene import Camera

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

    stage: str  # "anatomy", "frame", "ct", ...
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
    """Write a phantom folder, yielding progress; see the module docstring."""
    config = at_level(config or PhantomConfig(), level)
    out = Path(out)
    (out / "truth" / "depth").mkdir(parents=True, exist_ok=True)
    yield PhantomProgress("anatomy", 0, 1)
    anatomy = make_anatomy(family, seed, config.size, config.asymmetry, config.roughness)
    volume = sample_volume(anatomy.distance, anatomy.low, anatomy.high, config.side_mm)
    mesh = extract_mesh(anatomy.distance, volume)
    yield PhantomProgress("anatomy", 1, 1)
    stage = _stage(anatomy, mesh, seed, config)
    camera = make_camera(width, height, config)
    times, poses, blurred = fly(anatomy, stage, seed, frames, config)
    write_mesh(out / "truth" / "mesh.ply", mesh)
    write_cameras(out / "truth" / "cameras.json", camera, poses, times)
    write_calibration(out / "calibration.yaml", camera)
    write_json(out / "truth" / "anatomy.json", _describe(anatomy, seed, level))
    for i, picture in enumerate(film(stage, camera, blurred, seed, out / "video.mp4")):
        del picture
        _write_depth(out / "truth" / "depth" / f"{i:06d}.npz", stage, camera, poses[i])
        yield PhantomProgress("frame", i + 1, frames)


def _stage(anatomy: Anatomy, mesh: Mesh, seed: int, config: PhantomConfig) -> Stage:
    mucosa = make_mucosa(
        np.random.default_rng([seed, 2]),
        anatomy.family,
        mesh,
        anatomy.distance,
        config.texture,
        config.vessels,
        config.relief,
    )
    return make_stage(mesh, mucosa, config)


def fly(
    anatomy: Anatomy, stage: Stage, seed: int, frames: int, config: PhantomConfig
) -> tuple[Array, Array, Array]:
    """times (n,), poses (n, 4, 4) at mid shutter, and (n, 4, 4, 4): four instants of each."""
    import open3d as o3d

    def clearance(p: Array) -> Array:
        unsigned = stage.scene.compute_distance(o3d.core.Tensor(p.astype(np.float32))).numpy()
        return unsigned * np.sign(anatomy.distance(p))

    frame_s = 1.0 / config.frames_per_second
    times = np.arange(frames) * frame_s
    instants = config.shutter * frame_s * (np.arange(4) - 1.5) / 4
    everything = np.concatenate([times[:, None], times[:, None] + instants], 1)
    order = np.argsort(everything.ravel(), kind="stable")
    poses = np.zeros((everything.size, 4, 4))
    rng = np.random.default_rng([seed, 3])
    shifted = everything.ravel()[order] - everything.min()
    poses[order] = make_path(rng, anatomy.route, anatomy.distance, shifted, config, clearance)
    poses = poses.reshape(frames, 5, 4, 4)
    return times, poses[:, 0], poses[:, 1:]


def film(
    stage: Stage, camera: Camera, blurred: Array, seed: int, path: Path
) -> Iterator[Array]:
    """Render, develop and encode every frame; yields the uint8 pictures (before h264)."""
    config = stage.config
    mask = content_mask(camera, config)
    pixels = np.flatnonzero(mask.ravel() > 0)
    v, u = np.divmod(pixels, camera.width)
    # Rotated-grid supersampling; sample k is also instant k of the shutter.
    offsets = np.array([[0.375, 0.125], [0.875, 0.375], [0.125, 0.625], [0.625, 0.875]])
    rays = np.stack([lens_rays(np.stack([u, v], -1) + o, camera) for o in offsets])
    falloff = vignetting(camera, config)[..., None]
    exposure: float | None = None
    with _Video(path, camera, config) as video, ThreadPoolExecutor(2) as pool:
        images = _ahead(pool, lambda p: render(stage, camera, p, rays, pixels) * falloff, blurred)
        for i, radiance in enumerate(images):
            brightness = meter(radiance, mask)
            if exposure is None:
                exposure = next_exposure(None, brightness, config)
            rng = np.random.default_rng([seed, 4, i])
            picture = develop(radiance, exposure, camera, config, rng)
            exposure = next_exposure(exposure, brightness, config)
            video.add(picture)
            yield picture


def _ahead(pool: ThreadPoolExecutor, work: Any, items: Array, depth: int = 3) -> Iterator[Array]:
    """Results of work(item) in order, computed a few items ahead (map would hold them all)."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= depth:
            yield waiting.pop(0).result()
    for job in waiting:
        yield job.result()


class _Video:
    """An h264 file that closes itself."""

    def __init__(self, path: Path, camera: Camera, config: PhantomConfig) -> None:
        import av

        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        rate = round(config.frames_per_second * 1000)
        from fractions import Fraction

        stream = self._container.add_stream("libx264", rate=Fraction(rate, 1000))
        stream.width, stream.height = camera.width, camera.height
        stream.pix_fmt = "yuv420p"
        # One thread: x264 decides alike on every machine, so that the bytes repeat.
        stream.options = {"crf": str(config.crf), "preset": "medium", "threads": "1"}
        self._stream = stream

    def __enter__(self) -> _Video:
        return self

    def add(self, picture: Array) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __exit__(self, *_: object) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()


def _write_depth(path: Path, stage: Stage, camera: Camera, pose: Array) -> None:
    z = depth_image(stage, camera, pose)
    valid = np.isfinite(z) & (content_mask(camera, stage.config) >= 1.0)
    np.savez_compressed(path, z=z, valid=valid, K=camera.K)


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
