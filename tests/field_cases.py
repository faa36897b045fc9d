"""Random small fields and ray batches for the tests of the field."""

from __future__ import annotations

import torch

from endorecon.field.hashgrid import make_levels
from endorecon.field.twin import WEIGHTS, Parameters, RayBatch


def make_case(
    rays: int,
    samples: int,
    levels: int = 12,
    log2_table: int = 10,
    views: int = 5,
    off_light: bool = False,
    near_light: bool = True,
    seed: int = 0,
) -> tuple[Parameters, RayBatch]:
    """Parameters of order one (no dead nets) and rays inside the box; some without targets."""
    g = torch.Generator().manual_seed(seed)

    def r(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g)

    p = Parameters(
        (r(levels, 1 << log2_table, 2) - 0.5) * 2,
        (r(WEIGHTS) - 0.5) * 0.6,
        (r(views + 1) - 0.5) * 0.4,
        make_levels(levels, log2_table, 4, 64),
        near_light,
        0.45,
        tuple([1.0] * (levels - 1) + [0.3]),
        inverse_ceiling=(0.4, 1.2, 0.0),
    )
    view = r(rays, 3) - 0.5
    view = view / view.norm(dim=1, keepdim=True)
    norm = 1 + 0.3 * r(rays)
    first, last = torch.full((rays, 1), 0.2), torch.full((rays, 1), 2.3)
    edges = torch.cat([first, (0.2 + 2 * r(rays, samples - 1)).sort(1).values, last], 1)
    falloff = torch.stack([r(rays) * 0.1, r(rays) * 0.1, norm**2], 1) if off_light else None
    batch = RayBatch(
        origin=0.3 + 0.4 * r(rays, 3),
        direction=(view * norm[:, None] * 0.4),
        view=view,
        norm=norm,
        frame=torch.randint(-1, views, (rays,), generator=g, dtype=torch.int32),
        edges=edges.contiguous(),
        colour=r(rays, 3),
        colour_weight=(r(rays) > 0.3).float(),
        target=0.3 + 2 * r(rays),
        target_scale=0.02 + 0.1 * r(rays),
        target_weight=(r(rays) > 0.4).float() * r(rays),
        falloff=falloff,
        spread_weight=0.01,
        white=0.6,
    )
    return p, batch


def doubled(p: Parameters, b: RayBatch) -> tuple[Parameters, RayBatch]:
    """The same in float64, parameters with gradients."""

    def up(v: object) -> object:
        if isinstance(v, torch.Tensor) and v.dtype == torch.float32:
            return v.double()
        return v

    p = Parameters(**{k: up(v) for k, v in vars(p).items()})  # type: ignore[arg-type]
    b = RayBatch(**{k: up(v) for k, v in vars(b).items()})  # type: ignore[arg-type]
    for t in (p.table, p.weights, p.extras):
        t.requires_grad_(True)
    return p, b
