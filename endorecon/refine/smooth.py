"""Depth maps smoothed as tissue is: a robust local quadratic of inverse depth round each pixel.

Windows of the sweep follow the shape of its prior, so that noise of the prior comes back as noise
of the answer: from a prior without noise the same sweep is twice as exact. Inverse depth is used
because planes are linear in it. Moving least squares after Lancaster and Salkauskas, Math. Comp. 37
(1981); samples of another surface get no weight (Tukey's biweight). The arithmetic is cuda/mls.cpp;
`plain` is its definition, and runs without a compiler.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import kernels

Array = NDArray[Any]

# Monomials x^a y^b of the moments, in the order of cuda/mls.h.
_POWERS = [(a, d - a) for d in range(5) for a in range(d, -1, -1)]
_ROWS = ((0, 1, 2, 3, 4, 5), (1, 3, 4, 6, 7, 8), (2, 4, 5, 7, 8, 9), (3, 6, 7, 10, 11, 12),
         (4, 7, 8, 11, 12, 13), (5, 8, 9, 12, 13, 14))  # fmt: skip


@dataclass(frozen=True)
class Smoothed:
    """A smoothed map, all (h, w) float32."""

    z: Array  # NaN = no surface near
    variance: Array  # relative variance of z, were the samples independent; inf where z is NaN
    residual: Array  # weighted relative residual of the samples round it


def smooth(
    z: Array, sigma: Array, start: Array, pixels: float, tolerance: float, machine: str = "cpu"
) -> Smoothed:
    """Smooth z (h, w, NaN = unknown) with relative standard deviations `sigma` (h, w).

    start: (h, w) depth where each pixel's surface is about; NaN: no answer there. pixels: standard
    deviation of the Gaussian window; tolerance: relative miss at which a sample counts no more.
    machine: cpu or cuda; a GPU that is full or gone leaves the work to the CPU.
    """
    h, w = z.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(z) & (z > 0) & np.isfinite(sigma) & (sigma > 0)
        value = np.where(known, 1 / np.where(known, z, 1), 0).astype(np.float32)
        weight = np.where(known, 1 / np.where(known, sigma, 1) ** 2, 0).astype(np.float32)
        begun = np.isfinite(start) & (start > 0)
        begin = np.where(begun, 1 / np.where(begun, start, 1), 0).astype(np.float32)
    radius, stride = max(2, round(2.2 * pixels)), max(1, round(pixels / 3))
    fitted, variance, residual = (np.zeros((h, w), np.float32) for _ in range(3))
    at, f32 = kernels.address, "float32"
    call = (
        h, w, at(value, f32), at(weight, f32), at(begin, f32), radius, stride,
        ctypes.c_float(pixels), ctypes.c_float(tolerance), at(fitted, f32), at(variance, f32),
        at(residual, f32),
    )  # fmt: skip
    if not kernels.run("mls", "endorecon_mls", call, machine, "smoothing"):
        fitted, variance, residual = plain(value, weight, begin, radius, stride, pixels, tolerance)
    known = fitted > 0
    out = np.where(known, 1 / np.where(known, fitted, 1), np.nan).astype(np.float32)
    return Smoothed(out, np.where(known, variance, np.inf), np.where(known, residual, np.inf))


def plain(
    value: Array,
    weight: Array,
    start: Array,
    radius: int,
    stride: int,
    sigma: float,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    """The definition of cuda/mls.cpp: fitted inverse depth, variance and residual (h, w)."""
    h, w = value.shape
    c = np.zeros((6, h, w))
    c[0] = np.where(start > 0, start, 0)
    for k, axis in ((1, 1), (2, 0)):
        c[k] = _slope(c[0], axis, 4 * tolerance) * sigma
    steps = range(-radius, radius + 1, stride)
    taps = [(dx, dy) for dy in steps for dx in steps]
    pad = ((radius, radius), (radius, radius))
    values, weights = np.pad(value.astype(float), pad), np.pad(weight.astype(float), pad)
    variance, residual = np.full((h, w), np.inf), np.full((h, w), np.inf)
    for wide in (2 * tolerance, tolerance):
        moments = np.zeros((22, h, w))
        for dx, dy in taps:
            x, y = dx / sigma, dy / sigma
            g = np.exp(-0.5 * (x * x + y * y))
            if g < 0.02:
                continue
            basis = [x**a * y**b for a, b in _POWERS]
            window = np.s_[radius + dy : radius + dy + h, radius + dx : radius + dx + w]
            v = values[window]
            e = (v - np.tensordot(basis[:6], c, 1)) / (wide * c[0] + 1e-20)
            k = g * weights[window] * np.maximum(1 - e * e, 0) ** 2
            moments[:15] += k * np.reshape(basis, (15, 1, 1))
            moments[15:21] += k * v * np.reshape(basis[:6], (6, 1, 1))
            moments[21] += k * e * e
        fit, gain = _solve(moments)
        with np.errstate(invalid="ignore"):
            ok = (c[0] > 0) & np.isfinite(gain) & (fit[0] > 0.5 * c[0]) & (fit[0] < 2 * c[0])
            residual = np.where(
                ok, wide * np.sqrt(moments[21] / np.maximum(moments[0], 1e-30)), np.inf
            )
        variance = np.where(ok, gain, np.inf)
        held = np.zeros_like(c)
        held[0] = c[0]
        c = np.where(ok, fit, held)
    return c[0].astype(np.float32), variance.astype(np.float32), residual.astype(np.float32)


def _slope(start: Array, axis: int, tolerance: float) -> Array:
    """Central difference over four pixels; 0 across a jump, beside a hole and at the rim."""
    r = 2
    a, b = np.roll(start, r, axis), np.roll(start, -r, axis)
    miss = tolerance * start
    ok = (a > 0) & (b > 0) & (np.abs(a - start) < miss) & (np.abs(b - start) < miss)
    at = np.arange(start.shape[axis])
    inner = (at >= r) & (at < start.shape[axis] - r)
    ok &= inner[None, :] if axis == 1 else inner[:, None]
    return np.where(ok, (b - a) / (2 * r), 0.0)


def _solve(moments: Array) -> tuple[Array, Array]:
    """Coefficients (6, h, w) and variance (h, w) of the ridged least squares; inf = no support."""
    _, h, w = moments.shape
    total = moments[0]
    known = total > 1e-12
    matrix = moments[np.array(_ROWS)].transpose(2, 3, 0, 1).copy()
    safe = np.where(known, total, 1.0)
    matrix[~known] = np.eye(6)
    for i in range(1, 6):
        matrix[..., i, i] += (1e-3 if i < 3 else 3e-2) * safe
    right = np.zeros((h, w, 6, 2))
    right[..., 0] = moments[15:21].transpose(1, 2, 0)
    right[..., 0, 1] = 1.0
    found = np.linalg.solve(matrix, right)
    return found[..., 0].transpose(2, 0, 1), np.where(known, found[..., 0, 1], np.inf)
