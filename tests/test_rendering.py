"""Rendering a field whose truth is known: a wall painted into the grid by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from endorecon.config import FieldConfig
from endorecon.field import twin
from endorecon.field.nerf import NerfField
from endorecon.field.rendering import render
from endorecon.geometry import compose

K = np.array([[20.0, 0, 12], [0, 20, 9], [0, 0, 1.0]])
WIDTH, HEIGHT = 24, 18
WALL = 31.0  # z of the wall, world units; the box is [-20, 60]^3 and a reference depth 25


@pytest.fixture(params=["kernel", "twin"])
def wall(request: pytest.FixtureRequest) -> NerfField:
    """Density jumps at z = WALL; colour is the same everywhere."""
    config = dataclasses.replace(
        FieldConfig(), levels=1, coarsest=50, log2_table=18, near_light=True, samples=64
    )
    field = NerfField(config, np.full(3, -20.0), 80.0, 25.0, 1.0, 2, 0, "cpu")
    if request.param == "twin":
        field.library = None
    elif field.library is None:
        pytest.skip("no kernel here")
    p = field.parameters
    res = p.levels.res[0]
    z = -20.0 + 80.0 * np.arange(res + 1) / res
    column = np.broadcast_to(z[:, None, None], (res + 1,) * 3).ravel()  # x runs fastest
    p.table.zero_()
    p.table[0, : len(column), 0] = torch.from_numpy((column - WALL).astype(np.float32))
    w = twin.split_weights(p.weights)
    for matrix in w:
        matrix.zero_()
    w[0][0, 0], w[0][1, 0] = 1.0, -1.0  # max(z - wall, 0), max(wall - z, 0)
    w[1][0, 0], w[1][0, 1] = 40.0, -40.0  # log density: steep on both sides
    for _ in range(3):
        field.distil(keep=0.0)
    return field


def test_the_wall_is_where_it_was_put(wall: NerfField) -> None:
    out = render(wall, K, np.eye(4), WIDTH, HEIGHT)
    assert out.z.shape == (HEIGHT, WIDTH) and out.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(out.z - WALL).max() < 0.25
    assert out.opacity.min() > 0.99
    assert np.nanmax(out.spread) < 1.0


def test_a_band_sharpens_and_a_nan_band_is_none(wall: NerfField) -> None:
    wall.grid.fill_(1.0)  # no proposal: samples everywhere
    band = np.full((HEIGHT, WIDTH, 2), np.nan)
    plain = render(wall, K, np.eye(4), WIDTH, HEIGHT)
    same = render(wall, K, np.eye(4), WIDTH, HEIGHT, near_far=band)
    assert np.array_equal(plain.z, same.z, equal_nan=True)
    band[:] = (WALL - 1, WALL + 1)
    sharp = render(wall, K, np.eye(4), WIDTH, HEIGHT, near_far=band)
    assert np.nanstd(sharp.z) < 0.5 * np.nanstd(plain.z)


def test_depth_is_along_the_optical_axis_in_world_units(wall: NerfField) -> None:
    turn = compose(np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]), np.array([1.0, 2, 3]))
    out = render(wall, K, turn, WIDTH, HEIGHT)
    u, v = 3, 11
    ray = turn[:3, :3] @ np.array([(u + 0.5 - 12) / 20, (v + 0.5 - 9) / 20, 1])
    assert out.z[v, u] == pytest.approx((WALL - 3) / ray[2], abs=0.4)


def test_depth_is_unknown_where_the_field_knows_no_surface(wall: NerfField) -> None:
    away = np.diag([1.0, -1, -1, 1])  # looks along -z, away from the wall
    out = render(wall, K, away, WIDTH, HEIGHT)
    assert np.isnan(out.z).all() and np.isnan(out.spread).all()
    assert out.opacity.max() < 0.5


def test_brightness_falls_with_the_square_of_the_distance_to_the_light(wall: NerfField) -> None:
    wall.parameters.extras[0] = np.log(0.1)  # darker, so that nothing is clipped at 1
    at_camera = render(wall, K, np.eye(4), WIDTH, HEIGHT, frame=0)
    same = render(wall, K, np.eye(4), WIDTH, HEIGHT, frame=0, light_position=np.zeros(3))
    assert np.allclose(at_camera.rgb, same.rgb, rtol=1e-4)
    light = np.array([0, 0, WALL / 2])
    half = render(wall, K, np.eye(4), WIDTH, HEIGHT, frame=0, light_position=light)
    v, u = 9, 12  # the ray nearly along the axis
    ratio = (half.rgb[v, u] / at_camera.rgb[v, u]) ** (1 / wall.config.response)
    assert ratio == pytest.approx(4.0, rel=0.05)


def test_exposure_of_a_frame_is_used_when_it_is_named(wall: NerfField) -> None:
    wall.parameters.extras[1] = np.log(0.5)
    mean, dark = (render(wall, K, np.eye(4), WIDTH, HEIGHT, frame=f) for f in (None, 1))
    ratio = (dark.rgb / mean.rgb) ** (1 / wall.config.response)
    assert np.median(ratio) == pytest.approx(0.5, rel=0.02)


def test_quantiles_are_those_of_the_slow_version() -> None:
    rng = np.random.default_rng(0)
    edges = np.sort(rng.random((6, 9)), axis=1)
    tau = rng.random((6, 8))
    found = twin.quantile_depths(torch.tensor(edges), torch.tensor(tau), (0.3, 0.5)).numpy()
    for r in range(6):
        for k, q in enumerate((0.3, 0.5)):
            fine = np.linspace(edges[r, 0], edges[r, -2], 20001)
            depth = np.interp(fine, edges[r, :-1], np.concatenate([[0], tau[r, :-1].cumsum()]))
            reached = np.flatnonzero(1 - np.exp(-depth) >= q)
            want = fine[reached[0]] if len(reached) else edges[r, -1]
            assert found[r, k] == pytest.approx(want, abs=2e-4)
