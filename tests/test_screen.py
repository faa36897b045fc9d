"""Screening: content area, overlays, reasons for dropping, keyframes, masks, the summary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from endorecon.config import VideoConfig
from endorecon.io import screen
from endorecon.io.white import white_level

W, H = 384, 216


@dataclass(frozen=True)
class Picture:
    frame_index: int
    image: np.ndarray
    damaged: bool = False
    width: int = 5 * W
    height: int = 5 * H

    @property
    def time_s(self) -> float:
        return self.frame_index / 30


def tissue(shift: float, seed: int = 0) -> np.ndarray:
    """Reddish structure (H, W, 3) moved sideways by `shift` pixels."""
    import cv2

    rng = np.random.default_rng(seed)
    base = cv2.GaussianBlur(rng.random((H, W + 400)).astype(np.float32), (0, 0), 2.5)
    base = (base - base.mean()) / base.std()
    moved = cv2.warpAffine(base, np.array([[1, 0, -shift], [0, 1, 0]], np.float32), (W, H))
    return np.clip((120 + 35 * moved)[..., None] * np.array([1.3, 0.7, 0.6]), 0, 255).astype(
        np.uint8
    )


def ring(kind: str) -> np.ndarray:
    """(H, W) bool content area of a lens."""
    y, x = np.mgrid[0:H, 0:W] + 0.5
    dx, dy = np.abs(x - 170), np.abs(y - 108)
    if kind == "round":
        return dx**2 + dy**2 < 95**2
    if kind == "octagonal":
        return (dx < 90) & (dy < 90) & (dx + dy < 127)
    if kind == "rectangular":
        return (dx < 110) & (dy < 80)
    return np.ones((H, W), bool)


def clip(count: int = 20, kind: str = "full", step: float = 3.0) -> list[Picture]:
    inside = ring(kind)
    rng = np.random.default_rng(5)
    out = []
    for k in range(count):
        image = tissue(step * k) * inside[..., None]
        image = image + np.abs(rng.normal(0, 1.0, image.shape))
        out.append(Picture(k, np.clip(image, 0, 255).astype(np.uint8)))
    return out


def reasons(pictures: list[Picture], config: VideoConfig | None = None) -> list[str]:
    return [r.reason for r in screen.screen(pictures, config or VideoConfig()).records]


@pytest.mark.parametrize("kind", ["round", "octagonal", "rectangular", "full"])
def test_the_content_area_is_found_by_itself(kind: str) -> None:
    grey = np.stack([p.image.mean(-1).astype(np.uint8) for p in clip(kind=kind)])
    content = screen.find_content(grey)
    assert content.shape == kind
    found, truth = content.mask(W, H, np.eye(3), (W, H)), ring(kind)
    assert not (found & ~truth).any()  # nothing of the border is believed
    assert (found & truth).sum() > 0.9 * truth.sum()


def test_a_picture_in_the_picture_and_writing_beside_it_are_left_out() -> None:
    pictures = clip(kind="round")
    for p in pictures:
        p.image[10:30, 280:380] = 200  # writing, never moves
        p.image[150:200, 300:370] = 90 + 40 * np.sin(p.frame_index)  # a small moving picture
    verdict = screen.screen(pictures, VideoConfig())
    left, _, right, _ = verdict.content.box(W, H)
    assert right < 275 and left < 85
    assert any("beside" in w for w in verdict.warnings)


def test_a_logo_inside_the_picture_is_masked_and_the_user_is_told() -> None:
    pictures = clip(kind="round", count=30)
    logo = np.zeros((H, W), bool)
    logo[60:72:4, 120:170] = True
    for p in pictures:
        p.image[logo] = 250
    verdict = screen.screen(pictures, VideoConfig())
    assert verdict.overlay[logo].mean() > 0.95
    assert verdict.overlay.sum() < 6 * logo.sum()
    assert any("Static text" in w for w in verdict.warnings)
    full = screen.frame_masks(np.stack([p.image for p in pictures[:2]]), verdict, np.eye(3), (W, H))
    assert not full[:, logo].any()


def test_no_overlay_is_seen_where_there_is_none() -> None:
    for kind in ("round", "octagonal", "full"):
        assert not screen.screen(clip(kind=kind, count=30), VideoConfig()).overlay.any()


def test_each_bad_frame_gets_its_own_reason() -> None:
    import cv2

    pictures = clip(count=40)
    pictures[3] = replace(pictures[3], image=np.zeros((H, W, 3), np.uint8))
    pictures[7] = replace(pictures[7], image=np.full((H, W, 3), 255, np.uint8))
    pictures[12] = replace(pictures[12], image=cv2.GaussianBlur(pictures[12].image, (0, 0), 4))
    room = np.clip(pictures[17].image.mean(-1, keepdims=True) * [0.9, 1.1, 1.2], 0, 255)
    pictures[17] = replace(pictures[17], image=room.astype(np.uint8))
    pictures[22] = replace(pictures[22], image=pictures[21].image)
    pictures[26] = replace(pictures[26], damaged=True)
    expected = {
        3: "black",
        7: "white",
        12: "blurred",
        17: "out-of-body",
        22: "duplicate",
        26: "damaged",
    }
    got = reasons(pictures)
    assert {k: r for k, r in enumerate(got) if r} == expected
    assert screen.count_reasons(screen.screen(pictures, VideoConfig()).records).startswith(
        "black 1"
    )


def test_a_picture_that_stops_is_frozen_not_a_duplicate() -> None:
    pictures = clip(count=30)
    for k in range(11, 20):
        pictures[k] = replace(pictures[k], image=pictures[10].image)
    got = reasons(pictures)
    assert got[11:20] == ["frozen"] * 9 and got[10] == got[20] == ""


def test_a_slow_steady_clip_keeps_every_frame() -> None:
    assert reasons(clip(count=60, step=0.4)) == [""] * 60


def test_a_standing_camera_keeps_one_frame_in_spite_of_noise() -> None:
    got = reasons(clip(count=20, step=0.0))
    assert got[0] == "" and set(got[1:]) <= {"duplicate", "frozen"}


def test_too_many_frames_are_thinned_evenly_along_the_motion() -> None:
    pictures = clip(count=40, step=2.0)
    slow = [replace(p, image=tissue(80 + 0.5 * k)) for k, p in enumerate(clip(count=40))]
    both = pictures + [replace(p, frame_index=40 + p.frame_index) for p in slow]
    records = screen.screen(both, VideoConfig(max_frames=20)).records
    kept = [r.frame_index for r in records if r.kept]
    assert len(kept) == 20 and 0 in kept and 79 in kept
    # the first half moves four times as fast: it gets most of the frames
    assert sum(k < 40 for k in kept) > 2.5 * sum(k >= 40 for k in kept)
    assert {r.reason for r in records if not r.kept} == {"little parallax"}


def test_motion_is_measured_in_source_pixels() -> None:
    records = screen.screen(clip(count=8, step=3.0), VideoConfig()).records
    motion = [r.motion_px for r in records[1:]]
    assert np.allclose(motion, 15.0, atol=1.0)  # 3 pixels of 384, source five times as wide


def test_highlights_and_clipped_pixels_are_masked_with_a_margin() -> None:
    image = tissue(0.0).astype(np.uint8)
    image[100:104, 200:206] = 245
    image[150:160, 50:60] = [255, 255, 120]
    verdict = screen.screen(clip(), VideoConfig())
    mask = screen.frame_masks(image[None], verdict, np.eye(3), (W, H))[0]
    assert not mask[99:105, 200:206].any() and not mask[100:104, 199:207].any()
    assert not mask[150:160, 50:60].any()
    assert mask.mean() > 0.95


def lit(knee: int | None) -> np.ndarray:
    """A wall lit from near by, (H, W, 3): bright spot in the middle, clipped at `knee`."""
    v, u = np.mgrid[0:H, 0:W]
    away = np.hypot(u - W / 2, v - H / 2) / 80
    noise = np.random.default_rng(1).normal(0, 1.2, (H, W))
    grey = (200 if knee is None else 330) / (1 + away**2) ** 2 + noise
    top = 255 if knee is None else knee + noise.clip(-1, 1)
    return np.minimum(grey, top).clip(0, 255).round().astype(np.uint8)[..., None].repeat(3, 2)


@pytest.mark.parametrize("knee", [252, 244, 236, 225])
def test_white_is_found_where_the_camera_clips(knee: int) -> None:
    image = lit(knee)
    inside = np.ones((H, W), bool)
    assert white_level([image] * 3, inside) in range(min(knee, 248) - 3, min(knee, 247) + 1)
    verdict = replace(screen.screen(clip(), VideoConfig()), overlay=~inside)
    mask = screen.frame_masks(image[None], verdict, np.eye(3), (W, H))[0]
    clipped = image[..., 0] >= knee
    assert not mask[clipped].any()  # a spot that stays with the light has no place in the wall
    grown = np.hypot(*np.gradient(clipped.astype(float))) > 0
    assert mask[~clipped & ~grown & (image[..., 0] < 180)].mean() > 0.9


def test_a_picture_that_nowhere_clips_keeps_its_brightest_pixels() -> None:
    assert white_level([lit(None)], np.ones((H, W), bool)) == 247
    assert white_level([np.full((H, W, 3), 90, np.uint8)], np.ones((H, W), bool)) == 247


def test_the_summary_says_what_to_film_better() -> None:
    pictures = clip(count=20)
    dark = [replace(p, image=(p.image * 0.25).astype(np.uint8)) for p in pictures]
    verdict = screen.screen(dark, VideoConfig())
    text = " ".join(screen.describe(verdict, np.ones((2, 4, 4), bool)))
    assert "20 of 20 frames are used" in text and "dark" in text and "10-30 mm" in text
