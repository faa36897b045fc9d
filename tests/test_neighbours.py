"""Which frames are compared with which: seen, apart enough, and for every place of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon.refine.neighbours import choose_neighbours, linked
from endorecon.scene import Camera

CAMERA = Camera(80, 60, 70.0, 70.0, 40.0, 30.0)


def along(axis: int, step: float, n: int) -> np.ndarray:
    """Poses that look along z and move along an axis, step by step."""
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, axis, 3] = step * np.arange(n)
    return poses


def flat(z: float, n: int) -> np.ndarray:
    return np.full((n, 60, 80), z, np.float32)


def test_frames_at_a_telling_distance_come_first() -> None:
    # 5 to 14 degrees at a depth of 20 are 1.75 to 4.9 to the side; the first choice is free
    chosen = choose_neighbours(flat(20.0, 40), CAMERA, along(0, 0.25, 40), 4)
    for i, mine in enumerate(chosen):
        assert len(mine) == len(set(mine)) == 4 and i not in mine
    apart = [0.25 * abs(mine[0] - i) for i, mine in enumerate(chosen)]
    assert min(apart) >= 1.75 and max(apart) <= 4.9


def test_a_near_wall_gets_partners_of_its_own() -> None:
    z = flat(40.0, 40)
    z[:, :, 60:] = 4.0  # a quarter of the picture, ten times as near
    poses = along(0, 0.25, 40)
    chosen = choose_neighbours(z, CAMERA, poses, 8)
    far_only = choose_neighbours(flat(40.0, 40), CAMERA, poses, 8)

    def close(neighbours: list[list[int]]) -> list[int]:  # 14 degrees of the near wall
        return [sum(abs(j - i) <= 4 for j in mine) for i, mine in enumerate(neighbours)]

    assert min(close(chosen)) >= 1
    assert sum(close(chosen)) > 2 * sum(close(far_only))


def test_a_frame_that_looks_away_or_is_behind_a_wall_is_of_no_use() -> None:
    poses = along(0, 1.0, 6)
    poses[3, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # turned round
    z = flat(20.0, 6)
    z[4] = 8.0  # a flap in front of this frame hides everything
    chosen = choose_neighbours(z, CAMERA, poses, 5)
    assert not any(3 in mine or 4 in mine for i, mine in enumerate(chosen) if i not in (3, 4))


def test_without_depth_without_motion_and_alone_there_are_none() -> None:
    assert choose_neighbours(flat(np.nan, 3), CAMERA, along(0, 1.0, 3), 4) == [[], [], []]
    assert choose_neighbours(flat(20.0, 3), CAMERA, along(0, 0.0, 3), 4) == [[], [], []]
    assert choose_neighbours(flat(20.0, 1), CAMERA, along(0, 1.0, 1), 4) == [[]]


def test_the_choice_has_no_unit() -> None:
    z, poses = flat(20.0, 12), along(1, 0.8, 12)
    z[:, :20] = 9.0
    big = poses.copy()
    big[:, :3, 3] *= 37.0
    assert choose_neighbours(z, CAMERA, poses, 5) == choose_neighbours(37 * z, CAMERA, big, 5)


@pytest.mark.parametrize(
    ("chosen", "expected"), [([[1], [2], []], [[1], [2, 0], [1]]), ([[], []], [[], []])]
)
def test_linked_frames_know_of_each_other(
    chosen: list[list[int]], expected: list[list[int]]
) -> None:
    assert linked(chosen) == expected
