"""Simulated observers who click the landmarks in the video, so that repeats need no human.

Conventions: u, v in pixels of the (distorted) video, centres at .5; frame is 0-based. An observer
errs in two ways: he understands a landmark a little differently (a shift along the wall in mm, the
same in all his frames and repeats, plus a smaller one for each repeat), and his hand is unsteady
(pixels, each click anew). A landmark is clicked only where it is really seen: inside the
round picture, not occluded, not too far.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.geometry import apply, invert
from endorecon.phantom.optics import Stage, content_mask, project_points
from endorecon.scene import Camera

Array = NDArray[Any]
Row = tuple[str, int, str, int, float, float]  # observer, repeat, landmark, frame, u, v


def seen(
    points: Array, stage: Stage, camera: Camera, world_from_camera: Array, reach_mm: float = 45.0
) -> tuple[Array, Array]:
    """uv (m, 2) and whether (m,) points (m, 3) on the wall are visible from one pose."""
    import open3d as o3d

    inside = apply(invert(world_from_camera), points)
    uv, z = project_points(inside, camera)
    mask = content_mask(camera, stage.config)
    margin = 0.02 * camera.height
    col = np.nan_to_num(uv[:, 0], nan=-1, posinf=-1, neginf=-1)
    row = np.nan_to_num(uv[:, 1], nan=-1, posinf=-1, neginf=-1)
    ok = (z > 1.0) & (z < reach_mm)
    ok &= (col > margin) & (col < camera.width - margin)
    ok &= (row > margin) & (row < camera.height - margin)
    rows, cols = (
        row.astype(int).clip(0, camera.height - 1),
        col.astype(int).clip(0, camera.width - 1),
    )
    ok &= mask[rows, cols] >= 1.0
    # Brown's polynomial folds back far outside the picture; the angle tells.
    ok &= np.linalg.norm(inside[:, :2], axis=1) < 2.0 * np.maximum(z, 1e-6)
    origin = world_from_camera[:3, 3]
    d = points - origin
    rays = np.concatenate([np.broadcast_to(origin, d.shape), d], 1).astype(np.float32)
    t = stage.scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
    # The landmark itself is hit at t = 1; half a millimetre of grace for grazing rays.
    return uv, ok & ((1.0 - t) * np.linalg.norm(d, axis=1) < 0.5)


def make_clicks(
    landmarks: dict[str, Array],
    normals: dict[str, Array],
    stage: Stage,
    camera: Camera,
    poses: Array,
    rng: np.random.Generator,
    config: PhantomConfig,
    unusable: Sequence[int] = (),
) -> list[Row]:
    """Clicks of all observers. normals: unit wall normals at the landmarks; frames in `unusable`
    (frozen, say) are not clicked."""
    names = list(landmarks)
    points = np.array([landmarks[n] for n in names])
    table = np.stack([seen(points, stage, camera, pose)[1] for pose in poses])  # (frames, m)
    table[list(unusable)] = False
    rows: list[Row] = []
    for observer in range(config.observers):
        for m, name in enumerate(names):
            habit = _along(rng, normals[name], config.observer_mm)
            frames = np.flatnonzero(table[:, m])
            if len(frames) < 2:
                continue
            for repeat in range(config.repeats):
                shift = habit + _along(rng, normals[name], 0.5 * config.observer_mm)
                for frame in _spread(frames, poses[:, :3, 3], config.click_frames, rng):
                    at = apply(invert(poses[frame]), points[m] + shift)
                    uv = project_points(at, camera)[0] + rng.normal(0, config.click_px, 2)
                    u, v = np.clip(uv, 0.5, [camera.width - 0.5, camera.height - 0.5])
                    rows.append((chr(65 + observer), repeat, name, int(frame), float(u), float(v)))
    return rows


def _along(rng: np.random.Generator, normal: Array, size: float) -> Array:
    """A random shift (3,) in the tangent plane."""
    s = rng.normal(0.0, size, 3)
    return s - (s @ normal) * normal


def _spread(frames: Array, centres: Array, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` of the frames, far from each other (farthest-point sampling, random start)."""
    chosen = [int(rng.choice(frames))]
    while len(chosen) < min(count, len(frames)):
        gap = np.linalg.norm(centres[frames][:, None] - centres[chosen], axis=2).min(1)
        gap[np.isin(frames, chosen)] = -1.0
        chosen.append(int(frames[int(np.argmax(gap))]))
    return sorted(chosen)


def write_clicks(path: Path, rows: list[Row]) -> None:
    """clicks.csv with the columns observer, repeat, landmark, frame, u, v."""
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["observer", "repeat", "landmark", "frame", "u", "v"])
        for observer, repeat, name, frame, u, v in rows:
            out.writerow([observer, repeat, name, frame, f"{u:.3f}", f"{v:.3f}"])
