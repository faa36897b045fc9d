"""benchmarks/spoiled.py: what counts as hidden, how it is judged, how refusals are kept."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endorecon.batch_scoring import Errors
from endorecon.config import Config
from endorecon.errors import InputRefused, NotEnoughInformation, OutOfResources
from endorecon.io.rundir import RunDir


@pytest.fixture(scope="module")
def spoiled() -> Any:
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("spoiled")
    finally:
        sys.path.remove(folder)


class Wall:
    """A truth of one frame; `seen`: its valid pixels."""

    world_from_camera = np.eye(4)[None]

    def __init__(self, seen: np.ndarray) -> None:
        self.z, self.seen = np.full(seen.shape, 7.0), seen
        self.z[0] = np.nan  # outside the round picture

    def depth(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        return self.z, self.seen & np.isfinite(self.z)

    def __len__(self) -> int:
        return 1


def errors(error: list[float], sigma: list[float], valid: int) -> Errors:
    e = np.array(error)
    return Errors(e, np.array(sigma), np.full(len(e), 7.0), np.ones(len(e)), valid, 1, 1)


def test_hidden_is_what_only_the_plain_truth_sees(spoiled: Any) -> None:
    everything, tool = np.ones((6, 8), bool), np.zeros((6, 8), bool)
    tool[:3, 2:5] = True
    z, valid = spoiled.Hidden(Wall(~tool), Wall(everything)).depth(0)
    assert (z[valid] == 7.0).all()  # the wall behind
    assert np.array_equal(valid[1:], tool[1:]) and not valid[0].any()


def test_a_hidden_pixel_is_untold_right_wrong_or_neither(spoiled: Any) -> None:
    # Inside its interval; far outside; outside by less than a millimetre. Seven are untold.
    e = errors([0.1, -5.0, 0.5], [0.2, 0.3, 0.1], 10)
    assert spoiled.verdict(e) == pytest.approx((0.7, 0.1, 0.1))
    assert spoiled.verdict(errors([], [], 10)) == (1.0, 0.0, 0.0)


def test_the_tables_tell_refusals_coverage_not_reached_and_cut_sentences(spoiled: Any) -> None:
    good = {"status": "converged", "rounds": 2, "frames_kept": 9, "frames_posed": 8,
            "quality": ["x" * 500], "warnings": ["loose path"]}  # fmt: skip
    bad = {"status": "failed", "exit_code": 4, "error": "only 2 of 9 frames"}
    none = spoiled.Row("none", 9, good, Counter(), errors([0.1] * 80, [0.1] * 80, 100))
    dark = spoiled.Row("smoke 1", 9, bad, Counter({"black": 3}))
    text = spoiled.tables([none, dark])
    assert "| smoke 1 | refused, exit code 4: only 2 of 9 frames | 9 | 0 | 0 | 3 black |" in text
    assert "none, 85 % (not reached) | 80.0 %" in text and "none, 75 % | 75.0 % | 0.100" in text
    assert "hidden" not in text and "x" * 200 not in text and "WARNING loose path" in text
    for table in text.split("\n\n")[:2]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_refusal_is_kept_and_a_fault_of_the_machine_is_not(
    spoiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def failing(error: Exception, recorded: bool = True) -> Any:
        def fit(job: Any) -> Any:
            tried.append(job.out.parent.parent.name)
            code = getattr(error, "exit_code", 0)
            if recorded:
                RunDir(job.out).update_info(status="failed", error=str(error), exit_code=code)
            raise error
            yield

        return fit

    def run(world: str) -> RunDir:
        return spoiled.run_of(tmp_path / world, Config(), "cpu", 0)

    monkeypatch.setattr(spoiled, "fit", failing(NotEnoughInformation("no parallax")))
    assert run("a").info()["exit_code"] == run("a").info()["exit_code"] == 4
    assert tried == ["a"]
    monkeypatch.setattr(spoiled, "fit", failing(OutOfResources("no memory")))
    for _ in range(2):
        with pytest.raises(OutOfResources):
            run("b")
    assert tried == ["a", "b", "b"]
    RunDir(tmp_path / "c" / "runs" / "cpu-full").update_info(status="running")
    monkeypatch.setattr(spoiled, "fit", failing(InputRefused("other settings"), recorded=False))
    with pytest.raises(InputRefused):
        run("c")
