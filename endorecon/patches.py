"""Where small patches of one picture lie in another, to a fraction of a pixel.

Lucas and Kanade (IJCAI 1981) with gain and offset and a Gaussian window; the warp of each patch is
given by poses and surface, its shift is found. The arithmetic is cuda/patches.cpp; `plain` is its
definition, and runs without a compiler.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import kernels

Array = NDArray[Any]

STEPS = 8
STILL = 0.01  # pixels: a smaller step is the last
WINDOW = 1 / 1.8  # standard deviation of the window, share of its half width


@dataclass(frozen=True)
class Picture:
    """A grey picture and its slopes per pixel, all (h, w) float32."""

    grey: Array
    slope_x: Array
    slope_y: Array


def picture(grey: Array) -> Picture:
    """With central differences; at the border the difference inwards."""
    grey = np.ascontiguousarray(grey, np.float32)
    down, right = np.gradient(grey)
    return Picture(
        grey, np.ascontiguousarray(right, np.float32), np.ascontiguousarray(down, np.float32)
    )


@dataclass(frozen=True)
class Shifts:
    """Where n patches lie, and how sure that is."""

    uv: Array  # (n, 2) float64 pixels, centres at .5
    ncc: Array  # (n,) float32 of the windows there
    normal: Array  # (n, 2, 2) float64 normal matrix of the shift, grey^2 per pixel^2
    residual: Array  # (n,) float32 mean square of what the shift leaves, grey^2
    radius: int

    def covariance(self, noise: float) -> Array:
        """(n, 2, 2) in pixels^2, for grey noise of at least `noise`.

        A window of n_e independent pixels tells n_e times as much as one.
        """
        independent = 4 * np.pi * (WINDOW * self.radius) ** 2
        a, b, d = self.normal[:, 0, 0], self.normal[:, 0, 1], self.normal[:, 1, 1]
        small = 1e-6 * (a + d) + 1e-12
        a, d = a + small, d + small
        inverse = np.stack([d, -b, -b, a], -1).reshape(-1, 2, 2) / (a * d - b * b)[:, None, None]
        return np.asarray((noise**2 + self.residual)[:, None, None] / independent * inverse)


def shift_patches(
    reference: Picture,
    other: Picture,
    uv_reference: Array,
    uv: Array,
    warp: Array,
    radius: int,
    least: float,
) -> Shifts:
    """The shift at which each of n patches of `reference` looks most like `other`.

    uv_reference (n, 2): middles of the patches; uv (n, 2): where they should be; warp (n, 2, 2):
    offsets in the reference to offsets in the other picture; radius: half width in pixels;
    least > 0: contrast far below this is none, and a flat patch like no other. A place that is no
    number has no match.
    """
    n, (h, w) = len(uv), reference.grey.shape
    f32, f64, at = "float32", "float64", kernels.address
    start = np.ascontiguousarray(uv_reference, np.float64)
    now = np.array(uv, np.float64, order="C")
    warp = np.ascontiguousarray(warp, np.float64)
    ncc, residual = np.zeros(n, np.float32), np.zeros(n, np.float32)
    normal = np.zeros((n, 3), np.float32)
    call = (
        n, h, w, at(reference.grey, f32), at(other.grey, f32, (h, w)), at(other.slope_x, f32),
        at(other.slope_y, f32), at(start, f64, (n, 2)), at(now, f64, (n, 2)),
        at(warp, f64, (n, 2, 2)), radius, ctypes.c_float(WINDOW * radius),
        ctypes.c_float(least), STEPS, ctypes.c_float(STILL), at(ncc, f32), at(normal, f32),
        at(residual, f32),
    )  # fmt: skip
    if not kernels.run("patches", "endorecon_shift_patches", call, "cpu", "patches"):
        return plain(reference, other, uv_reference, uv, warp, radius, least)
    square = normal[:, [0, 1, 1, 2]].reshape(-1, 2, 2).astype(float)
    return Shifts(now, ncc, square, residual, radius)


def plain(
    reference: Picture,
    other: Picture,
    uv_reference: Array,
    uv: Array,
    warp: Array,
    radius: int,
    least: float,
) -> Shifts:
    """The definition of `shift_patches` in numpy."""
    span = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2).astype(float)
    weight = np.exp(-(offsets**2).sum(1) / (2 * (WINDOW * radius) ** 2)).astype(np.float32)
    weight /= weight.sum()

    def centred(values: Array) -> Array:
        return np.asarray(values - (values * weight).sum(1, keepdims=True))

    def dot(a: Array, b: Array) -> Array:
        return np.asarray((a * b * weight).sum(1))

    template = centred(_sample(reference.grey, uv_reference[:, None] + offsets))
    contrast = np.sqrt(dot(template, template))
    moved = np.einsum("nij,kj->nki", warp, offsets)
    now, going = np.array(uv, float), np.ones(len(uv), bool)
    for step in range(STEPS + 1):
        at = now[:, None] + moved
        values = centred(_sample(other.grey, at))
        own = np.sqrt(dot(values, values))
        ncc = dot(template, values) / np.sqrt((contrast**2 + least**2) * (own**2 + least**2))
        gain = (contrast / np.maximum(own, 1e-6))[:, None]
        gx, gy = (centred(_sample(s, at)) * gain for s in (other.slope_x, other.slope_y))
        left = template - values * gain
        a, b, c = dot(gx, gx), dot(gx, gy), dot(gy, gy)
        if step == STEPS:
            break
        damp = 1e-3 * (a + c) + 1e-12
        u, v = dot(gx, left), dot(gy, left)
        move = np.stack([(c + damp) * u - b * v, (a + damp) * v - b * u], 1)
        move /= ((a + damp) * (c + damp) - b * b)[:, None]
        length = np.linalg.norm(move, axis=1)
        going &= length > STILL
        move *= np.minimum(1.0, 1.0 / np.maximum(length, 1e-9))[:, None]
        now = np.where(going[:, None], now + move, now)
    normal = np.stack([a, b, b, c], 1).reshape(-1, 2, 2).astype(float)
    residual = dot(left, left).astype(np.float32)
    return Shifts(now, ncc.astype(np.float32), normal, residual, radius)


def _sample(values: Array, uv: Array) -> Array:
    """Values (...) at pixels (..., 2), centres at .5, bilinear."""
    h, w = values.shape
    uv = np.nan_to_num(uv)
    x = np.clip(uv[..., 0] - 0.5, 0, w - 1.001)
    y = np.clip(uv[..., 1] - 0.5, 0, h - 1.001)
    i, j = y.astype(np.int32), x.astype(np.int32)
    fy, fx = (y - i).astype(np.float32), (x - j).astype(np.float32)
    flat, at = values.ravel(), i * w + j
    upper = flat[at] * (1 - fx) + flat[at + 1] * fx
    lower = flat[at + w] * (1 - fx) + flat[at + w + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)
