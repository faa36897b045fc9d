"""A prior that is far off is put right by the wide search; one that is right stays as it is."""

from __future__ import annotations

import numpy as np
from test_refine import wavy_world

from endorecon.config import RefineConfig
from endorecon.refine import Maps, Pass, Photos, corrected
from endorecon.refine.wide import _region

CONFIG = RefineConfig()
OTHERS = [[j for j in range(6) if j != i] for i in range(6)]
INNER = (slice(None), slice(15, -15), slice(20, -20))


def prior_of(z: np.ndarray) -> Maps:
    z = z.astype(np.float32)
    return Maps(z, 0.02 * z, np.full_like(z, 0.3))


def world() -> tuple[Pass, np.ndarray]:
    photos, truth = wavy_world(160, 120)
    return Pass(photos, CONFIG.wide_band, CONFIG.wide_steps), truth


def test_a_region_that_is_a_fifth_too_deep_is_put_right() -> None:
    one, truth = world()
    wrong = np.zeros(truth.shape, bool)
    wrong[:, :, 90:] = True
    prior = prior_of(np.where(wrong, 1.2 * truth, truth))
    out = corrected(one, OTHERS, prior, CONFIG)
    inside = np.zeros_like(wrong)
    inside[:, 20:-20, 100:135] = True
    with np.errstate(invalid="ignore"):
        right = np.abs(out.z / truth - 1) < 0.03
    assert right[inside].mean() > 0.6
    assert (np.abs(out.z / truth - 1) > 0.1)[inside].mean() < 0.1  # the rest is unknown
    assert right[:, 20:-20, 20:75].mean() > 0.99
    assert (out.trust[inside & right] >= 0.3).all()
    assert not out.trust[np.isnan(out.z)].any()


def test_a_prior_that_is_right_stays_as_it_is() -> None:
    one, truth = world()
    prior = prior_of(truth)
    out = corrected(one, OTHERS, prior, CONFIG)
    changed = (out.z != prior.z) | (out.trust != prior.trust)
    assert changed[INNER].mean() < 0.002


def test_answers_scattered_among_content_pixels_are_no_region() -> None:
    sure = np.zeros((90, 120), bool)
    sure[::3, ::3] = True  # a ninth of the pixels, everywhere
    kept = ~sure
    assert not _region(sure, kept).any()
    kept[:, 60:] = False  # where the narrow search finds nothing they are all there is
    assert _region(sure, kept)[:, 70:].all() and not _region(sure, kept)[:, :50].any()
    assert not _region(np.zeros_like(sure), np.zeros_like(sure)).any()


def test_without_texture_or_neighbours_nothing_changes() -> None:
    one, truth = world()
    prior = prior_of(1.2 * truth)
    photos = one.photos
    grey = Photos(
        photos.camera, np.zeros_like(photos.grey), photos.weight, photos.world_from_camera
    )
    for wide, others in ((Pass(grey, one.band, one.steps), OTHERS), (one, [[] for _ in range(6)])):
        out = corrected(wide, others, prior, CONFIG)
        np.testing.assert_array_equal(out.z, prior.z)
