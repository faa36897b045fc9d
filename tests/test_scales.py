"""Millimetres without the CT: from metric poses, from a known length; wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.evaluate.inputs import ReconLandmarks
from endorecon.evaluate.measure import Plan
from endorecon.evaluate.scales import scale_from_known, scale_from_poses
from endorecon.geometry import apply, compose, invert
from endorecon.io.rundir import Cameras
from endorecon.scene import Landmarks

FACTOR = 2.24  # mm per unit of the run


def flight(count: int = 40) -> np.ndarray:
    """Camera centres (n, 3) in mm: forward 20 mm with a sideways sweep."""
    t = np.linspace(0, 1, count)
    return np.column_stack([6 * np.sin(9 * t), 4 * np.cos(7 * t), 20 * t])


def cameras(centres_mm: np.ndarray) -> Cameras:
    """The same flight as a run without scale sees it."""
    run_from_mm = invert(
        compose(Rotation.from_rotvec([0.4, 0.2, -0.7]).as_matrix(), [5, 6, 7], FACTOR)
    )
    poses = np.tile(np.eye(4), (len(centres_mm), 1, 1))
    poses[:, :3, 3] = apply(run_from_mm, centres_mm)
    n = len(poses)
    return Cameras(np.arange(n) * 2, np.arange(n) / 15.0, poses, np.eye(3), 640, 480, ("",) * n)


def tracker(file: Path, centres_mm: np.ndarray, **extra: object) -> Path:
    frames = []
    for k, c in enumerate(centres_mm):
        pose = np.eye(4)
        pose[:3, 3] = c
        frames.append({"frame_index": 2 * k, "camera_to_world": pose.tolist()})
    file.write_text(json.dumps({**extra, "frames": frames}))
    return file


def test_metric_poses_give_the_scale_and_how_surely(tmp_path: Path) -> None:
    path, ratio = flight(), []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.2, path.shape)
        found = scale_from_poses(
            cameras(path), tracker(tmp_path / "t.json", path + noise, unit="mm")
        )
        assert found.factor == pytest.approx(FACTOR, rel=0.02) and "40 frames" in found.source
        ratio.append(np.log(found.factor / FACTOR) / found.log_sigma)
    assert 0.6 < np.std(ratio) < 1.5  # in the standard deviations that it claims


def test_poses_that_cannot_give_a_scale_are_refused(tmp_path: Path) -> None:
    path, file = flight(), tmp_path / "t.json"
    with pytest.raises(InputRefused, match="do not follow the run's path"):
        scale_from_poses(cameras(path), tracker(file, np.random.default_rng(0).permutation(path)))
    with pytest.raises(InputRefused, match="belong to 4 frames"):
        scale_from_poses(cameras(path), tracker(file, path[:4]))
    noise = np.random.default_rng(0).normal(0, 0.05, path.shape)
    with pytest.raises(NotEnoughInformation, match="move the tip farther"):
        scale_from_poses(cameras(0.1 * path), tracker(file, 0.1 * path + noise))


def test_known_lengths_in_view_are_weighted_by_what_they_know() -> None:
    points = np.array([[0, 0, 0], [10, 0, 0], [0, 5, 0], [0, 9, 0.0]]) / FACTOR
    sure = np.tile(1e-8 * np.eye(3), (4, 1, 1))
    mean = Landmarks(tuple("abcd"), points, "unitless", "reconstruction", sure)
    recon = ReconLandmarks((), mean, None, "3D points")
    plans = [
        Plan("shaft", "point-to-point", ("a", "b"), 10.0, 0.05),
        Plan("ruler", "point-to-point", ("c", "d"), 4.4, 0.4),  # 10 % too long, and says so
        Plan("no source", "point-to-point", ("a", "d")),
    ]
    found = scale_from_known(plans, recon)
    assert found is not None and "shaft, ruler" in found.source
    assert found.factor == pytest.approx(FACTOR, rel=0.003)
    assert found.log_sigma == pytest.approx(0.005, rel=0.05)
    assert scale_from_known(plans[2:], recon) is None
