"""Depth of a run against truth: the scale comes from true poses, or from the depths themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from endorecon.batch_scoring import figures, score
from endorecon.geometry import compose
from endorecon.io.rundir import RunDir
from endorecon.scene import DepthMap

N, H, W = 6, 40, 60


@dataclass(frozen=True)
class Known:
    """Slanted planes seen by cameras on a bent path, mm."""

    world_from_camera: np.ndarray | None

    def __len__(self) -> int:
        return N

    def depth(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        u = np.arange(W)[None, :] * np.ones((H, 1))
        return 20.0 + 0.2 * u + frame, np.ones((H, W), bool)


def a_run(folder: Path, poses: np.ndarray, scale: float, bias: float = 0.0) -> RunDir:
    """A run in a unit of its own: true depths divided by `scale`, one frame without a depth."""
    run = RunDir(folder)
    (folder / "depth").mkdir(parents=True)
    K = np.array([[50.0, 0, W / 2], [0, 50.0, H / 2], [0, 0, 1]])
    known = Known(None)
    frames = []
    for k in range(N):
        pose = poses[k].copy()
        pose[:3, 3] /= scale
        frames.append(
            {
                "file_path": f"frames/{k:06d}.png", "frame_index": k, "time_s": k / 10,
                "transform_matrix": (pose @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist(),
            }
        )  # fmt: skip
        if k == N - 1:
            continue
        z = ((known.depth(k)[0] + bias) / scale).astype(np.float32)
        one = np.ones_like(z)
        run.save_depth(DepthMap(z, 0.1 * one, one, K, pose, k))
    lens = {"model": "PINHOLE", "width": W, "height": H, "fx": 50.0, "fy": 50.0, "cx": W / 2,
            "cy": H / 2, "distortion": []}  # fmt: skip
    run.update_info(camera=lens, source_from_working=np.eye(3).tolist())
    (folder / "transforms.json").write_text(
        json.dumps({"camera_model": "PINHOLE", "fl_x": 50.0, "fl_y": 50.0, "cx": W / 2,
                    "cy": H / 2, "w": W, "h": H, "frames": frames})
    )  # fmt: skip
    rows = "".join(f"{k},0,1,,0,0,0,0\n" for k in range(N))
    header = "frame_index,time_s,kept,reason,sharpness,brightness,saturated,motion_px\n"
    (folder / "frames.csv").write_text(header + rows)
    return run


def path_of_cameras() -> np.ndarray:
    t = np.linspace(0, 1, N)
    centres = np.stack([8 * t, 3 * np.sin(5 * t), 4 * t**2], -1)
    return np.stack([compose(np.eye(3), c) for c in centres])


def test_with_true_poses_the_depths_themselves_do_not_set_the_scale(tmp_path: Path) -> None:
    poses = path_of_cameras()
    run = a_run(tmp_path, poses, scale=7.0, bias=0.5)
    found = figures(score(run, Known(poses)))
    assert found["bias"] == pytest.approx(0.5, abs=1e-3) == found["mae"]
    assert found["covered"] == pytest.approx((N - 1) / N, abs=0.03)  # the frame without a depth


def test_without_true_poses_the_scale_is_the_median_ratio_of_the_depths(tmp_path: Path) -> None:
    run = a_run(tmp_path, path_of_cameras(), scale=7.0)
    found = score(run, Known(None))
    assert figures(found)["mae"] == pytest.approx(0.0, abs=1e-3)
    assert np.median(found.sigma) == pytest.approx(0.7, rel=1e-3)  # scaled along
