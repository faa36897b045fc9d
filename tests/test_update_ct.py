"""The CT opened by what the camera looked through, against the CT truly taken after surgery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_run import make_ct, make_run

from endorecon.config import EvaluateConfig
from endorecon.evaluate.icp import Target
from endorecon.evaluate.run import place
from endorecon.evaluate.update_ct import dice, update_ct
from endorecon.io.ct import ct_surface, read_ct
from endorecon.io.rundir import RunDir, iterate_depths


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple:  # type: ignore[type-arg]
    """A run filmed after surgery, the CT before and the CT after."""
    made = make_run(tmp_path_factory.mktemp("surgery"), 1, frames=20, opened=6.0, ct_format="nii")
    before, after = read_ct(made.ct), make_ct(0.5, 1, 6.0)
    surface = place(RunDir(made.run).surface(), made.ct_from_recon)
    depths = list(iterate_depths(RunDir(made.run)))
    return before, after, surface, depths, made.ct_from_recon


@pytest.mark.slow
def test_what_was_opened_agrees_with_the_ct_after_surgery(case: tuple) -> None:  # type: ignore[type-arg]
    from scipy.ndimage import binary_opening

    before, after, surface, depths, T = case
    found = update_ct(before, depths, surface, T, -400.0, EvaluateConfig())
    truth = binary_opening((before.hu > -400) & (after.hu <= -400))
    assert dice(found.opened, truth) > 0.9
    a, b = (ct_surface(v, -400.0, None, 0.02)[0] for v in (found.volume, after))
    there = np.linalg.norm(a.vertices - Target(b.vertices, b.faces).closest(a.vertices)[0], axis=1)
    back = np.linalg.norm(b.vertices - Target(a.vertices, a.faces).closest(b.vertices)[0], axis=1)
    assert (there.mean() + back.mean()) / 2 < 0.11
    assert max(np.percentile(there, 95), np.percentile(back, 95)) < 0.69


@pytest.mark.slow
def test_nothing_but_the_opened_region_changes_and_nothing_is_filled(case: tuple) -> None:  # type: ignore[type-arg]
    before, after, surface, depths, T = case
    found = update_ct(before, depths, surface, T, -400.0, EvaluateConfig())
    changed = found.volume.hu != before.hu
    assert (found.volume.hu <= before.hu).all()
    assert changed.mean() < 0.03
    assert found.opened_mm3 == pytest.approx(found.opened.sum() * 0.125)
    same = update_ct(after, depths, surface, T, -400.0, EvaluateConfig())  # already up to date
    assert same.opened_mm3 < 0.03 * found.opened_mm3


def test_dice_of_known_masks() -> None:
    a, b = np.zeros(10, bool), np.zeros(10, bool)
    assert dice(a, b) == 1.0
    a[:4], b[2:6] = True, True
    assert dice(a, b) == 0.5


@pytest.mark.slow
def test_evaluate_writes_the_updated_ct_when_asked(tmp_path: Path) -> None:
    from endorecon.evaluate.run import evaluate_run

    made = make_run(tmp_path, 1, frames=10, opened=6.0, ct_format="nii")
    result = evaluate_run(
        made.run, made.ct, made.ct_landmarks, None, made.clicks, made.distances,
        EvaluateConfig(update_ct=True),
    )  # fmt: skip
    old, new = read_ct(made.ct), read_ct(result.folder / "ct_updated.nrrd")
    dicom = read_ct(result.folder / "ct_updated_dicom")
    assert np.allclose(new.lps_from_index, old.lps_from_index, atol=1e-4)
    assert np.array_equal(dicom.hu, new.hu) and (new.hu <= old.hu).all()
    assert (new.hu < old.hu).sum() > 1000
