"""Dark strips beside an occlusion edge: put behind when light and picture say so, else left."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from endorecon.refine.strips import behind

H, W, RIM = 160, 240, 120
NEAR, FAR = 10.0, 26.0


def scene(albedo: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """True depth, and its picture under a light at the camera: a wall that ends at column RIM."""
    z = np.full((H, W), NEAR, np.float32)
    z[:, RIM:] = FAR
    rng = np.random.default_rng(0)
    spots = 0.25 * gaussian_filter(rng.normal(size=(H, W)), 3) / 0.09
    surface = 0.6 * np.exp(0.2 * spots) if albedo is None else albedo
    shown = (surface * (NEAR / z) ** 2) ** (1 / 2.2)
    return z, (255 * np.clip(np.stack([shown, 0.6 * shown, 0.5 * shown], -1), 0, 1)).astype(
        np.uint8
    )


def test_a_wall_drawn_over_the_lumen_behind_its_rim_goes_back_to_the_rim() -> None:
    true, picture = scene()
    drawn = true.copy()
    drawn[:, RIM : RIM + 12] = NEAR
    z, moved = behind(drawn, picture, 17, 0.15)
    wrong = drawn != true
    wrong[:, RIM : RIM + 2] = False  # the rim itself is blurred
    assert (z == true)[wrong].mean() > 0.99 and (z == true)[drawn == true].mean() > 0.995
    assert (moved == (z != drawn)).all()


def test_a_rim_where_the_picture_has_it_stays() -> None:
    true, picture = scene()
    z, moved = behind(true, picture, 17, 0.15)
    assert moved.mean() < 0.002 and np.isfinite(z).all()


def test_where_the_picture_tells_no_rim_nothing_is_guessed() -> None:
    true, _ = scene()
    drawn = true.copy()
    drawn[:, RIM : RIM + 12] = NEAR
    flat = np.full((H, W, 3), 90, np.uint8)
    assert not behind(drawn, flat, 17, 0.15)[1].any()
    # a wall that is as dark as the lumen: its brightness does not tell them apart
    dark = np.full((H, W), 0.6)
    dark[:, :RIM] *= (NEAR / FAR) ** 2
    assert not behind(drawn, scene(dark)[1], 17, 0.15)[1].any()


def test_a_dark_vessel_on_the_wall_is_no_strip() -> None:
    albedo = np.full((H, W), 0.6)
    albedo[:, RIM - 14 : RIM - 8] = 0.1
    true, picture = scene(albedo)
    assert not behind(true, picture, 17, 0.15)[1].any()


def test_without_a_step_or_without_depths_nothing_changes() -> None:
    _, picture = scene()
    even = np.full((H, W), NEAR, np.float32)
    z, moved = behind(even, picture, 17, 0.15)
    assert z is even and not moved.any()
    unknown = np.full((H, W), np.nan, np.float32)
    assert not behind(unknown, picture, 17, 0.15)[1].any()
