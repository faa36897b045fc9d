"""The phantom's film: a seed's flight through a wall, and every frame of it with its depth.

Same arguments, same pictures: every frame has its own random generator, and the only thing that
runs in order is the exposure. A picture is four samples a pixel; sample k is a place in the pixel
and an instant of the shutter at once, which smooths edges and blurs motion for one price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.anatomy import Anatomy
from endorecon.phantom.motion import make_path
from endorecon.phantom.optics import Stage, content_mask, depth_image, lens_rays, make_stage
from endorecon.phantom.sensor import develop, meter, next_exposure, vignetting
from endorecon.phantom.shading import render
from endorecon.phantom.spoilers import Spoilers
from endorecon.scene import Camera

Array = NDArray[Any]

# Rotated-grid supersampling.
_SUBPIXELS = np.array([[0.375, 0.125], [0.875, 0.375], [0.125, 0.625], [0.625, 0.875]])


@dataclass(frozen=True)
class Flight:
    """Times (n,) s, poses (n, 4, 4) at mid shutter, and `instants` (n, 4, 4, 4) of each shutter."""

    times: Array
    poses: Array
    instants: Array


def fly(anatomy: Anatomy, stage: Stage, seed: int, frames: int, config: PhantomConfig) -> Flight:
    """The path of a seed through an anatomy."""
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
    five = poses.reshape(frames, 5, 4, 4)
    return Flight(times, five[:, 0], five[:, 1:])


def film(
    stage: Stage, camera: Camera, flight: Flight, seed: int, spoilers: Spoilers
) -> Iterator[tuple[Array, Array, Array]]:
    """Every frame in order: picture (h, w, 3) uint8 before h264, z (h, w) mm, valid (h, w)."""
    config = stage.config
    mask = content_mask(camera, config)
    pixels = np.flatnonzero(mask.ravel() > 0)
    v, u = np.divmod(pixels, camera.width)
    rays = np.stack([lens_rays(np.stack([u, v], -1) + o, camera) for o in _SUBPIXELS])
    rays = rays.astype(np.float32)
    falloff = vignetting(camera, config)[..., None]

    def expose(i: int) -> tuple[Array, Array]:
        now = _at_time(stage, spoilers, float(flight.times[i]))
        radiance = render(now, camera, flight.instants[i], rays, pixels) * falloff
        return spoilers.on_radiance(radiance, i), depth_image(now, camera, flight.poses[i], mask)

    exposure: float | None = None
    before: Array | None = None
    with ThreadPoolExecutor(2) as pool:
        for i, (radiance, z) in enumerate(_ahead(pool, expose, len(flight.times))):
            brightness = meter(radiance, mask)
            exposure = exposure or next_exposure(None, brightness, config)
            rng = np.random.default_rng([seed, 4, i])
            clean = develop(radiance, exposure, camera, config, rng)
            exposure = next_exposure(exposure, brightness, config)
            picture, hidden = spoilers.on_picture(clean, before, i)
            before = picture
            yield picture, z, np.isfinite(z) & (mask >= 1.0) & ~hidden


def _at_time(stage: Stage, spoilers: Spoilers, time_s: float) -> Stage:
    """The stage while the patient breathes; the stage itself if he does not."""
    mesh = spoilers.deform(stage.mesh, time_s)
    if mesh is stage.mesh:
        return stage
    return make_stage(mesh, stage.mucosa, stage.config, rest=stage.mesh.vertices)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[int], Any], count: int, depth: int = 3
) -> Iterator[Any]:
    """work(0), work(1), ... in order, computed a few ahead (pool.map would hold them all)."""
    waiting: list[Future[Any]] = []
    for i in range(count):
        waiting.append(pool.submit(work, i))
        if len(waiting) >= depth:
            yield waiting.pop(0).result()
    for job in waiting:
        yield job.result()
