"""The loop: what ends it, that it helps, that it keeps the best, that resume changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import endorecon.stereo as stereo
from endorecon.config import Config, with_differences
from endorecon.errors import NotEnoughInformation
from endorecon.io.rundir import RunDir
from endorecon.loop import RoundFinished, RoundsFinished, judge, median_change, rounds
from endorecon.refine import Maps, merged, pooled, together
from endorecon.scene import DepthMap, Disparity, StereoPair

from made_views import made_views  # isort: skip

SMALL = with_differences(
    Config(),
    {
        "field": {
            "sisters": 2, "steps_first": 150, "steps_round": 40,
            "rays": 1024, "proposal": 48, "march": 64,
        },
        "refine": {"neighbours": 6, "steps": 21},
        "stereo": {"supersample": 1.0},
        "loop": {"max_rounds": 2, "tolerance": 0.0},
    },
)  # fmt: skip


def history(*rows: tuple[float | None, float, float]) -> list[dict[str, Any]]:
    return [
        {"round": k, "change": c, "held_out_ncc": s, "stereo_agreement": a}
        for k, (c, s, a) in enumerate(rows)
    ]


def verdict(*rows: tuple[float | None, float, float], **loop: Any) -> RoundsFinished | None:
    return judge(history(*rows), with_differences(Config(), {"loop": loop}))


def test_a_fresh_start_and_round_zero_go_on() -> None:
    assert judge([], Config()) is None
    assert verdict((None, 0.7, 1.0)) is None


def test_depths_that_are_still_have_converged() -> None:
    out = verdict((None, 0.7, 1.0), (0.02, 0.75, 0.5), (0.003, 0.76, 0.5))
    assert out is not None and (out.status, out.best) == ("converged", 2)


def test_of_rounds_whose_scores_are_one_the_last_is_kept() -> None:
    rows = (None, 0.7, 1.0), (0.02, 0.761, 0.5), (0.003, 0.76, 0.5)
    out = verdict(*rows)
    assert out is not None and (out.status, out.best) == ("converged", 2) and "kept" not in out.why
    out = verdict(rows[0], (0.02, 0.765, 0.5), rows[2])
    assert out is not None and (out.status, out.best) == ("converged", 1) and "kept" in out.why


def test_a_first_round_that_hardly_moves_is_no_convergence_yet() -> None:
    assert verdict((None, 0.7, 1.0), (0.001, 0.7, 0.5)) is None


def test_a_change_that_grows_or_a_score_that_falls_is_divergence_and_the_best_round_stays() -> None:
    grew = verdict((None, 0.7, 1.0), (0.03, 0.75, 0.5), (0.12, 0.74, 0.5))
    assert grew is not None and (grew.status, grew.best) == ("diverged", 1)
    fell = verdict((None, 0.7, 1.0), (0.03, 0.75, 0.5), (0.02, 0.60, 0.5))
    assert fell is not None and (fell.status, fell.best) == ("diverged", 1)


def test_a_matcher_that_contradicts_the_field_everywhere_is_divergence() -> None:
    out = verdict((None, 0.7, 1.0), (0.02, 0.9, 0.01))
    assert out is not None and (out.status, out.best) == ("diverged", 0)
    assert "1 %" in out.why


def test_the_round_limit_is_said_to_be_one() -> None:
    out = verdict((None, 0.7, 1.0), (0.02, 0.75, 0.5), max_rounds=1)
    assert out is not None and out.status == "stopped" and "limit" in out.why


def test_change_is_the_median_over_pixels_known_in_both() -> None:
    a = np.array([1.0, 2.0, np.nan, 4.0])
    assert median_change(a, np.array([1.01, 2.02, 5.0, np.nan])) == pytest.approx(0.01)
    assert median_change(a, np.full(4, np.nan)) == 1.0


def test_a_reading_that_agrees_makes_a_depth_no_surer_and_one_that_contradicts_casts_doubt() -> (
    None
):
    nan = np.nan
    read = np.array([[10.1, 13.0, nan, 7.0, nan]])
    stereo = DepthMap(read, 0.2 + 0 * read, np.isfinite(read) * 1.0, np.eye(3), np.eye(4), 0)
    own = np.array([[10.0, 10.0, 10.0, nan, nan]])
    sigma, trust = np.full((1, 5), 0.1), np.where(np.isfinite(own), 0.3, 0.0)
    z, s, t = merged(stereo, (own, sigma, trust))
    np.testing.assert_allclose(z, [[10.02, 10.0, 10.0, 7.0, nan]])
    assert s[0, 0] == s[0, 2] == 0.1 and t[0, 0] == t[0, 2] == 0.3
    assert s[0, 1] == 3.0 and t[0, 1] < 0.1
    assert s[0, 3] == 0.2 and t[0, 3] > 0 and t[0, 4] == 0


def test_fields_of_several_seeds_tell_their_mean_and_what_they_dispute_is_spread() -> None:
    a, b = np.array([[10.0, 10.0, np.nan]]), np.array([[10.0, 14.4, 9.0]])
    fog = np.array([[0.2, 0.2, 0.2]])
    z, spread = together([(a, fog), (b, 2 * fog)])
    np.testing.assert_allclose(z, [[10.0, 12.0, np.nan]])
    assert spread[0, 0] == pytest.approx(0.3) and spread[0, 1] > 6.5
    alone = together([(a, fog)])
    np.testing.assert_allclose(alone[0], a)
    np.testing.assert_allclose(alone[1][:, :2], fog[:, :2])


def test_two_rounds_are_pooled_by_how_sure_they_are_and_never_across_two_surfaces() -> None:
    nan = np.nan

    def maps(z: list[float], relative: list[float], trust: list[float]) -> Maps:
        a = np.array(z, np.float32)[None, None]
        return Maps(a, a * np.float32(relative), np.array(trust, np.float32)[None, None])

    before = maps([10.0, 10.0, 10.0, nan, 10.0, nan], [0.01, 0.02, 0.01, nan, 0.01, nan], [0.5] * 6)
    fresh = maps([10.0, 10.2, 14.0, 7.0, nan, nan], [0.01, 0.01, 0.03, 0.04, nan, nan], [0.8] * 6)
    out = pooled(before, fresh)
    z, sigma = out.z[0, 0], out.sigma[0, 0]
    np.testing.assert_allclose(z[:2], [10.0, 10.0 * 1.02**0.8], rtol=1e-5)
    np.testing.assert_allclose(z[2:], [10.0, 7.0, 10.0, nan])
    assert sigma[0] == pytest.approx(0.1)  # the same twice is not measured twice
    assert sigma[1] == pytest.approx(np.hypot(z[1] * 0.02**0.5 * 0.1, 0.1), rel=1e-4)
    assert sigma[2] == pytest.approx(np.hypot(0.1, 2.0), rel=1e-4)  # disputed
    np.testing.assert_allclose(sigma[3:], [0.28, 0.1, nan], rtol=1e-5)
    np.testing.assert_allclose(out.trust[0, 0, :5], [0.8, 0.8, 0.5, 0.8, 0.5])


@pytest.mark.slow
def test_rounds_bring_the_depths_nearer_to_the_truth_and_resume_gives_the_same_bits(
    tmp_path: Path,
) -> None:
    views, truth = made_views()
    events = list(rounds(views, SMALL, RunDir(tmp_path / "whole"), 3, "cpu"))
    done = [e for e in events if isinstance(e, RoundFinished)]
    assert [e.round for e in done] == [0, 1, 2]
    assert isinstance(events[-1], RoundsFinished)

    def error(run: str, k: int) -> np.ndarray:
        z = np.stack([d.z for d in RunDir(tmp_path / run).round_depths(k)])
        return np.abs(z - truth)[:, 6:-6, 6:-6]

    first, last = error("whole", 0), error("whole", 2)
    assert np.nanmedian(last) < 0.5 * np.nanmedian(first)
    assert np.nanmedian(last) < 0.05 and np.isfinite(last).mean() > 0.9

    broken = RunDir(tmp_path / "broken")
    generator = rounds(views, SMALL, broken, 3, "cpu")
    for event in generator:  # stopped within round 1
        if getattr(event, "round", None) == 1 and getattr(event, "done", 0) == 3:
            break
    generator.close()
    assert broken.rounds() == [0]
    list(rounds(views, SMALL, broken, 3, "cpu"))
    for k in (0, 1, 2):
        for a, b in zip(
            RunDir(tmp_path / "whole").round_depths(k), broken.round_depths(k), strict=True
        ):
            np.testing.assert_array_equal(a.z, b.z)
            np.testing.assert_array_equal(a.sigma, b.sigma)

    # finished rounds are found again, though the first no longer holds its weights
    assert not any(isinstance(e, RoundFinished) for e in rounds(views, SMALL, broken, 3, "cpu"))

    # a flipped byte in the last checkpoint: that round is computed again, with the same result
    file = tmp_path / "broken/rounds/02/field.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))
    again = list(rounds(views, SMALL, broken, 3, "cpu"))
    assert any("computed again" in getattr(e, "sentence", "") for e in again)
    np.testing.assert_array_equal(
        broken.round_depths(2)[4].z, RunDir(tmp_path / "whole").round_depths(2)[4].z
    )


@pytest.mark.slow
def test_a_field_without_any_surface_ends_with_one_sentence(tmp_path: Path) -> None:
    views, _ = made_views()
    foggy = with_differences(SMALL, {"field": {"steps_first": 60}})
    with pytest.raises(NotEnoughInformation, match="no surface in any view"):
        list(rounds(views, foggy, RunDir(tmp_path), 3, "cpu"))
    assert RunDir(tmp_path).rounds() == []


class Flipped:
    """A matcher whose sign is wrong."""

    def __init__(self, config: object) -> None:
        self.inner = stereo.sweep.SweepMatcher(config)  # type: ignore[attr-defined]

    def match(self, pair: StereoPair) -> Disparity:
        found = self.inner.match(pair)
        return Disparity(-found.d, found.sigma)


@pytest.mark.slow
def test_a_matcher_with_its_sign_flipped_ends_diverged_and_the_best_round_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import endorecon.stereo.sweep

    monkeypatch.setattr(endorecon.stereo.sweep, "Flipped", Flipped, raising=False)
    monkeypatch.setitem(stereo.MATCHERS, "sweep", "Flipped")
    views, _ = made_views(6)
    run = RunDir(tmp_path)
    events = list(rounds(views, SMALL, run, 3, "cpu"))
    end = events[-1]
    assert isinstance(end, RoundsFinished)
    assert (end.status, end.best) == ("diverged", 0)
    assert np.isfinite(run.round_depths(0)[0].z).mean() > 0.5
