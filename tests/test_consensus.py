"""Depth maps brought to one word: kernel and twin agree, those who know best are believed."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from test_refine import wavy_world

from endorecon import kernels
from endorecon.refine.consensus import choose_sources, consensus, of_one

module = importlib.import_module("endorecon.refine.consensus")
INNER = (slice(15, -15), slice(20, -20))


def noisy_maps(sigma: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of the wavy world with these standard deviations, what they say of it, and the truth."""
    _, truth = wavy_world()
    rng = np.random.default_rng(3)
    s = np.broadcast_to(np.array(sigma)[:, None, None], truth.shape).astype(np.float32)
    z = (truth + s * rng.normal(size=truth.shape)).astype(np.float32)
    return z, np.ascontiguousarray(s), truth


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error[INNER] ** 2)))


def test_the_kernel_does_what_its_plain_twin_says(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.load("sweep") is None:
        pytest.skip(kernels.why("sweep"))
    photos, _ = wavy_world()
    z, sigma, _ = noisy_maps([0.2, 0.05, 0.1, 0.02, 0.1, 0.3])
    z[0, 20:24, 30:40] = np.nan
    z[3, :, 40:50] *= 1.2  # another surface
    ours = of_one(photos, 0, [1, 2, 3, 4, 5], z, sigma)
    monkeypatch.setattr(module.kernels, "load", lambda *_: None)
    plain = of_one(photos, 0, [1, 2, 3, 4, 5], z, sigma)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert np.isclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True).mean() > 0.995


def test_a_map_learns_from_those_that_know_better_and_says_how_far_they_are_apart() -> None:
    photos, _ = wavy_world()
    z, sigma, truth = noisy_maps([0.3, 0.3, 0.3, 0.02, 0.02, 0.02])
    out = consensus(photos, [[j for j in range(6) if j != i] for i in range(6)], z, sigma)
    assert rms(out.z[0] - truth[0]) < 0.2 * rms(z[0] - truth[0])
    assert rms(out.z[3] - truth[3]) < 1.05 * rms(z[3] - truth[3])
    assert np.median(out.count[0][INNER]) == 5
    assert 0.015 < np.median(out.least[0][INNER]) < 0.025
    assert 0.005 < np.median(out.spread[0][INNER]) < 0.04


def test_a_map_of_another_surface_is_outvoted_even_where_it_is_sure() -> None:
    photos, _ = wavy_world()
    z, sigma, truth = noisy_maps([0.05] * 6)
    z[2] *= 1.1
    out = consensus(photos, [[j for j in range(6) if j != i] for i in range(6)], z, sigma)
    assert rms(out.z[0] - truth[0]) < 0.06
    assert rms(out.z[2] - truth[2]) < 0.3 * rms(z[2] - truth[2])
    assert np.median(out.spread[0][INNER]) > 0.2  # and the contradiction is told


def test_what_is_unknown_stays_so_and_alone_a_map_stays_as_it_is() -> None:
    photos, _ = wavy_world()
    z, sigma, _ = noisy_maps([0.05] * 6)
    z[0, 20:24, 30:40] = np.nan
    kept, spread, least, count = of_one(photos, 0, [], z, sigma)
    np.testing.assert_array_equal(kept, z[0])
    np.testing.assert_array_equal(least, sigma[0])
    assert not spread.any() and not count.any()
    assert np.isnan(of_one(photos, 0, [1, 2], z, sigma)[0][20:24, 30:40]).all()


def test_sources_are_neighbours_first_and_reach_along_the_path() -> None:
    path = [[j for j in (i - 2, i - 1, i + 1, i + 2) if 0 <= j < 40] for i in range(40)]
    chosen = choose_sources(path, 8)
    for i, mine in enumerate(chosen):
        assert i not in mine and len(set(mine)) == len(mine) <= 8
        assert set(path[i]) <= set(mine)
    assert {16, 24} <= set(chosen[20])  # neighbours of neighbours
    assert choose_sources([[], []], 8) == [[], []]


@pytest.mark.gpu
def test_the_gpu_finds_the_same_word() -> None:
    photos, _ = wavy_world()
    z, sigma, _ = noisy_maps([0.2, 0.05, 0.1, 0.02, 0.1, 0.3])
    cpu = of_one(photos, 0, [1, 2, 3, 4, 5], z, sigma)
    gpu = of_one(photos, 0, [1, 2, 3, 4, 5], z, sigma, "cuda")
    for a, b in zip(cpu, gpu, strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True).mean() > 0.995
