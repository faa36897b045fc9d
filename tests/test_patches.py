"""Patches found again: to a fraction of a pixel, under another light; the kernel as defined."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon import kernels
from endorecon.patches import Picture, picture, plain, shift_patches

START = np.array([[40.5, 40.5], [30.2, 50.9], [60.0, 25.0]])
SAME = np.tile(np.eye(2), (3, 1, 1))


def wave(shift: np.ndarray, gain: float = 40.0, lift: float = 100.0, zoom: float = 1.0) -> Picture:
    """A picture whose content moves by `shift`, and grows round (45, 40)."""
    y, x = np.mgrid[0:80, 0:90] + 0.5
    x, y = 45 + (x - 45) / zoom - shift[0], 40 + (y - 40) / zoom - shift[1]
    return picture(gain * (np.sin(x / 3.1) * np.cos(y / 4.3) + 0.5 * np.sin((x + y) / 5.7)) + lift)


def test_a_shift_is_found_to_a_twentieth_of_a_pixel_under_another_light() -> None:
    shift = np.array([0.83, -1.27])
    found = shift_patches(wave(np.zeros(2)), wave(shift, 25.0, 60.0), START, START, SAME, 8, 0.1)
    assert np.abs(found.uv - (START + shift)).max() < 0.05 and found.ncc.min() > 0.99


def test_the_warp_is_followed() -> None:
    there = 1.2 * (START - [45, 40]) + [45, 40]
    args = (wave(np.zeros(2)), wave(np.zeros(2), zoom=1.2), START, there + 0.6)
    found = shift_patches(*args, 1.2 * SAME, 6, 0.1)
    assert np.abs(found.uv - there).max() < 0.05
    assert found.ncc.min() > 0.995 > shift_patches(*args, SAME, 6, 0.1).ncc.min()


def test_the_kernel_does_what_the_definition_says() -> None:
    if kernels.load("patches") is None:
        pytest.skip(kernels.why("patches"))
    rng = np.random.default_rng(0)
    a, b = (
        picture(wave(s).grey + rng.normal(0, 2, (80, 90)))
        for s in (np.zeros(2), np.array([0.6, 0.4]))
    )
    uv = rng.uniform(2, 78, (200, 2))  # some hang over the border
    warp = np.eye(2) + rng.normal(0, 0.05, (200, 2, 2))
    fast, slow = (f(a, b, uv, uv, warp, 4, 0.1) for f in (shift_patches, plain))
    same = np.abs(fast.uv - slow.uv).max(1) < 2e-3
    assert same.mean() > 0.98  # a step may end a hair's breadth on this or that side of "still"
    for name, scale in (("ncc", 1), ("residual", 100), ("normal", 1000)):
        gap = np.abs(getattr(fast, name)[same] - getattr(slow, name)[same])
        assert gap.max() < 0.01 * scale, name


def test_the_covariance_is_that_of_the_shifts_under_noise() -> None:
    rng = np.random.default_rng(1)
    clean, noise, shift = wave(np.zeros(2)), 3.0, np.array([0.3, 0.2])
    uv = np.tile(START[:1], (300, 1))
    found, told = [], []
    for _ in range(300):
        other = picture(wave(shift).grey + rng.normal(0, noise, (80, 90)))
        one = shift_patches(clean, other, uv[:1], uv[:1], SAME[:1], 6, 0.1)
        found.append(one.uv[0])
        told.append(one.covariance(0.0)[0])
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.array(found).T)))
    expected = np.sqrt(np.linalg.eigvalsh(np.mean(told, 0)))
    # interpolation takes noise out of what is left between the pictures: a little too sure
    assert np.all(spread / expected < 1.8) and np.all(spread / expected > 0.6)


def test_nothing_to_see_is_no_match() -> None:
    flat = picture(np.full((80, 90), 50.0))
    for f in (shift_patches, plain):
        found = f(flat, flat, START, START, SAME, 8, 0.1)
        assert np.isfinite(found.uv).all() and (found.ncc < 0.5).all()
        assert np.isfinite(f(flat, flat, START * np.nan, START, SAME, 4, 0.1).ncc).all()
