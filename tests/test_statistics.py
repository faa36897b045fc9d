"""Agreement statistics against published tables, and against the slow obvious version."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon.evaluate import statistics as st
from endorecon.evaluate.icp import Target


def test_bland_altman_gives_the_figures_of_the_lancet_paper() -> None:
    # Bland & Altman, Lancet 1986: peak flow, Wright meter and mini meter, first readings
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = st.bland_altman(np.array(wright) - np.array(mini))
    assert round(found.bias, 1) == -2.1 and round(found.sd, 1) == 38.8
    # the paper rounds 1.96 up to 2 (-79.7 and 75.5); 1.96 gives -78.1 and 73.9
    assert round(found.lower, 1) == -78.1 and round(found.upper, 1) == 73.9
    assert found.bias_ci == pytest.approx((-22.1, 17.8), abs=0.1)
    # its standard error of a limit, sqrt(3 s^2 / n) = 16.3, is the approximation of ours
    half = (found.upper_ci[1] - found.upper_ci[0]) / 2
    assert half == pytest.approx(2.12 * 16.3, rel=0.05)


def test_icc_gives_the_figures_of_shrout_and_fleiss() -> None:
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = st.icc(np.array(table, float))
    assert [round(x, 2) for x in (found.one_way, found.agreement, found.consistency)] == [
        0.17, 0.29, 0.71,
    ]  # fmt: skip
    assert found.one_way_ci == pytest.approx((-0.13, 0.72), abs=0.01)
    assert found.agreement_ci == pytest.approx((0.02, 0.76), abs=0.01)
    assert found.consistency_ci == pytest.approx((0.34, 0.95), abs=0.01)


def test_repeats_widen_the_limits_and_are_no_new_patients() -> None:
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(200), 5)
    d = 0.1 + rng.normal(0, 0.3, 200)[subject] + rng.normal(0, 0.4, 1000)
    found = st.bland_altman(d, subject)
    assert found.subjects == 200 and found.sd == pytest.approx(0.5, rel=0.06)
    assert found.bias_ci[1] - found.bias_ci[0] == pytest.approx(2 * 1.97 * 0.35 / 200**0.5, rel=0.1)


def test_tost_agrees_with_two_one_sided_t_tests_written_out() -> None:
    from scipy.stats import t

    d = np.random.default_rng(1).normal(0.2, 0.5, 12)
    se = d.std(ddof=1) / np.sqrt(12)
    for margin in (1.0, 0.625, 0.5):
        slow = max(t.sf((d.mean() + margin) / se, 11), t.cdf((d.mean() - margin) / se, 11))
        assert st.tost(d, margin) == pytest.approx(slow, rel=1e-9)


def test_variance_components_are_found_again() -> None:
    rng = np.random.default_rng(2)
    parts, observers, repeats = 60, 6, 4
    cell = [(s, o, r) for s in range(parts) for o in range(observers) for r in range(repeats)]
    s, o, _ = np.array(cell).T
    effect = rng.normal(0, 0.2, (parts, observers))
    d = 0.15 + rng.normal(0, 0.3, parts)[s] + effect[s, o] + rng.normal(0, 0.1, len(cell))
    found = st.precision(d, s.astype(str), o.astype(str))
    assert found.method.startswith("mixed")
    assert found.repeatability == pytest.approx(0.1, rel=0.05)
    assert found.between_observer == pytest.approx(0.2, rel=0.1)
    assert found.reproducibility == pytest.approx(np.hypot(0.1, 0.2), rel=0.1)
    assert found.between_distance == pytest.approx(0.3, rel=0.25)
    assert abs(found.bias - 0.15) < 0.12


def test_share_bootstraps_whole_clusters() -> None:
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(40), 10)
    hits = (rng.random(40) < 0.9)[cluster]  # all of a cluster hit or miss together
    _, low, high = st.share_with_interval(hits, cluster)
    _, low1, high1 = st.share_with_interval(hits)
    assert high - low > 2 * (high1 - low1)
    share, low, high = st.share_with_interval(np.ones(300, bool))
    assert (share, high) == (1, 1) and low == pytest.approx(0.99)
    one = np.array([True, True, True, False])
    share, low, high = st.share_with_interval(one, np.zeros(4, int))
    assert share == 0.75 and np.isnan([low, high]).all()
    assert np.isnan(st.share_with_interval(np.zeros(0, bool))).all()
    share, low, high = st.share_with_interval(np.tile(one, 3), np.repeat([0, 1, 2], 4))
    assert share == low == high == 0.75


def test_surface_distance_is_signed_and_leaves_out_what_does_not_overlap() -> None:
    n = 30
    x, y = np.meshgrid(np.linspace(0, 29, n), np.linspace(0, 29, n))
    v = np.column_stack([x.ravel(), y.ravel(), np.zeros(n * n)])
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    f = np.concatenate(
        [np.column_stack([a, a + 1, a + n]), np.column_stack([a + 1, a + n + 1, a + n])]
    )
    target = Target(v, f)  # normals towards +z
    above = np.column_stack([np.full(50, 10.3), np.linspace(5, 20, 50), np.full(50, 0.4)])
    beside = above + np.array([40, 0, 0])
    found, signed = st.surface_distance(np.vstack([above, beside]), target, 5.0)
    assert found.coverage == 0.5 and found.mean == pytest.approx(0.4, abs=1e-5)
    assert found.signed == pytest.approx(0.4, abs=1e-5) and found.within_1mm == 0.5
    assert np.isnan(signed[50:]).all()
    below, _ = st.surface_distance(above - np.array([0, 0, 0.8]), target, 5.0)
    assert below.signed == pytest.approx(-0.4, abs=1e-5) and below.mean == pytest.approx(
        0.4, abs=1e-5
    )
