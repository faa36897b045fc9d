"""Pictures as the matcher sees them: what is masked must not shade what is seen beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from endorecon.config import RefineConfig
from endorecon.io.screen import Content
from endorecon.refine import Passes, bilateral_high_pass, grey, high_pass, prepare
from endorecon.refine.photos import blur_for, noise

from made_views import made_views  # isort: skip


HighPass = Callable[[np.ndarray, np.ndarray], np.ndarray]


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.indices((size, size)) + 0.5
    return np.hypot(x - size / 2, y - size / 2) < radius


@pytest.mark.parametrize(("even", "slope"), [(high_pass, 0.1), (bilateral_high_pass, 0.05)])
def test_black_border_and_masked_highlight_leave_no_slope_beside_them(
    even: HighPass, slope: float
) -> None:
    seen = disc(120, 50)
    y, x = np.indices(seen.shape)
    spot = np.hypot(x - 70, y - 50) < 6
    image = np.where(seen, 0.4, 0.0).astype(np.float32)
    image[spot] = 1.0
    weight = (disc(120, 48) & ~spot).astype(np.float32)
    out = even(image, weight)
    assert np.abs(out[weight > 0]).max() < 1e-6
    assert not out[0, :8].any()  # nothing is known near: no light, no answer
    naive = even(image, np.ones_like(image))
    assert np.abs(naive[weight > 0]).max() > slope


@pytest.mark.parametrize("even", [high_pass, bilateral_high_pass])
def test_texture_passes_and_slow_light_does_not(even: HighPass) -> None:
    x = np.broadcast_to(np.arange(200.0), (100, 200)).astype(np.float32)
    one = np.ones_like(x)
    fine = even(0.1 * np.sin(2 * np.pi * x / 8), one)
    slow = even(0.1 * np.sin(2 * np.pi * x / 400), one)
    assert fine.std() > 0.9 * 0.1 / np.sqrt(2) and np.abs(slow[:, 40:-40]).max() < 0.01


def test_an_occlusion_edge_leaves_no_halo_on_either_side() -> None:
    x = np.broadcast_to(np.arange(200.0), (120, 200)).astype(np.float32)
    texture = (0.01 * np.sin(2 * np.pi * x / 5)).astype(np.float32)
    image = np.where(x < 100, 0.7, 0.3).astype(np.float32) + texture
    one = np.ones_like(image)
    out = bilateral_high_pass(image, one)
    for side in (np.s_[:, 70:96], np.s_[:, 104:130]):
        assert np.abs(out[side] - texture[side]).max() < 0.005
    # a picture less its own blur is off by a tenth of the step out here
    assert np.abs((high_pass(image, one) - texture)[:, 110:115]).min() > 0.04


def test_narrow_sweeps_see_no_halos_and_settling_sees_the_plain_pictures() -> None:
    views, _ = made_views(n=2, w=120, h=90)
    passes = Passes(views, replace(RefineConfig(), width=120, search_width=80))
    coarse, fine = (p.photos for p in passes.of_round(1))
    raw = [grey(a) / 255 for a in views.images]
    weight = passes.photos.weight
    both = [(high_pass(a, w), bilateral_high_pass(a, w)) for a, w in zip(raw, weight)]
    np.testing.assert_array_equal(passes.photos.grey, [plain for plain, _ in both])
    np.testing.assert_array_equal(fine.grey, [bilateral for _, bilateral in both])
    assert coarse.camera.width == 80 and fine.colour is passes.photos.colour
    moved = views.with_poses(views.world_from_camera @ np.diag([1.0, -1.0, -1.0, 1.0]))
    passes.move(moved)
    for p in (passes.photos, *(p.photos for p in passes.of_round(2))):
        np.testing.assert_array_equal(p.world_from_camera, moved.world_from_camera)


@pytest.mark.parametrize("width", [160, 240, 320, 466, 640, 960, 1920])
def test_depth_is_told_in_the_rim_that_the_mask_leaves_out_and_never_beyond_the_picture(
    width: int,
) -> None:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    outline = 0.5 + 0.48 * np.stack([np.cos(angle), np.sin(angle)], 1)
    picture = disc(width, 0.48 * width + 1)
    mask = Content(outline, "round").mask(width, width, np.eye(3), (width, width))
    reach = int(RefineConfig().rim * 0.96 * width)  # the working picture is the content's box
    views, _ = made_views(n=2, w=40, h=40)
    photos = replace(prepare(views, 40), weight=mask[None].astype(np.float32), rim=reach)
    content = photos.content
    assert not (content & ~picture).any()
    assert (content & mask).sum() == mask.sum() and reach >= 1
    assert content[disc(width, 0.48 * width - 3)].all()
    np.testing.assert_array_equal(replace(photos, rim=0).content, mask)


def test_photos_of_another_size_have_the_rim_of_theirs() -> None:
    views, _ = made_views(n=2, w=400, h=300)
    assert prepare(views, 400, 0.011).rim == 4 and prepare(views, 200, 0.011).rim == 2
    assert prepare(views, 400).rim == 0


@pytest.mark.parametrize("level", [0.002, 0.01, 0.03])
def test_noise_is_told_whatever_the_light_and_its_edges_are(level: float) -> None:
    rng = np.random.default_rng(0)
    y, x = np.indices((150, 200))
    image = 0.3 + 0.2 * np.sin(x / 25) + 0.001 * y + np.where(x > 120, 0.2, 0)
    noisy = (image + rng.normal(0, level, image.shape)).astype(np.float32)
    assert noise(noisy, np.ones_like(noisy)) == pytest.approx(level, rel=0.1)
    half = np.where(x < 100, noisy, rng.uniform(size=image.shape))  # what is masked does not count
    assert noise(half, (x < 100).astype(np.float32)) == pytest.approx(level, rel=0.1)
    assert noise(noisy, np.zeros_like(noisy)) == 0


def test_only_noisy_pictures_are_blurred() -> None:
    assert blur_for(0.0) == blur_for(0.003) == 0
    assert 0.25 < blur_for(0.006) < blur_for(0.009) < blur_for(0.05) == 0.6
    views, _ = made_views(n=3, w=120, h=90)
    rng = np.random.default_rng(1)
    rough = views.images + rng.normal(0, 8, views.images.shape)
    noisy = replace(views, images=np.clip(rough, 0, 255).astype(np.uint8))
    quiet = prepare(views, 120)
    raw = np.stack([high_pass(grey(a) / 255, w) for a, w in zip(views.images, quiet.weight)])
    np.testing.assert_array_equal(quiet.grey, raw)
    loud = prepare(noisy, 120)
    raw = np.stack([high_pass(grey(a) / 255, w) for a, w in zip(noisy.images, loud.weight)])
    assert noise(loud.grey[0], loud.weight[0]) < 0.6 * noise(raw[0], loud.weight[0])
