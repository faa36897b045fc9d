"""The phantom's flights: continuous, clear of the wall, and held by a wrist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from endorecon.config import PhantomConfig
from endorecon.phantom.anatomy import make_anatomy
from endorecon.phantom.motion import make_path, progress

TIMES = np.arange(80) / 10.0


def path_of(family: str, seed: int, config: PhantomConfig, times: np.ndarray = TIMES) -> np.ndarray:
    a = make_anatomy(family, seed)
    return make_path(np.random.default_rng(seed), a.route, a.distance, times, config)


@pytest.mark.parametrize("family", ["sinus", "colon"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tip_never_comes_near_the_wall(family: str, seed: int) -> None:
    a = make_anatomy(family, seed)
    poses = make_path(np.random.default_rng(seed), a.route, a.distance, TIMES, PhantomConfig())
    assert a.distance(poses[:, :3, 3]).min() > 2.0


@pytest.mark.parametrize("family", ["sinus", "colon"])
def test_poses_are_rigid_and_the_motion_is_continuous(family: str) -> None:
    poses = path_of(family, 4, PhantomConfig())
    R = poses[:, :3, :3]
    assert np.allclose(R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(R), 1.0)
    step = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turn = np.degrees(np.arccos(np.clip(np.einsum("ni,ni->n", R[1:, :, 2], R[:-1, :, 2]), -1, 1)))
    assert step.max() < 2.5 and turn.max() < 8.0  # mm and degrees in a tenth of a second
    assert np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum() > 15.0


def test_there_is_lateral_travel_for_parallax() -> None:
    poses = path_of("sinus", 1, PhantomConfig())
    c = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    spread = np.linalg.svd(c, compute_uv=False) / np.sqrt(len(c))
    assert spread[1] > 0.8  # mm RMS across the main direction


def test_a_thirty_degree_scope_looks_thirty_degrees_off_the_straight_one() -> None:
    straight = path_of("sinus", 2, PhantomConfig())
    angled = path_of("sinus", 2, replace(PhantomConfig(), scope_deg=30.0))
    assert np.allclose(straight[:, :3, 3], angled[:, :3, 3])
    cosine = np.einsum("ni,ni->n", straight[:, :3, 2], angled[:, :3, 2])
    assert np.degrees(np.arccos(cosine)) == pytest.approx(np.full(len(cosine), 30.0), abs=0.2)
    # It looks up: towards the superior side where the shaft is level.
    assert np.mean(angled[:, 2, 2] > straight[:, 2, 2]) > 0.9


def test_the_path_does_not_depend_on_the_frame_rate() -> None:
    config = replace(PhantomConfig(), tremor=0.0)
    slow = path_of("colon", 3, config, np.arange(41) / 10.0)
    fast = path_of("colon", 3, config, np.arange(81) / 20.0)
    assert np.allclose(slow[:, :3, 3], fast[::2, :3, 3], atol=0.02)


def test_insertion_pauses_and_comes_back() -> None:
    t = np.arange(0, 30, 0.05)
    s = progress(np.random.default_rng(0), t, 35.0, 6.0)
    speed = np.diff(s) / 0.05
    assert s.min() >= 0 and s.max() <= 1 and s.max() > 0.9
    assert (speed > 0.02).any() and (speed < -0.02).any() and (np.abs(speed) < 0.004).mean() > 0.02
    assert np.abs(speed).max() * 35.0 < 2.5 * 6.0


def test_two_frames_are_enough_for_a_path() -> None:
    assert path_of("colon", 0, PhantomConfig(), np.array([0.0, 0.1])).shape == (2, 4, 4)
