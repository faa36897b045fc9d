"""Poses in other people's files: nerfstudio transforms.json, TUM, and COLMAP (io/colmap.py).

Inside, poses are `world_from_camera` with OpenCV axes (x right, y down, z forward).
transforms.json: camera-to-world with OpenGL axes (y up, z backward): columns 1 and 2 change sign.
TUM: `time x y z qx qy qz qw`, camera-to-world.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.errors import InputRefused
from endorecon.io.atomic import write_text
from endorecon.io.calibration import camera_from_mapping
from endorecon.io.colmap import read_colmap
from endorecon.scene import Camera, Views

Array = NDArray[Any]

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Trajectory:
    """Poses read from a file, keyed by what the file knows of each frame."""

    world_from_camera: Array  # (n, 4, 4)
    names: tuple[str, ...] = ()  # file names, where the file has them
    frame_index: Array | None = None  # (n,), where the file has them
    time_s: Array | None = None  # (n,), where the file has them
    camera: Camera | None = None
    unit: str | None = None  # only when the file says so


# --- nerfstudio ---------------------------------------------------------------------------------


def transforms_dict(views: Views, files: list[str] | None = None) -> dict[str, Any]:
    """The content of a transforms.json: nerfstudio's keys, and frame_index and time_s a frame."""
    c = views.camera
    frames = []
    for k in range(len(views)):
        name = files[k] if files else f"frames/{int(views.frame_index[k]):06d}.png"
        frames.append(
            {
                "file_path": name,
                "frame_index": int(views.frame_index[k]),
                "time_s": float(views.time_s[k]),
                "transform_matrix": (views.world_from_camera[k] @ _OPENGL_FROM_OPENCV).tolist(),
            }
        )
    return {
        "camera_model": "OPENCV",
        "w": c.width,
        "h": c.height,
        "fl_x": float(c.fx),
        "fl_y": float(c.fy),
        "cx": float(c.cx),
        "cy": float(c.cy),
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "unit": views.unit,
        "space": views.space,
        "scale_source": views.scale_source,
        "frames": frames,
    }


def write_transforms(
    path: Path, views: Views, extra: dict[str, Any] | None = None, files: list[str] | None = None
) -> None:
    """Write `views` as nerfstudio's transforms.json; `extra` adds keys at the top."""
    write_text(Path(path), json.dumps({**transforms_dict(views, files), **(extra or {})}, indent=1))


def read_transforms(path: Path) -> Trajectory:
    """Poses and camera of a transforms.json, or of a {frames: [{camera_to_world}]} file.

    The cameras.json of a phantom's truth names the same matrix world_from_camera.
    """
    data = _json(path)
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputRefused("this file of poses has no frames", "give a transforms.json", path)
    key, flip = "transform_matrix", _OPENGL_FROM_OPENCV
    for name in ("camera_to_world", "world_from_camera"):  # OpenCV axes, as our data has them
        if name in frames[0]:
            key, flip = name, np.eye(4)
    try:
        poses = np.array([_four(f[key]) for f in frames]) @ flip
    except (KeyError, ValueError, TypeError) as error:
        raise InputRefused(
            f"a frame of this file has no usable pose ({error})", "write it again", path
        ) from error
    known = isinstance(data, dict) and any(n in data for n in ("fl_x", "fx", "camera_matrix"))
    index = [f.get("frame_index") for f in frames]
    times = [f.get("time_s") for f in frames]
    return Trajectory(
        _rigid(poses, path),
        tuple(str(f.get("file_path") or f.get("file") or "") for f in frames),
        None if None in index else np.array(index, int),
        None if None in times else np.array(times, float),
        camera_from_mapping(data) if known else None,
        data.get("unit") if data.get("unit") in ("mm", "unitless") else None,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused("this file of poses is not JSON that I can read", "", path) from error


def _four(rows: Any) -> Array:
    m = np.asarray(rows, float)
    if m.shape == (3, 4):
        m = np.vstack([m, [0.0, 0.0, 0.0, 1.0]])
    if m.shape != (4, 4):
        raise ValueError(f"a pose has shape {m.shape}")
    return m


def _rigid(poses: Array, path: object) -> Array:
    """Poses with rotations made exact; refused when they are scaled, mirrored or transposed."""
    if not np.isfinite(poses).all() or not np.allclose(poses[:, 3], [0, 0, 0, 1], atol=1e-6):
        raise InputRefused(
            "the poses are not rigid transforms (the last row must be 0 0 0 1)",
            "check whether the matrices are stored column by column",
            path,
        )
    R = poses[:, :3, :3]
    if (np.linalg.det(R) < 0).any() or not np.allclose(
        R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-2
    ):
        raise InputRefused(
            "the poses are mirrored or scaled, not rigid", "write camera-to-world matrices", path
        )
    out = poses.copy()
    for k in range(len(out)):
        out[k, :3, :3] = geometry.nearest_rotation(R[k])
    return out


# --- TUM ----------------------------------------------------------------------------------------


def read_tum(path: Path) -> Trajectory:
    """`time x y z qx qy qz qw` lines (# comments); InputRefused on anything else."""
    try:
        rows = np.atleast_2d(np.loadtxt(path, comments="#", dtype=float))
    except (OSError, ValueError) as error:
        raise InputRefused("this is not a TUM trajectory that I can read", "", path) from error
    if rows.shape[1] != 8 or not np.isfinite(rows).all():
        raise InputRefused(
            f"a TUM trajectory has 8 numbers a line, this has {rows.shape[1]}",
            "time x y z qx qy qz qw",
            path,
        )
    poses = np.array(
        [
            geometry.compose(geometry.rotation_from_quaternion(q[[3, 0, 1, 2]]), t)
            for t, q in zip(rows[:, 1:4], rows[:, 4:8])
        ]
    )
    return Trajectory(_rigid(poses, path), time_s=rows[:, 0])


def write_tum(path: Path, world_from_camera: Array, time_s: Array) -> None:
    """Write a TUM trajectory (readable by evo)."""
    lines = ["# time_s x y z qx qy qz qw"]
    for t, pose in zip(time_s, world_from_camera):
        q = geometry.quaternion_from_rotation(pose[:3, :3])
        lines.append(" ".join(f"{v:.9g}" for v in (t, *pose[:3, 3], *q[1:], q[0])))
    write_text(Path(path), "\n".join(lines) + "\n")


# --- any of them --------------------------------------------------------------------------------


def read_poses(path: Path) -> Trajectory:
    """Poses from a COLMAP folder, a .json or a TUM text file; InputRefused on anything else."""
    path = Path(path)
    if path.is_dir():
        model = read_colmap(path)
        keys = sorted(model.names, key=lambda k: model.names[k])
        cameras = {model.camera_of[k] for k in keys}
        return Trajectory(
            _rigid(np.array([model.world_from_camera[k] for k in keys]), path),
            tuple(model.names[k] for k in keys),
            camera=model.cameras[cameras.pop()] if len(cameras) == 1 else None,
        )
    if not path.is_file():
        raise InputRefused("these poses do not exist", "check the name", path)
    return read_transforms(path) if path.suffix.lower() == ".json" else read_tum(path)


def match_frames(trajectory: Trajectory, frame_index: Array, time_s: Array) -> Array:
    """(n,) row of the trajectory for each frame, -1 where there is none.

    By frame_index where the file has it; else by time (nearest, within half a frame); else by the
    number in the file name; else, when the file has a pose for each frame of the source, by order.
    """
    n = len(frame_index)
    out = np.full(n, -1)
    if trajectory.frame_index is not None:
        rows = {int(k): i for i, k in enumerate(trajectory.frame_index)}
        return np.array([rows.get(int(k), -1) for k in frame_index])
    if trajectory.time_s is not None:
        gap = float(np.median(np.diff(time_s))) if n > 1 else 0.04
        nearest = np.abs(trajectory.time_s[None] - np.asarray(time_s)[:, None])
        out = nearest.argmin(1)
        out[nearest.min(1) > 0.5 * gap + 1e-6] = -1
        return out
    numbers = [re.findall(r"\d+", Path(name).stem) for name in trajectory.names]
    if len(trajectory.world_from_camera) > int(frame_index[-1]):
        return np.asarray(frame_index).copy()
    if all(numbers):
        rows = {int(m[-1]): i for i, m in enumerate(numbers)}
        return np.array([rows.get(int(k), -1) for k in frame_index])
    return out
