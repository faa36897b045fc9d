"""Occlusion edges: moved to where the picture has them, and nothing else moved."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon.refine.edges import snap

NEAR, FAR = 10.0, 20.0


def two_walls(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture, true depth, and a depth whose near (bright) wall is 5 pixels too wide."""
    h, w = 60, 80
    column = np.arange(w)[None, :] + np.zeros((h, 1))
    edge = 38 + np.round(4 * np.sin(np.arange(h) / 9.0))[:, None]
    true = np.where(column < edge, NEAR, FAR).astype(np.float32)
    fat = np.where(column < edge + 5, NEAR, FAR).astype(np.float32)
    shade = np.where(column < edge, 0.7, 0.35)[..., None] * np.array([1.0, 0.6, 0.5])
    shade = shade + np.random.default_rng(seed).normal(0, noise, shade.shape)
    return np.round(255 * np.clip(shade, 0, 1)).astype(np.uint8), true, fat


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_near_wall_that_is_too_wide_ends_where_its_colour_ends(noise: float) -> None:
    picture, true, fat = two_walls(noise)
    assert (fat != true).mean() > 0.05
    out = snap(fat, picture, np.ones(true.shape, bool), 14, 0.05)
    assert (out != true).mean() < 0.002
    assert set(np.unique(out)) <= {np.float32(NEAR), np.float32(FAR)}  # no depth in between


def test_only_what_is_asked_moves_and_unknown_stays_unknown() -> None:
    picture, _, fat = two_walls()
    asked = np.zeros(fat.shape, bool)
    asked[:30] = True
    fat[10:14, 40:44] = np.nan
    out = snap(fat, picture, asked, 14, 0.05)
    assert np.array_equal(out[30:], fat[30:], equal_nan=True)
    assert np.array_equal(np.isnan(out), np.isnan(fat))
    assert (out[:10] != fat[:10]).any()
    assert snap(fat, picture, np.zeros_like(asked), 14, 0.05) is fat


def test_where_colours_are_alike_the_majority_of_the_window_decides_and_edges_stay() -> None:
    """Without contrast nothing is known about the edge: a straight one stays within two pixels."""
    _, true, fat = two_walls()
    grey = np.full((*true.shape, 3), 120, np.uint8)
    out = snap(fat, grey, np.ones(true.shape, bool), 14, 0.05)
    moved = np.abs((out == NEAR).sum(1) - (fat == NEAR).sum(1))
    assert moved[15:-15].max() <= 4
