"""The field in plain torch: sampling, nets, compositing, losses, Adam. This is the definition.

The kernels (cuda/field.cpp, cuda/field.cu) do the same arithmetic; tests hold them to this file.
Units: positions in [0, 1]^3 of the box; z, distances and 1/density in reference depths. Edges
(R, S + 1) bound the S samples of each ray; a sample is seen at the middle of its interval, where
its density holds. The last sample is opaque: it takes all light that is left, so that a ray cannot
be explained by "nothing". Radiance = net / light distance^2 x exposure; display = radiance^power.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from endorecon.field.hashgrid import Levels, encode
from endorecon.field.tcnn import TinyCuda

# Layout of the flat weight vector (cuda/hashmlp.h): rows x columns of each matrix.
IN, HID, OUT, RGB = 24, 32, 16, 4
SHAPES = ((HID, IN), (OUT, HID), (HID, IN), (HID, HID), (RGB, HID))
WEIGHTS = sum(a * b for a, b in SHAPES)
LOG_SIGMA_MAX, LOG_SIGMA_SHIFT = 12.0, -1.0
LOG_RGB_MIN, LOG_RGB_MAX = -12.0, 8.0
NEAREST_LIGHT2 = 0.01
DISPLAY_EPS = 1e-4
TERMS = ("colour", "depth", "spread", "square", "norm")


@dataclass
class Parameters:
    """What is learnt: grid, nets, and (views + 1) extras: log exposures, log response exponent."""

    table: Tensor  # (levels, rows, 2)
    weights: Tensor  # (WEIGHTS,)
    extras: Tensor  # (views + 1,)
    levels: Levels
    near_light: bool
    response: float
    scales: tuple[float, ...]  # weight of each level (hashgrid.level_scales)
    nets: TinyCuda | None = None  # who works the nets out instead of the lines below
    inverse_ceiling: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the radiance; 0: none


@dataclass
class RayBatch:
    """R rays of S samples; null targets have weight 0."""

    origin: Tensor  # (R, 3) in the box
    direction: Tensor  # (R, 3) box per unit z
    view: Tensor  # (R, 3) unit vectors in world axes
    norm: Tensor  # (R,) distance per unit z
    frame: Tensor  # (R,) int32, view whose exposure counts, -1: none
    edges: Tensor  # (R, S + 1)
    colour: Tensor  # (R, 3) display values
    colour_weight: Tensor  # (R,)
    target: Tensor  # (R,) z
    target_scale: Tensor  # (R,)
    target_weight: Tensor  # (R,)
    falloff: Tensor | None = None  # (R, 3): light distance^2 = a + b z + c z^2
    charbonnier: float = 0.05
    spread_weight: float = 0.0
    white: float = 1.0  # display value from which a pixel says "at least so bright"


def split_weights(weights: Tensor) -> list[Tensor]:
    """The five matrices of the flat weight vector."""
    parts, at = [], 0
    for rows, columns in SHAPES:
        parts.append(weights[at : at + rows * columns].view(rows, columns))
        at += rows * columns
    return parts


def harmonics(v: Tensor) -> Tensor:
    """Real spherical harmonics to degree 2 (n, 9) of unit vectors (n, 3)."""
    x, y, z = v.unbind(-1)
    one = torch.ones_like(x)
    return torch.stack(
        [
            0.28209479 * one,
            0.48860251 * y,
            0.48860251 * z,
            0.48860251 * x,
            1.09254843 * x * y,
            1.09254843 * y * z,
            0.31539157 * (3.0 * z * z - 1.0),
            1.09254843 * x * z,
            0.54627421 * (x * x - y * y),
        ],
        -1,
    )


def density_net(p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log density (n,) and 15 features (n, 15) at points (n, 3) of the box."""
    if p.nets is not None:
        raw, features = p.nets.density(p, x)
    else:
        w1, w2, *_ = split_weights(p.weights)
        feature = encode(p.table, x, p.levels, p.scales)
        if feature.shape[1] < IN:
            feature = torch.nn.functional.pad(feature, (0, IN - feature.shape[1]))
        out = torch.relu(feature @ w1.T) @ w2.T
        raw, features = out[:, 0], out[:, 1:]
    return (raw + LOG_SIGMA_SHIFT).clamp(max=LOG_SIGMA_MAX), features


def colour_net(p: Parameters, features: Tensor, view: Tensor) -> Tensor:
    """Radiance (n, 3) at one reference depth from the light, seen along `view` (n, 3).

    It nears its ceiling, if there is one, and never passes it: 1 / radiance = e^-raw + 1 / ceiling.
    """
    inputs = torch.cat([features, harmonics(view)], 1)
    if p.nets is not None:
        raw = p.nets.colour(p, inputs)
    else:
        _, _, a1, a2, a3 = split_weights(p.weights)
        h = torch.relu(inputs @ a1.T)
        raw = (torch.relu(h @ a2.T) @ a3.T)[:, :3]
    bare = raw.clamp(LOG_RGB_MIN, LOG_RGB_MAX).exp()
    return bare / (1.0 + bare * bare.new_tensor(p.inverse_ceiling))


@dataclass
class Composite:
    """What compositing yields for R rays of S samples."""

    z: Tensor  # (R, S) middle of each interval
    tau: Tensor  # (R, S) optical depth of each interval
    weight: Tensor  # (R, S), sums to 1
    shown: Tensor  # (R, 3) display values


def composite(p: Parameters, b: RayBatch) -> Composite:
    """March all rays of the batch."""
    R, S = b.edges.shape[0], b.edges.shape[1] - 1
    z = 0.5 * (b.edges[:, 1:] + b.edges[:, :-1])
    x = (b.origin[:, None] + z[..., None] * b.direction[:, None]).reshape(-1, 3)
    log_sigma, features = density_net(p, x)
    tau = log_sigma.exp().view(R, S) * (b.edges[:, 1:] - b.edges[:, :-1]) * b.norm[:, None]
    through = torch.exp(-tau)
    T = torch.cumprod(torch.cat([torch.ones_like(tau[:, :1]), through[:, :-1]], 1), 1)
    alpha = torch.cat([1.0 - through[:, :-1], torch.ones_like(tau[:, :1])], 1)
    weight = T * alpha
    view = b.view[:, None].expand(R, S, 3).reshape(-1, 3)
    radiance = colour_net(p, features, view).view(R, S, 3)
    if p.near_light:
        if b.falloff is None:
            t2 = (z * b.norm[:, None]) ** 2
        else:
            f = b.falloff[:, :, None]
            t2 = f[:, 0] + z * (f[:, 1] + z * f[:, 2])
        radiance = radiance / t2.clamp(min=NEAREST_LIGHT2)[..., None]
    lin = (weight[..., None] * radiance).sum(1)
    gains = torch.cat([p.extras[:-1].exp(), torch.ones_like(p.extras[:1])])
    gain = gains[b.frame.long()]  # frame -1 takes the last entry: no exposure
    power = p.response * p.extras[-1].exp()
    shown = (gain[:, None] * lin + DISPLAY_EPS) ** power
    return Composite(z, tau, weight, shown)


def losses(b: RayBatch, c: Composite) -> dict[str, Tensor]:
    """The terms of the loss (means over all rays) and the mean square of the colour miss.

    Colour: Charbonnier, but a clipped value is no upper bound. Depth: every bit of weight pays the
    Cauchy cost of its distance from the target, which draws the expectation there and concentrates
    it, with a bounded pull. Spread: variance of log z under the weights.
    """
    R = b.edges.shape[0]
    miss = c.shown - b.colour
    miss = torch.where((b.colour >= b.white) & (miss > 0), 0.0, miss)
    seen = b.colour_weight
    charb = torch.sqrt(miss**2 + b.charbonnier**2) - b.charbonnier
    colour = (seen * charb.mean(1))[seen > 0].sum() / R
    square = (miss**2).mean(1)[seen > 0].sum()
    zlog = torch.log(c.z)
    mean = (c.weight * zlog).sum(1, keepdim=True)
    spread = b.spread_weight * (c.weight * (zlog - mean) ** 2).sum(1).sum() / R
    known = b.target_weight > 0
    r = (c.z[known] - b.target[known, None]) / b.target_scale[known, None]
    cost = (c.weight[known] * 0.5 * torch.log1p(r**2)).sum(1)
    depth = (b.target_weight[known] * cost).sum() / R
    return {"colour": colour, "depth": depth, "spread": spread, "square": square}


def quantile_depths(edges: Tensor, tau: Tensor, quantiles: tuple[float, ...]) -> Tensor:
    """z (R, q) where the transmittance falls below 1 - quantile; the far end if it never does."""
    S = tau.shape[1]
    before = torch.cat([torch.zeros_like(tau[:, :1]), tau[:, :-1].cumsum(1)], 1)  # at each edge
    found = []
    for q in quantiles:
        want = -torch.log(torch.tensor(1.0 - q)).item()
        i = ((before[:, 1:] < want).sum(1)).clamp(max=S - 2 if S > 1 else 0)
        rows = torch.arange(len(tau), device=tau.device)
        z0, z1 = edges[rows, i], edges[rows, i + 1]
        z = z0 + (z1 - z0) * (want - before[rows, i]) / tau[rows, i]
        reached = before[:, -1] >= want
        found.append(torch.where(reached, z, edges[:, -1]))
    return torch.stack(found, 1)


def box_span(o: Tensor, d: Tensor, near_z: float) -> tuple[Tensor, Tensor]:
    """First and last z (R,) of rays inside the box."""
    safe = torch.where(d.abs() > 1e-9, d, torch.where(d < 0, -1e-9, 1e-9))
    a, b = -o / safe, (1.0 - o) / safe
    z0 = torch.minimum(a, b).amax(1).clamp(min=near_z)
    z1 = torch.maximum(a, b).amin(1)
    least = z0 * 1.01 + 1e-3
    return z0, torch.maximum(z1, least)


def sample_edges(
    grid: Tensor,
    origin: Tensor,
    direction: Tensor,
    norm: Tensor,
    band: Tensor | None,
    jitter: Tensor,
    samples: int,
    bins: int,
    near_z: float,
    uniform_share: float,
    band_share: float,
) -> Tensor:
    """Edges (R, samples + 1) of the intervals along rays.

    `grid` (G, G, G) is the density as last distilled: a coarse march through it gives the weight of
    `bins` bins (even in sqrt z), widened by one bin, mixed with an even share, and inverted. Rays
    with a `band` (R, 2) (first z < last z) put `band_share` of their edges evenly into it.
    """
    z0, z1 = box_span(origin, direction, near_z)
    s = torch.arange(bins + 1, device=grid.device, dtype=torch.float32) / bins
    cut = (z0.sqrt()[:, None] + (z1.sqrt() - z0.sqrt())[:, None] * s) ** 2
    mid = 0.5 * (cut[:, 1:] + cut[:, :-1])
    G = grid.shape[0]
    p = (origin[:, None] + mid[..., None] * direction[:, None]) * G
    at = p.clamp(0.0, float(G)).long().clamp(max=G - 1)
    tau = grid[at[..., 0], at[..., 1], at[..., 2]] * (cut[:, 1:] - cut[:, :-1]) * norm[:, None]
    T = torch.exp(-torch.cat([torch.zeros_like(tau[:, :1]), tau.cumsum(1)], 1))
    weight = (T[:, :-1] - T[:, 1:]).clamp(min=0.0)
    side = torch.nn.functional.pad(weight, (1, 1))
    weight = torch.maximum(weight, torch.maximum(side[:, :-2], side[:, 2:]))
    total = weight.sum(1, keepdim=True)
    even = torch.where(total > 1e-6, uniform_share, 1.0)
    pdf = torch.where(total > 1e-6, (1.0 - even) * weight / total.clamp(min=1e-6), 0.0)
    cdf = torch.nn.functional.pad((pdf + even / bins).cumsum(1), (1, 0))

    def invert(count: int) -> Tensor:
        want = (torch.arange(count, device=grid.device) + jitter[:, None]) / max(count, 1)
        k = (torch.searchsorted(cdf[:, 1:].contiguous(), want.contiguous())).clamp(max=bins - 1)
        lo, hi = cdf.gather(1, k), cdf.gather(1, k + 1)
        f = ((want - lo) / (hi - lo)).clamp(0.0, 1.0)
        a, b = cut.gather(1, k), cut.gather(1, k + 1)
        return a + f * (b - a)

    inner = samples - 1
    middle = invert(inner)
    if band is not None:
        in_band = int(band_share * inner)
        even_in = (torch.arange(in_band, device=grid.device) + jitter[:, None]) / max(in_band, 1)
        zb = band[:, :1] + even_in * (band[:, 1:] - band[:, :1])
        zb = torch.minimum(torch.maximum(zb, z0[:, None]), z1[:, None])
        mixed = torch.cat([zb, invert(inner - in_band)], 1).sort(1).values
        middle = torch.where((band[:, :1] < band[:, 1:]), mixed, middle)
    return torch.cat([z0[:, None], middle, z1[:, None]], 1)


@dataclass(frozen=True)
class Rates:
    """Adam's numbers for one step; `count` is the step's number from 1."""

    table: float
    weights: float
    extras: float
    count: int
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-15
    clip: float = 0.0
    anchor: float = 0.0


@torch.no_grad()
def adam(
    value: Tensor, grad: Tensor, m: Tensor, v: Tensor, rate: float, r: Rates, pairs: bool
) -> None:
    """One Adam update in place; `pairs`: rows whose gradient is exactly zero are left alone."""
    new_m = r.beta1 * m + (1 - r.beta1) * grad
    new_v = r.beta2 * v + (1 - r.beta2) * grad**2
    step = rate * (new_m / (1 - r.beta1**r.count))
    step = step / ((new_v / (1 - r.beta2**r.count)).sqrt() + r.eps)
    touched = (
        (grad != 0).any(-1, keepdim=True) if pairs else torch.ones_like(grad, dtype=torch.bool)
    )
    value -= torch.where(touched, step, 0.0)
    m.copy_(torch.where(touched, new_m, m))
    v.copy_(torch.where(touched, new_v, v))
