"""Smoothing of depth maps: kernel and twin agree, noise goes, steps and holes stay; certainty."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon import kernels
from endorecon.config import CertaintyConfig
from endorecon.refine import smooth as module
from endorecon.refine.certainty import Evidence, features, first_sigma, relative_sigma
from endorecon.refine.smooth import smooth


def world(h: int, w: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A curved wall beside a farther one, and what a sweep with relative `noise` saw of it."""
    y, x = np.mgrid[:h, :w].astype(float)
    truth = 10 + 0.02 * x + 0.0004 * (y - h / 2) ** 2
    truth[:, 3 * w // 4 :] = 20.0
    rng = np.random.default_rng(3)
    return truth, (truth * (1 + noise * rng.standard_normal(truth.shape))).astype(np.float32)


@pytest.mark.parametrize("size", [(31, 47), (16, 16), (3, 5), (1, 1)])
def test_the_kernel_smooths_as_its_plain_twin(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels.load("mls") is None:
        pytest.skip(kernels.why("mls"))
    truth, seen = world(*size, noise=0.01)
    seen[: size[0] // 3, : size[1] // 3] = np.nan
    sigma = np.random.default_rng(0).uniform(0.002, 0.05, size)
    start = np.where(np.arange(size[1]) < 2, np.nan, truth)
    ours = smooth(seen, sigma, start, 3.0, 0.04)
    monkeypatch.setenv("ENDORECON_KERNELS", "off")
    plain = smooth(seen, sigma, start, 3.0, 0.04)
    for name in ("z", "variance", "residual"):
        a, b = getattr(ours, name), getattr(plain, name)
        # float32 sums with few samples at the rim of the tolerance lose digits: rare, and bounded
        np.testing.assert_allclose(a, b, rtol=3e-3)
        assert np.isclose(a, b, rtol=2e-4, equal_nan=True).mean() >= 0.85


def test_noise_falls_fourfold_and_neither_curvature_nor_the_step_is_lost() -> None:
    truth, seen = world(120, 160, noise=0.005)
    out = smooth(seen, np.full(truth.shape, 0.005), truth, 5.0, 0.03)
    miss = np.abs(out.z / truth - 1)
    assert miss.mean() < 0.25 * np.abs(seen / truth - 1).mean()
    beside = np.s_[10:-10, 3 * 160 // 4 - 3 : 3 * 160 // 4 + 3]
    assert miss[beside].max() < 0.01  # the two walls are a factor 1.6 apart
    # the noise that is left is what the fit says, for independent samples
    inner = np.s_[20:-20, 20:100]
    claimed = np.sqrt(out.variance[inner]).mean()
    assert 0.7 < (out.z / truth - 1)[inner].std() / claimed < 1.4
    assert abs(out.residual[inner].mean() / 0.005 - 1) < 0.25


def test_a_hole_is_bridged_only_where_a_start_says_that_a_surface_is() -> None:
    truth, seen = world(60, 80, noise=0.0)
    seen[20:30, 20:30] = np.nan
    start = truth.copy()
    start[:, :10] = np.nan
    out = smooth(seen, np.full(truth.shape, 0.01), start, 5.0, 0.03)
    assert np.abs(out.z / truth - 1)[18:32, 18:32].max() < 0.002
    assert np.isnan(out.z[:, :10]).all() and np.isinf(out.variance[:, :10]).all()
    assert out.variance[25, 25] > 1.5 * out.variance[45, 45]


def test_foreign_depths_do_not_bend_a_surface() -> None:
    truth, seen = world(60, 80, noise=0.001)
    seen[::3, ::3] *= 1.2
    out = smooth(seen, np.full(truth.shape, 0.005), truth, 5.0, 0.03)
    assert np.abs(out.z / truth - 1)[8:-8, 8:48].max() < 0.002


def test_powers_are_those_of_the_header() -> None:
    assert module._POWERS[:6] == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    assert len(module._POWERS) == 15


def made_of(**what: float) -> Evidence:
    """Evidence of four pixels that is good but for what is given."""
    good = {
        "score": 0.9, "agree": 6.0, "against": 0.0, "residual": 1e-3, "support": 3e-4,
        "edge": 0.004, "wide": 0.004, "prior": 0.002, "spread": 4e-4, "least": 2e-3, "count": 16.0,
    }  # fmt: skip
    return Evidence(**{k: np.full((1, 2, 2), v) for k, v in (good | what).items()})


POOR = {
    "agree": 0.0, "against": 5.0, "residual": 0.03, "support": 0.02, "edge": 0.5, "wide": 0.5,
    "prior": 0.2,
}  # fmt: skip


def test_more_evidence_makes_a_first_opinion_surer_and_missing_evidence_never_does() -> None:
    config = CertaintyConfig()
    sure = first_sigma(made_of(), config)
    assert (sure > 2e-4).all() and (sure < 0.02).all()
    for name, worse in POOR.items():
        assert (first_sigma(made_of(**{name: worse}), config) > 1.1 * sure).all(), name
    lost = made_of(support=np.inf, residual=np.inf, edge=np.nan, prior=np.nan)
    assert all(np.isfinite(f).all() for f in features(lost).values())
    assert (first_sigma(lost, config) > 10 * sure).all()


TYPICAL = {
    "residual": 3e-3, "support": 1e-3, "edge": 0.008, "wide": 0.06, "prior": 0.01, "spread": 1e-3,
    "least": 5e-3,
}  # fmt: skip


def test_the_last_word_is_sure_of_good_depths_and_unsure_of_poor_ones() -> None:
    sure = relative_sigma(made_of(**TYPICAL))
    assert (sure > 2e-3).all() and (sure < 0.015).all()
    alone = {"spread": 0.0, "least": 0.2, "count": 0.0}
    assert (relative_sigma(made_of(**POOR, **alone)) > 10 * sure).all()
    torn = made_of(**(TYPICAL | {"spread": 0.05, "least": 0.01, "against": 4.0, "residual": 0.02}))
    assert (relative_sigma(torn) > 3 * sure).all()
    for name, poor in {
        "spread": 0.05, "least": 0.05, "residual": 0.05, "support": 0.05, "edge": 0.3, "prior": 0.2,
        "against": 5.0, "agree": 0.0, "count": 0.0,
    }.items():  # fmt: skip
        assert (relative_sigma(made_of(**(TYPICAL | {name: poor}))) > 1.1 * sure).all(), name
    lost = made_of(support=np.inf, residual=np.inf, edge=np.nan, prior=np.nan, spread=np.nan)
    assert np.isfinite(relative_sigma(lost)).all() and (relative_sigma(lost) <= 1.0).all()
