"""The phantom's lens, light and camera against OpenCV and against the formulas."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from endorecon.config import PhantomConfig
from endorecon.geometry import pixel_grid
from endorecon.phantom.implicit import Mesh
from endorecon.phantom.optics import (
    content_mask,
    depth_image,
    lens_rays,
    make_camera,
    make_stage,
    project_points,
)
from endorecon.phantom.sensor import develop, meter, next_exposure, tone, vignetting
from endorecon.phantom.shading import fibres, render, shade
from endorecon.scene import Camera

LENSES = ("pinhole", "brown", "fisheye")
PLAIN = replace(
    PhantomConfig(), wetness=0.0, translucency=0.0, bounce=0.0, light_offset_mm=0.0, vignetting=0.0
)


def camera_of(lens: str, width: int = 160, height: int = 120) -> Camera:
    return make_camera(width, height, replace(PhantomConfig(), lens=lens))


@pytest.mark.parametrize("lens", LENSES)
def test_rays_and_projection_are_inverse(lens: str) -> None:
    camera = camera_of(lens)
    uv = pixel_grid(camera.width, camera.height)
    inside = content_mask(camera, PhantomConfig()) > 0
    back, z = project_points(7.0 * lens_rays(uv, camera), camera)
    assert np.abs(back - uv)[inside].max() < 1e-6
    assert np.allclose(z, 7.0)


@pytest.mark.parametrize("lens", LENSES)
def test_projection_is_opencvs_with_its_pixel_centre_at_zero(lens: str) -> None:
    import cv2

    camera = camera_of(lens)
    rng = np.random.default_rng(0)
    p = rng.uniform([-5, -4, 9], [5, 4, 20], (200, 3))
    ours, _ = project_points(p, camera)
    K = camera.K.copy()
    K[:2, 2] -= 0.5
    zero = np.zeros(3)
    if lens == "fisheye":
        theirs, _ = cv2.fisheye.projectPoints(
            p[:, None], zero, zero, K, np.array(camera.distortion)
        )
    else:
        theirs, _ = cv2.projectPoints(p, zero, zero, K, np.array(camera.distortion or (0.0,) * 4))
    assert np.abs(theirs.reshape(-1, 2) + 0.5 - ours).max() < 1e-6


@pytest.mark.parametrize("lens", LENSES)
def test_the_round_picture_spans_the_field_of_view(lens: str) -> None:
    config = replace(PhantomConfig(), lens=lens)
    camera = make_camera(640, 480, config)
    edge = np.array([camera.cx + config.content_radius * camera.height, camera.cy])
    ray = lens_rays(edge[None], camera)[0]
    assert np.degrees(np.arctan(ray[0])) == pytest.approx(config.field_of_view_deg / 2, abs=0.1)


def wall(z: float, tilt_deg: float = 0.0, half: float = 60.0) -> Mesh:
    """A flat wall at depth z, turned about the camera's y axis, facing the camera."""
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * half
    R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    v = corners @ R.T + [0, 0, z]
    n = np.tile(R @ [0, 0, -1.0], (4, 1))
    return Mesh(v, np.array([[0, 2, 1], [0, 3, 2]], np.int32), n)


def grey_paint(albedo: float) -> Any:
    """A texture without texture."""
    return SimpleNamespace(
        albedo=lambda p, c: np.full((3, p.shape[1]), albedo, np.float32),
        tilt=lambda p, n, f: (n, 0 * f),
    )


def radiance_of(mesh: Mesh, camera: Camera, config: PhantomConfig, albedo: float = 0.5) -> Any:
    stage = make_stage(mesh, grey_paint(albedo), config)
    uv = pixel_grid(camera.width, camera.height)
    rays = lens_rays(uv, camera).reshape(1, -1, 3)
    return render(stage, camera, np.eye(4)[None], rays, np.arange(camera.width * camera.height))


def test_brightness_falls_with_the_square_of_distance_and_the_cosine_of_the_wall() -> None:
    camera = make_camera(320, 240, PLAIN)
    row, col = int(camera.cy), int(camera.cx)
    near = radiance_of(wall(10.0), camera, PLAIN)[row, col, 0]
    far = radiance_of(wall(20.0), camera, PLAIN)[row, col, 0]
    oblique = radiance_of(wall(10.0, 60.0), camera, PLAIN)[row, col, 0]
    assert near / far == pytest.approx(((20.3) / 10.3) ** 2, rel=0.01)  # fibres 0.3 mm behind
    assert oblique / near == pytest.approx(0.5, rel=0.02)


def test_a_whole_picture_follows_the_light_model_pixel_by_pixel() -> None:
    config = replace(PLAIN, light_offset_mm=1.6, light_falloff=1.2, light_power=100.0)
    camera = make_camera(96, 72, config)
    albedo, mesh = 0.4, wall(14.0, 25.0)
    got = radiance_of(mesh, camera, config, albedo)[..., 1]
    # The slow obvious version: intersect, then sum over the two fibres.
    n, want = mesh.normals[0], np.zeros((72, 96))
    for i in range(72):
        for j in range(96):
            ray = np.array(
                [(j + 0.5 - camera.cx) / camera.fx, (i + 0.5 - camera.cy) / camera.fy, 1]
            )
            p = ray * (np.array([0, 0, 14.0]) @ n) / (ray @ n)
            for lamp in fibres(config):
                to = lamp - p
                r = np.linalg.norm(to)
                lobe = (p - lamp)[2] / r
                want[i, j] += 50.0 * lobe**1.2 / r**2 * max(n @ to / r, 0) * albedo / np.pi
    assert np.allclose(got, want, rtol=1e-3)


def test_depth_is_z_and_not_the_length_of_the_ray() -> None:
    for lens in LENSES:
        config = replace(PLAIN, lens=lens)
        camera = make_camera(80, 60, config)
        stage = make_stage(wall(12.0), grey_paint(0.5), config)
        assert np.allclose(depth_image(stage, camera, np.eye(4)), 12.0, atol=1e-4)


def test_the_highlight_lies_where_the_mirror_direction_says() -> None:
    config = replace(PLAIN, wetness=1.0, gloss_roughness=0.2)
    eye, lamp = np.zeros(3), np.array([[6.0, 0.0, 0.0]])
    x = np.linspace(-4, 10, 1401)
    p = np.stack([x, 0 * x, 0 * x + 10.0])
    n = np.tile([[0.0], [0.0], [-1.0]], (1, len(x)))
    view = (eye[:, None] - p) / np.linalg.norm(eye[:, None] - p, axis=0)
    black = np.zeros((3, len(x)), np.float32)
    glow = shade(p, n, n, black, view, np.repeat(lamp, 2, 0), np.array([0.0, 0, 1]), config)
    assert x[np.argmax(glow[0])] == pytest.approx(3.0, abs=0.15)  # half way to the lamp
    assert np.all(glow >= 0) and glow.max() > 20 * np.median(glow)


def test_light_that_has_bounced_is_redder_than_light_that_has_not() -> None:
    rgb = np.array([[0.6], [0.2], [0.1]], np.float32)
    p, n = np.array([[0.0], [0.0], [10.0]]), np.array([[0.0], [0.0], [-1.0]])
    axis = np.array([0.0, 0.0, 1.0])
    lamps = fibres(PLAIN)
    once = shade(p, n, n, rgb, n, lamps, axis, PLAIN)[:, 0]
    more = shade(p, n, n, rgb, n, lamps, axis, replace(PLAIN, bounce=0.3))[:, 0]
    assert np.all(more > once) and more[0] / more[2] > 1.1 * once[0] / once[2]


def test_vignetting_is_one_in_the_middle_and_a_power_of_cosine_at_the_edge() -> None:
    config = replace(PhantomConfig(), vignetting=2.0)
    camera = make_camera(200, 150, config)
    v = vignetting(camera, config)
    assert v.max() == pytest.approx(1.0, abs=1e-4)
    ray = lens_rays(np.array([[150.5, camera.cy]]), camera)[0]
    assert v[int(camera.cy), 150] == pytest.approx(1 / (ray @ ray), rel=1e-3)


def test_exposure_reaches_its_target_with_a_lag() -> None:
    config = PhantomConfig()
    exposure = next_exposure(None, 0.01, config)
    assert exposure * 0.01 == pytest.approx(config.exposure_target)
    first = next_exposure(exposure, 0.04, config)
    assert config.exposure_target / 0.04 < first < exposure
    for _ in range(40):
        exposure = next_exposure(exposure, 0.04, config)
    assert exposure * 0.04 == pytest.approx(config.exposure_target, rel=1e-3)


def test_the_meter_is_linear_in_light() -> None:
    image = np.random.default_rng(0).random((60, 80, 3)).astype(np.float32)
    mask = np.ones((60, 80), np.float32)
    assert meter(3 * image, mask) == pytest.approx(3 * meter(image, mask), rel=1e-5)


def test_tone_is_gamma_below_the_shoulder_and_never_reaches_more_than_white() -> None:
    config = PhantomConfig()
    x = np.repeat(np.linspace(0, 20, 500)[:, None], 3, 1)
    y = tone(x, config)
    plain = (x ** (1 / config.gamma) - config.black) / (1 - config.black)
    low = plain < 0.8
    assert np.allclose(y[low], np.maximum(plain[low], 0.0))
    assert np.all(np.diff(y, axis=0) >= 0) and y.max() <= config.white + 1e-9


def test_colour_survives_below_the_bleach_and_is_lost_in_glare() -> None:
    config = PhantomConfig()
    red = np.array([1.0, 0.4, 0.3], np.float32)
    dim, glare = tone(0.3 * red, config), tone(6.0 * red, config)
    assert dim[0] > 1.3 * dim[1] > 1.3 * dim[2]
    assert np.ptp(glare) < 0.02 and glare.min() > 0.9


def test_noise_grows_with_light_and_has_the_stated_size() -> None:
    config = replace(PhantomConfig(), blur_px=0.0, round_content=False, read_noise=0.0, black=0.0)
    camera = make_camera(128, 96, config)
    level = 0.2
    flat = np.full((96, 128, 3), level, np.float32)
    picture = develop(flat, 1.0, camera, config, np.random.default_rng(1)) / 255.0
    linear = picture**config.gamma
    assert linear.mean() == pytest.approx(level, rel=0.02)
    step = 1 / 255 * config.gamma * level ** (1 - 1 / config.gamma) / np.sqrt(12)
    want = np.hypot(config.shot_noise * np.sqrt(level), step)
    assert linear.std() == pytest.approx(want, rel=0.1)


def test_outside_the_round_picture_it_is_black() -> None:
    config = PhantomConfig()
    camera = make_camera(160, 120, config)
    bright = np.full((120, 160, 3), 0.5, np.float32)
    picture = develop(bright, 1.0, camera, config, np.random.default_rng(0))
    assert picture[:, :15].max() <= 4 and picture[60, 80].min() > 100
