"""The multiresolution hash grid: geometry of its levels and the plain torch definition.

Positions lie in [0, 1]^3 of the scene box; everything outside ends on its face. A level of `res`
cells stores (res + 1)^3 corners in order (x fastest) where they fit the table, hashed otherwise.
Mueller et al., Instant Neural Graphics Primitives (2022), equations 2-4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class Levels:
    """`res` cells along an edge, level by level; `dense` levels need no hash."""

    log2_table: int
    res: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.res)

    @property
    def rows(self) -> int:
        return 1 << self.log2_table

    @property
    def dense(self) -> tuple[bool, ...]:
        return tuple((r + 1) ** 3 <= self.rows for r in self.res)


def make_levels(count: int, log2_table: int, coarsest: int, finest: int) -> Levels:
    """Levels in geometric progression from `coarsest` to `finest` cells along an edge."""
    growth = (finest / coarsest) ** (1.0 / max(count - 1, 1))
    return Levels(log2_table, tuple(round(coarsest * growth**k) for k in range(count)))


def corners(x: Tensor, res: int, dense: bool, rows: int) -> tuple[Tensor, Tensor]:
    """Table rows (n, 8) and trilinear weights (n, 8) of the cell corners round points (n, 3)."""
    p = (x * res).clamp(0.0, float(res))
    cell = p.detach().floor().clamp(max=float(res - 1))
    f = p - cell
    cell = cell.long()
    row, weight = [], []
    for k in range(8):
        at = [cell[:, a] + (k >> a & 1) for a in range(3)]
        if dense:
            row.append(at[0] + (res + 1) * (at[1] + (res + 1) * at[2]))
        else:
            # 32-bit wrap-around of the products does not matter: the mask keeps low bits only
            row.append((at[0] ^ (at[1] * PRIMES[1]) ^ (at[2] * PRIMES[2])) & (rows - 1))
        w = [f[:, a] if k >> a & 1 else 1.0 - f[:, a] for a in range(3)]
        weight.append(w[0] * w[1] * w[2])
    return torch.stack(row, 1), torch.stack(weight, 1)


def level_scales(count: int, open_levels: float) -> tuple[float, ...]:
    """Weight of each level when `open_levels` are open: 1 below, 0 above, smooth in between.

    Coarse-to-fine (Park et al., Nerfies, 2021, eq. 8): closed levels neither speak nor learn.
    """
    place = (min(max(open_levels - k, 0.0), 1.0) for k in range(count))
    return tuple(0.5 * (1.0 - math.cos(math.pi * x)) for x in place)


def encode(table: Tensor, x: Tensor, levels: Levels, scales: tuple[float, ...]) -> Tensor:
    """Features (n, 2 * levels) of points (n, 3) from a table (levels, rows, 2)."""
    features = []
    for k, (res, dense) in enumerate(zip(levels.res, levels.dense)):
        if scales[k] == 0.0:
            features.append(torch.zeros_like(x[:, :2]))
            continue
        row, weight = corners(x, res, dense, levels.rows)
        features.append(scales[k] * (table[k][row] * weight[..., None]).sum(1))
    return torch.cat(features, 1)
