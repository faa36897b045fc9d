"""Made pictures with exact truth for the tests of video and poses: a textured tube, files."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import geometry
from endorecon.io import calibration
from endorecon.scene import Camera, FrameRecord, Frames


def write_video(
    path: Path,
    images: list[np.ndarray] | np.ndarray,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: list[float] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB pictures at 30 a second, or at the given times in seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.options = options or {"crf": "12", "g": "10"}
        tick = Fraction(1, 3000) if times else Fraction(1, 30)
        stream.time_base = stream.codec_context.time_base = tick
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base = tick
            frame.pts = round((times[k] if times else k / 30) / tick)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@lru_cache
def noise(seed: int, size: int = 128) -> np.ndarray:
    """A random lattice: large, so that the texture does not repeat within the tube."""
    return np.random.default_rng(seed).random((size, size, size), np.float32)


def _texture(points: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    out = np.zeros(points.shape[:-1])
    turn = geometry.rotation_from_quaternion([0.8, 0.3, 0.4, 0.33])
    for octave, weight in ((0.35, 0.35), (0.9, 0.35), (2.2, 0.3)):
        at = np.moveaxis(points @ turn.T * octave + 40.0, -1, 0)
        out += weight * map_coordinates(lattice, at, order=1, mode="grid-wrap")
    return out


@lru_cache
def _rays(camera: Camera) -> np.ndarray:
    pinhole = Camera(camera.width, camera.height, 1.0, 1.0, 0.0, 0.0)
    grid = geometry.pixel_grid(camera.width, camera.height)
    xy = calibration.undistort_pixels(camera, pinhole, grid)
    return np.concatenate([xy, np.ones_like(xy[..., :1])], -1)


def tube(
    world_from_camera: np.ndarray, camera: Camera, lattice: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Picture (h, w, 3) uint8 and true z-depth of a tube of radius 10 along z with a floor at 45.

    The light sits on the camera (1 / t^2). The camera may have distortion: rays are bent by it.
    """
    rays = _rays(camera)
    d = rays @ world_from_camera[:3, :3].T
    o = world_from_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (d[..., :2] ** 2).sum(-1)
        b = (d[..., :2] * o[:2]).sum(-1)
        wall = (-b + np.sqrt(b * b - a * ((o[:2] ** 2).sum() - 100.0))) / a
        floor = np.where(d[..., 2] > 0, (45.0 - o[2]) / d[..., 2], np.inf)
    z = np.fmin(wall, floor)
    hit = o + z[..., None] * d
    shade = 500.0 / (z * np.linalg.norm(rays, axis=-1)) ** 2
    value = np.clip(0.15 + _texture(np.nan_to_num(hit), lattice), 0, 1) * np.clip(shade, 0.25, 1.3)
    color = np.clip(value[..., None] * np.array([230, 140, 120]), 0, 255)
    color[~np.isfinite(z)] = 0
    return color.astype(np.uint8), z


def path_of_cameras(count: int, kind: str = "spiral") -> np.ndarray:
    """(n, 4, 4) world_from_camera: a spiral forward, standing still, or turning on the spot."""
    s = np.linspace(0, 1, count)
    out = np.tile(np.eye(4), (count, 1, 1))
    for k, t in enumerate(s):
        turn = 0.0 if kind == "still" else 0.12
        yaw, pitch = turn * np.sin(5 * t), turn * np.cos(4 * t)
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        yaw_matrix = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch_matrix = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        out[k, :3, :3] = yaw_matrix @ pitch_matrix
        if kind == "spiral":
            out[k, :3, 3] = [2.5 * np.cos(6 * t), 2.5 * np.sin(6 * t), 12 * t]
    return out


def tube_frames(
    camera: Camera, poses: np.ndarray, seed: int = 0, grain: float = 1.5, known: bool = True
) -> Frames:
    """Screened frames of the tube with sensor noise, as `read_frames` would give them."""
    lattice, rng = noise(seed), np.random.default_rng(seed)
    images = []
    for pose in poses:
        image = tube(pose, camera, lattice)[0].astype(float)
        images.append(np.clip(image + grain * rng.standard_normal(image.shape), 0, 255))
    n = len(poses)
    records = tuple(FrameRecord(k, k / 30, True, motion_px=3.0) for k in range(n))
    return Frames(
        images=np.array(images).astype(np.uint8),
        masks=np.ones((n, camera.height, camera.width), bool),
        frame_index=np.arange(n),
        time_s=np.arange(n) / 30,
        records=records,
        source_width=camera.width,
        source_height=camera.height,
        source_from_working=np.eye(3),
        camera=camera if known else None,
    )


def finish(generator: Any) -> Any:
    """The return value of a generator of events."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value
