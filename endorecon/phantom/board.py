"""A clip of a checkerboard through the phantom's own lens, for calibration.

Conventions: OpenCV camera axes, pixel centres at .5; the board's frame has its origin at the first
inner corner, x along the columns, y along the rows, z into the board; mm. `board.json` holds the
number of inner corners, the square and every pose (camera_from_board).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.optics import content_mask, lens_rays, make_camera
from endorecon.phantom.sensor import develop, meter, next_exposure, vignetting
from endorecon.phantom.shading import fibres
from endorecon.phantom.truth import write_calibration, write_json
from endorecon.phantom.video import VideoWriter
from endorecon.scene import Camera

Array = NDArray[Any]
CORNERS = (9, 6)  # inner corners along x and y
SQUARE_MM = 2.0


def board_poses(rng: np.random.Generator, count: int) -> Array:
    """camera_from_board (n, 4, 4): tilted up to 35 degrees, near and far, all over the picture."""
    from scipy.spatial.transform import Rotation

    out = np.tile(np.eye(4), (count, 1, 1))
    middle = 0.5 * SQUARE_MM * (np.array([*CORNERS, 1.0]) - 1.0)
    for k in range(count):
        tilt = np.radians([rng.uniform(-35, 35), rng.uniform(-35, 35), rng.uniform(-60, 60)])
        R = Rotation.from_euler("xyz", tilt).as_matrix()
        z = rng.uniform(17.0, 30.0)
        centre = np.array([rng.uniform(-0.22, 0.22) * z, rng.uniform(-0.20, 0.20) * z, z])
        out[k, :3, :3] = R
        out[k, :3, 3] = centre - R @ middle
    return out


def board_radiance(rays: Array, camera_from_board: Array, config: PhantomConfig) -> Array:
    """Linear radiance (n, 3) of the board along camera-frame rays (n, 3)."""
    R, t = camera_from_board[:3, :3], camera_from_board[:3, 3]
    z = (t @ R[:, 2]) / (rays @ R[:, 2])
    p = rays * z[:, None]
    q = (p - t) @ R
    i, j = np.floor(q[:, 0] / SQUARE_MM), np.floor(q[:, 1] / SQUARE_MM)
    nx, ny = CORNERS
    on = (i >= -1) & (i <= nx - 1) & (j >= -1) & (j <= ny - 1)
    white = np.where(on, 0.08 + 0.72 * ((i + j) % 2 == 0), 0.72)
    sheet = (np.abs(q[:, 0] - SQUARE_MM * (nx - 1) / 2) < SQUARE_MM * (nx + 5) / 2) & (
        np.abs(q[:, 1] - SQUARE_MM * (ny - 1) / 2) < SQUARE_MM * (ny + 5) / 2
    )
    white = np.where(sheet & (z > 0), white, 0.02)
    light = np.zeros(len(p))
    for lamp in fibres(config):
        to = lamp - p
        r2 = (to * to).sum(-1)
        lobe = np.clip(p[:, 2] / np.linalg.norm(p, axis=1), 0, 1) ** config.light_falloff
        light += lobe * np.abs(to @ R[:, 2]) / r2**1.5
    return (white * light * config.light_power / (2 * np.pi))[:, None] * np.ones(3)


def make_board_clip(
    out: Path,
    *,
    seed: int = 0,
    frames: int = 40,
    width: int = 640,
    height: int = 480,
    config: PhantomConfig | None = None,
) -> Camera:
    """Write board.mp4, board.json and calibration.yaml (the truth to be found); returns it."""
    config = config or PhantomConfig()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    camera = make_camera(width, height, config)
    rng = np.random.default_rng([seed, 11])
    poses = board_poses(rng, frames)
    mask = content_mask(camera, config)
    v, u = np.divmod(np.arange(width * height), width)
    shifts = [(a, b) for a in (0.25, 0.75) for b in (0.25, 0.75)]
    rays = [lens_rays(np.stack([u + a, v + b], -1), camera) for a, b in shifts]
    falloff = vignetting(camera, config)[..., None]
    with VideoWriter(out / "board.mp4", camera, config) as video:
        for i, pose in enumerate(poses):
            light = np.mean([board_radiance(r, pose, config) for r in rays], axis=0)
            radiance = (light.reshape(height, width, 3) * falloff).astype(np.float32)
            exposure = 1.8 * next_exposure(None, meter(radiance, mask), config)
            video.add(
                develop(radiance, exposure, camera, config, np.random.default_rng([seed, 12, i]))
            )
    write_calibration(out / "calibration.yaml", camera)
    write_json(
        out / "board.json",
        {
            "corners": list(CORNERS),
            "square_mm": SQUARE_MM,
            "camera_from_board": poses.tolist(),
            "convention": "OpenCV camera axes, mm; board origin at the first inner corner",
        },
    )
    return camera
