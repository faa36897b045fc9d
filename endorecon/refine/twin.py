"""The plain definition of cuda/sweep.cpp in numpy; it also runs where there is no compiler.

Arguments and results are those of `sweep.sweep` and `sweep.fuse`; a warp is (12,) float: rows of
[K_b R K_a^-1 | K_b t], so that p = A (x + .5, y + .5, 1) + b / z.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _project(warp: Array, x: Array, y: Array, iz: Array) -> tuple[Array, Array, Array]:
    m = warp.reshape(3, 4)
    a, b, c = (m[k, 0] * x + m[k, 1] * y + m[k, 2] + m[k, 3] * iz for k in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / c, b / c, c


def _corners(u: Array, v: Array, inside: Array) -> tuple[Array, Array, Array, Array]:
    """Integer corner and fractions of bilinear sampling (0 outside)."""
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    iu, iv = u.astype(int), v.astype(int)
    return iu, iv, u - iu, v - iv


def _box(a: Array, radius: int) -> Array:
    """Sum over a (2 radius + 1)^2 window, zero outside of the image."""
    from scipy.ndimage import uniform_filter

    n = 2 * radius + 1
    return uniform_filter(a.astype(np.float64), n, mode="constant") * n * n


def correlate(
    ref: Array,
    weight: Array,
    iz: Array,
    warp: Array,
    image: Array,
    image_weight: Array,
    radius: int,
    noise2: float,
) -> Array:
    """Masked NCC (h, w) of ref with `image` seen through inverse depths iz; -2 = no answer.

    warp leads to pixels of `image`, which may have another size.
    """
    h, w = ref.shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    u, v, c = _project(warp, x, y, iz)
    u, v = u - 0.5, v - 0.5
    h, w = image.shape
    inside = (c > 1e-6) & (u >= 0) & (v >= 0) & (u <= w - 1.001) & (v <= h - 1.001)
    iu, iv, fu, fv = _corners(u, v, inside)
    a = image[iv, iu] + fu * (image[iv, iu + 1] - image[iv, iu])
    b = image[iv + 1, iu] + fu * (image[iv + 1, iu + 1] - image[iv + 1, iu])
    W = a + fv * (b - a)
    g = np.minimum.reduce([image_weight[iv + dy, iu + dx] for dy in (0, 1) for dx in (0, 1)])
    m = np.where(inside, weight * g, 0.0)
    s = [_box(q, radius) for q in (m, m * ref, m * ref * ref, m * W, m * W * W, m * ref * W)]
    n = np.maximum(s[0], 1e-6)
    mean_i, mean_w = s[1] / n, s[3] / n
    var_i = np.maximum(s[2] / n - mean_i**2, 0)
    var_w = np.maximum(s[4] / n - mean_w**2, 0)
    ncc = (s[5] / n - mean_i * mean_w) / np.sqrt((var_i + noise2) * (var_w + noise2))
    return np.where(s[0] >= 0.35 * (2 * radius + 1) ** 2, ncc, -2.0)


def semi_global(cost: Array, logz: Array, p1: int, p2: int, jump: float) -> Array:
    """Sum over 8 directions of the path costs of cost (h, w, steps) int; (h, w, steps)."""
    h, w, _ = cost.shape
    total = np.zeros_like(cost)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        L = np.zeros_like(cost)
        xs = range(w) if dx >= 0 else range(w - 1, -1, -1)
        ys = range(h) if dy >= 0 else range(h - 1, -1, -1)
        for y in ys:
            for x in xs:
                xp, yp = x - dx, y - dy
                L[y, x] = cost[y, x]
                if not (0 <= xp < w and 0 <= yp < h):
                    continue
                if not abs(logz[y, x] - logz[yp, xp]) < jump:
                    continue
                P = L[yp, xp]
                best = np.minimum(P, P.min() + p2)
                best[1:] = np.minimum(best[1:], P[:-1] + p1)
                best[:-1] = np.minimum(best[:-1], P[1:] + p1)
                L[y, x] += best - P.min()
        total += L
    return total


def sweep(
    ref: Array,
    weight: Array,
    z0: Array,
    band: Array,
    images: Array,
    weights: Array,
    warps: Array,
    steps: int,
    radius: int,
    noise2: float,
    p1: float,
    p2: float,
    jump: float,
) -> tuple[Array, Array, Array, Array, Array]:
    """z, score, curvature, support, edge of one frame; see `sweep.sweep`."""
    h, w = ref.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(z0) & (z0 > 0)
        iz0 = np.where(known, 1.0 / z0, 1.0)
        logz = np.where(known, np.log(z0), np.nan)
    weight = np.where(known, weight, 0.0)
    du = 2.0 / (steps - 1)
    total, mass, good = np.zeros((steps, h, w)), np.zeros((h, w)), np.zeros((h, w))
    for image, image_weight, warp in zip(images, weights, warps, strict=True):
        ncc = np.stack(
            [
                correlate(
                    ref, weight, iz0 * (1 + band * (-1 + du * s)), warp, image, image_weight,
                    radius, noise2,
                )
                for s in range(steps)
            ]
        )  # fmt: skip
        best = ncc.max(0)
        t = np.clip((best - 0.3) / 0.5, 0, 1)
        share = np.where(best > -1.5, 0.02 + t * t * (3 - 2 * t), 0)
        mass += share
        good += share > 0.25
        total += share * np.where(ncc > -1.5, 1 - ncc, 1.0)
    total = np.where(mass > 0, total / np.maximum(mass, 1e-12), 1.0)
    cost = np.rint(np.clip(total, 0, 2) * 1000).astype(np.int64).transpose(1, 2, 0)
    smooth = semi_global(cost, logz, int(p1), int(p2), jump)
    k = smooth.argmin(-1)
    yy, xx = np.indices((h, w))
    for _ in range(2):
        near = np.stack([k, np.maximum(k - 1, 0), np.minimum(k + 1, steps - 1)])
        k = near[total[near, yy, xx].argmin(0), yy, xx]
    k0 = np.clip(k, 2, steps - 3)
    c = np.stack([total[k0 + d, yy, xx] for d in (-2, -1, 0, 1, 2)])
    s0, s1 = c.sum(0), -2 * c[0] - c[1] + c[3] + 2 * c[4]
    s2 = 4 * c[0] + c[1] + c[3] + 4 * c[4]
    a, b = (s2 - 2 * s0) / 14, s1 / 10
    convex = a > 1e-7
    safe = np.where(convex, a, 1.0)
    offset = np.where(convex, -b / (2 * safe), 0.0)
    convex_near = convex & (np.abs(offset + k0 - k) <= 1.5)
    t = -1 + du * np.where(convex_near, k0 + offset, k)
    base = np.where(convex_near, (s0 - 10 * a) / 5 - b * b / (4 * safe), total[k, yy, xx])
    iz = iz0 * (1 + band * t)
    valid = known & (mass > 0) & (iz > 0)
    unit = np.maximum(band * du, 1e-9)
    f32 = np.float32
    return (
        np.where(valid, 1 / np.where(valid, iz, 1), np.nan).astype(f32),
        np.where(valid, 1 - base, 0).astype(f32),
        np.where(valid, np.where(convex, 2 * safe, 0) / unit**2, 0).astype(f32),
        np.where(valid, good, 0).astype(f32),
        ((k < 1) | (k > steps - 2)) & known & (mass > 0),
    )


def _meet(
    zi: Array,
    known: Array,
    Z: Array,
    S: Array,
    there: Array,
    back: Array,
    steps: int,
    enough: float,
) -> tuple[Array, Array, Array, Array, Array]:
    """Where the rays of a map meet the surface Z of another: z and sigma on the ray, whether at
    all, and the relative gap before the first step and before the last."""
    h, w = zi.shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    guess, seen = zi.copy(), known.copy()
    first, last, spread = (np.zeros((h, w)) for _ in range(3))
    going = known.copy()
    for step in range(steps):
        u, v, c = _project(there, x, y, 1 / guess)
        u, v, zv = u - 0.5, v - 0.5, c * guess
        inside = (zv > 0) & (u >= 0) & (v >= 0) & (u < w - 1.001) & (v < h - 1.001)
        seen &= inside | ~going
        iu, iv, fu, fv = _corners(u, v, seen & inside)
        corner = [Z[iv + dy, iu + dx] for dy in (0, 1) for dx in (0, 1)]
        lo, hi = np.minimum.reduce(corner), np.maximum.reduce(corner)
        with np.errstate(invalid="ignore", divide="ignore"):
            seen &= ((lo > 0) & (hi < 1.05 * lo)) | ~going
            going &= seen
            i = [1 / a for a in corner]
            ia, ib = i[0] + fu * (i[1] - i[0]), i[2] + fu * (i[3] - i[2])
            measured = np.where(going, 1 / (ia + fv * (ib - ia)), 1.0)
            last = np.where(going, measured / np.where(going, zv, 1.0) - 1, last)
            if step == 0:
                first = last
            _, _, bc = _project(back, u + 0.5, v + 0.5, 1 / measured)
        zr = bc * measured
        seen &= ((zr > 0.3 * zi) & (zr < 3 * zi)) | ~going
        going &= seen
        guess = np.where(going, zr, guess)
        spread = np.where(going, S[iv, iu] * guess / measured, spread)
        going &= np.abs(last) >= enough
    return guess, spread, seen, first, last


def fuse(
    z: Array, sigma: Array, zs: Array, sigmas: Array, there: Array, back: Array, tolerance: float
) -> tuple[Array, Array, Array, Array, Array]:
    """z, spread, sigma, agree, against of one map among others; see `sweep.fuse`."""
    h, w = z.shape
    known = np.isfinite(z) & (z > 0)
    zi = np.where(known, z, 1.0).astype(float)
    s0 = np.maximum(np.where(known, sigma, 1.0), 1e-6 * zi)
    W, agree, against = 1 / s0**2, np.zeros((h, w)), np.zeros((h, w))
    M, estimates = W * zi, []
    for Z, S, q, b in zip(zs, sigmas, there, back, strict=True):
        guess, sv, seen, first, _ = _meet(zi, known, Z, S, q, b, 3, 0.0)
        gap, joint = np.abs(guess - zi), np.sqrt(s0**2 + sv**2)
        near = gap <= np.maximum(tolerance * zi, 3 * joint)
        near &= seen & (gap <= 4 * tolerance * zi)
        weight = np.where(near, 1 / np.maximum(sv**2, 1e-12 * zi**2), 0)
        agree += near
        against += seen & ~near & (first > -4 * tolerance)
        W, M = W + weight, M + weight * guess
        estimates.append((weight, guess))
    mean = M / W
    M2 = (zi - mean) ** 2 / s0**2 + sum(wt * (g - mean) ** 2 for wt, g in estimates)
    f32 = np.float32
    return (
        np.where(known, mean, z).astype(f32),
        np.where(known, np.sqrt(M2 / W), 0).astype(f32),
        np.where(known, np.sqrt(1 / W), sigma).astype(f32),
        np.where(known, agree, 0).astype(f32),
        np.where(known, against, 0).astype(f32),
    )


def consensus(
    z: Array, sigma: Array, zs: Array, sigmas: Array, there: Array, back: Array, settled: float
) -> tuple[Array, Array, Array, Array]:
    """z, spread, least and count of one map among others; see `consensus.consensus`."""
    with np.errstate(invalid="ignore"):
        known = (z > 0) & (sigma > 0)
    zi = np.where(known, z, 1.0).astype(float)
    depths, weights = [zi], [1 / np.maximum(np.where(known, sigma, 1.0), 1e-6 * zi) ** 2]
    for Z, S, q, b in zip(zs, sigmas, there, back, strict=True):
        guess, spread, seen, _, last = _meet(zi, known, Z, S, q, b, 4, 0.1 * settled)
        with np.errstate(invalid="ignore"):
            seen &= (np.abs(last) < settled) & (spread > 0)
        depths.append(np.where(seen, guess, zi))
        weights.append(np.where(seen, 1 / np.maximum(spread, 1e-6 * zi) ** 2, 0.0))
    depth, weight = np.stack(depths), np.stack(weights)
    order = np.argsort(depth, axis=0, kind="stable")
    below = np.cumsum(np.take_along_axis(weight, order, 0), axis=0)
    at = (below < 0.5 * below[-1]).sum(0)[None]
    middle = np.take_along_axis(np.take_along_axis(depth, order, 0), at, 0)[0]
    miss = np.minimum(np.abs(depth - middle), 0.3 * middle)
    spread = (weight * miss).sum(0) / weight.sum(0)
    f32 = np.float32
    return (
        np.where(known, middle, z).astype(f32),
        np.where(known, spread, 0).astype(f32),
        np.where(known, 1 / np.sqrt(weight.max(0)), sigma).astype(f32),
        np.where(known, (weight[1:] > 0).sum(0), 0).astype(f32),
    )
