"""Matcher contract over every matcher, and the virtual rig against an analytic scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from endorecon.config import StereoConfig
from endorecon.errors import InputRefused, UsageError
from endorecon.geometry import compose, pixel_grid, rays
from endorecon.scene import Camera, StereoPair, Views  # noqa: F401
from endorecon.stereo import MATCHERS, open_matcher
from endorecon.stereo.depth import combine, to_depth, unroll
from endorecon.stereo.rig import content_hull, make_pairs, roll_eye

MADE_HERE = [name for name in MATCHERS if name != "weights"]


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey 0..255, smooth and aperiodic, at real-valued pixel positions."""
    rng = np.random.default_rng(3)
    out = np.zeros(np.broadcast(x, y).shape)
    for _ in range(40):
        k = rng.normal(size=2) * rng.uniform(0.15, 0.8)
        out += np.sin(k[0] * x + k[1] * y + rng.uniform(0, 6.28))
    return 128 + 13 * out


def image(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(grey + 0.5, 0, 255).astype(np.uint8)[..., None], 3, -1)


def shifted_pair(d: np.ndarray, flat: bool = False) -> StereoPair:
    """A pair whose left pixel x is seen at x - d(x, y) on the right; d varies slowly."""
    h, w = d.shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    right = pattern(x, y)
    left = pattern(x - d, y)
    if flat:
        left[:, 100:150] = right[:, 60:150] = 90
    K = np.array([[300.0, 0, w / 2], [0, 300, h / 2], [0, 0, 1]])
    z = 300.0 * 1.0 / d
    return StereoPair(image(left), image(right), z * 1.01, K, 1.0, np.eye(4))


@pytest.mark.parametrize("name", MADE_HERE)
@pytest.mark.parametrize("size", [(96, 200), (75, 187)])
@pytest.mark.parametrize("shift", [18.0, 20.25, 23.6])
def test_a_known_shift_is_recovered_to_a_tenth_of_a_pixel_with_its_sign(
    name: str, size: tuple[int, int], shift: float
) -> None:
    out = open_matcher(StereoConfig(matcher=name)).match(shifted_pair(np.full(size, shift)))
    inner = out.d[10:-10, 60:-20]
    assert out.d.shape == size and out.d.dtype == np.float32
    assert np.isfinite(inner).mean() > 0.9
    assert abs(np.nanmedian(inner) - shift) < 0.1
    assert np.nanquantile(np.abs(inner - shift), 0.9) < 0.2
    assert (out.sigma[np.isfinite(out.d)] > 0).all()
    assert np.isnan(out.sigma[np.isnan(out.d)]).all()


@pytest.mark.parametrize("name", MADE_HERE)
def test_a_flat_region_has_no_answer(name: str) -> None:
    out = open_matcher(StereoConfig(matcher=name)).match(
        shifted_pair(np.full((96, 200), 20.0), flat=True)
    )
    assert np.isfinite(out.d[15:-15, 108:142]).mean() < 0.1
    assert np.isfinite(out.d[15:-15, 176:192]).mean() > 0.8


@pytest.mark.parametrize("name", MADE_HERE)
def test_what_the_right_eye_cannot_see_has_no_answer_or_a_wide_sigma(name: str) -> None:
    w, h, near, far = 220, 96, 34.0, 18.0
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    left, right = pattern(x - far, y), pattern(x, y)
    front = pattern(2.3 * x + 500, 1.7 * y)  # a plate in front, x = 110..160 in the left eye
    left[:, 110:160] = front[:, 110:160]
    right[:, 110 - 34 : 160 - 34] = front[:, 110:160]
    z = np.full((h, w), 300 / far)
    z[:, 110:160] = 300 / near
    K = np.array([[300.0, 0, w / 2], [0, 300, h / 2], [0, 0, 1]])
    out = open_matcher(StereoConfig(matcher=name)).match(
        StereoPair(image(left), image(right), z, K, 1.0, np.eye(4))
    )
    hidden = out.d[12:-12, 97:107]  # 94..110 of the background lie behind the plate on the right
    wrong = np.isfinite(hidden) & (np.abs(hidden - far) > 1)
    assert wrong.mean() < 0.25
    assert np.nanmedian(out.d[12:-12, 125:145]) == pytest.approx(near, abs=0.15)


@pytest.mark.parametrize("name", MADE_HERE)
def test_the_same_pair_gives_the_same_answer(name: str) -> None:
    pair = shifted_pair(np.full((75, 187), 20.4))
    a, b = (open_matcher(StereoConfig(matcher=name)).match(pair) for _ in range(2))
    np.testing.assert_array_equal(a.d, b.d)


def test_a_learned_matcher_comes_from_a_local_file_and_no_other(tmp_path: Path) -> None:
    import torch

    class Constant(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            assert left.shape[2] % 32 == 0 and left.shape[3] % 32 == 0
            return left[:, :1] * 0 + 20.0

    torch.jit.script(Constant()).save(str(tmp_path / "m.pt"))
    config = StereoConfig(matcher="weights", weights=str(tmp_path / "m.pt"))
    out = open_matcher(config).match(shifted_pair(np.full((75, 187), 20.0)))
    assert np.nanmedian(out.d) == 20.0 and np.isnan(out.d[:, :19]).all()
    (tmp_path / "bad.pt").write_bytes(b"no module")
    with pytest.raises(InputRefused, match="TorchScript"):
        open_matcher(StereoConfig(matcher="weights", weights=str(tmp_path / "bad.pt")))
    with pytest.raises(UsageError):
        open_matcher(StereoConfig(matcher="weights"))


def test_an_unknown_matcher_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="sgbm"):
        open_matcher(StereoConfig(matcher="sgmb"))


def wavy_render(K, pose, w, h, light):  # type: ignore[no-untyped-def]
    """Analytic z = 20 + sin(x / 2) + cos(y / 3), painted with `pattern` of its own (x, y)."""
    d = rays(pixel_grid(w, h), K) @ pose[:3, :3].T
    t = np.full((h, w), 20.0)
    for _ in range(60):
        p = pose[:3, 3] + d * t[..., None]
        t += 0.7 * (20 + np.sin(p[..., 0] / 2) + np.cos(p[..., 1] / 3) - p[..., 2]) / d[..., 2]
    p = pose[:3, 3] + d * t[..., None]
    rgb = np.repeat(pattern(p[..., 0] * 12, p[..., 1] * 12)[..., None] / 255, 3, -1)
    R = pose[:3, :3]
    return rgb, ((p - pose[:3, 3]) @ R)[..., 2]


@pytest.mark.parametrize("roll", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("name", MADE_HERE)
def test_the_virtual_pair_measures_an_analytic_scene_at_any_roll(name: str, roll: float) -> None:
    camera = Camera(160, 120, 200.0, 200.0, 81.0, 58.5)
    pose = compose(np.eye(3), np.array([0.4, -0.2, 0.1]))
    content = content_hull(np.ones((120, 160), bool))
    config = StereoConfig(matcher=name)
    matcher = open_matcher(config)
    maps = []
    for eye, pair in make_pairs(wavy_render, camera, content, pose, roll, 1.6):
        z, sigma = to_depth(pair, matcher.match(pair), config)
        maps.append(tuple(unroll(eye, [z, sigma], camera)))
    depth = combine(maps, camera, pose, 4)
    _, truth = wavy_render(camera.K, pose, 160, 120, None)
    error = np.abs(depth.z - truth)[12:-12, 12:-12]
    assert np.isfinite(error).mean() > 0.8
    assert np.nanmedian(error) < 0.08  # 0.1 px is 0.12 mm here, two pairs average
    inside = error < 2 * depth.sigma[12:-12, 12:-12]
    assert inside[np.isfinite(error)].mean() > 0.8
    assert depth.trust.max() == 1.0 and depth.frame_index == 4


def test_an_eye_holds_the_whole_content_area() -> None:
    camera = Camera(160, 120, 200.0, 200.0, 81.0, 58.5)
    content = content_hull(np.ones((120, 160), bool))
    for roll in np.linspace(0, 6.2, 9):
        eye = roll_eye(camera, content, np.eye(4), float(roll), 0.02)
        flag = np.ones((eye.camera.height, eye.camera.width), np.float32)
        (back,) = unroll(eye, [flag], camera)
        assert np.isfinite(back).mean() > 0.995


def test_contradicting_pairs_are_not_averaged() -> None:
    camera = Camera(8, 6, 10.0, 10.0, 4.0, 3.0)
    a = (np.full((6, 8), 10.0), np.full((6, 8), 0.05))
    b = (np.full((6, 8), 12.0), np.full((6, 8), 0.05))
    assert np.isnan(combine([a, b], camera, np.eye(4), 0).z).all()
    one = combine([a, (np.full((6, 8), np.nan),) * 2], camera, np.eye(4), 0)
    assert np.allclose(one.z, 10) and np.allclose(one.trust, 0.5)
