"""The CUDA kernels against the twin; run by benchmarks/gpu.sh, alone and under compute-sanitizer.

Tolerances are wider than on the CPU: sums over atomics come in any order.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from field_cases import doubled, make_case

from endorecon import kernels
from endorecon.config import FieldConfig
from endorecon.field import native, twin
from endorecon.field.hashgrid import encode
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Parameters, Rates, RayBatch

pytestmark = pytest.mark.gpu

CASES = [  # rays, samples, levels, log2_table, light off the camera, near light
    (64, 32, 12, 10, False, True),
    (37, 13, 7, 12, True, True),
    (5, 128, 3, 8, False, False),
    (3, 1, 2, 10, False, True),
    (1, 2, 12, 10, True, True),
]


@pytest.fixture(scope="module")
def lib() -> object:
    found = native.library("cuda")
    assert found is not None, kernels.why("field", "cuda")  # a GPU without its kernels is a fault
    return found


def moved(p: Parameters, b: RayBatch) -> tuple[Parameters, RayBatch]:
    """The same on the GPU."""

    def there(v: object) -> object:
        return v.cuda() if isinstance(v, torch.Tensor) else v

    return (
        Parameters(**{k: there(v) for k, v in vars(p).items()}),  # type: ignore[arg-type]
        RayBatch(**{k: there(v) for k, v in vars(b).items()}),  # type: ignore[arg-type]
    )


def close(found: torch.Tensor, want: torch.Tensor, tolerance: float) -> bool:
    return float((found.cpu().double() - want).norm()) <= tolerance * float(want.norm()) + 1e-10


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_renderings_are_those_of_the_twin(lib: object, case: tuple) -> None:
    R, S, L, T, off, near = case
    p, b = make_case(R, S, L, T, off_light=off, near_light=near)
    P, B = doubled(p, b)
    p, b = moved(p, b)
    terms, g = native.gradients(lib, p, b, with_position=True)  # type: ignore[arg-type]
    B.origin.requires_grad_(True)
    told = twin.losses(B, twin.composite(P, B))
    for name in ("colour", "depth", "spread", "square"):
        assert terms[name] == pytest.approx(float(told[name].detach()), rel=1e-4, abs=1e-8)
    total = told["colour"] + told["depth"] + told["spread"]
    leaves = (P.table, P.weights, P.extras, B.origin)
    wants = torch.autograd.grad(total, leaves, allow_unused=True)
    assert g.position is not None
    founds = (g.table, g.weights, g.extras, g.position.sum(2).T)
    for found, want in zip(founds, wants):
        assert close(found, torch.zeros(found.shape).double() if want is None else want, 1e-4)
    colour, depth, opacity = native.render(lib, p, b, (0.16, 0.5, 0.84))  # type: ignore[arg-type]
    with torch.no_grad():
        c = twin.composite(P, B)
    assert close(colour, c.shown, 1e-4)
    assert close(depth, twin.quantile_depths(B.edges, c.tau, (0.16, 0.5, 0.84)), 1e-4)
    assert torch.allclose(opacity.cpu().double(), 1 - c.weight[:, -1], atol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 129, 5000])
def test_encoding_and_density_are_those_of_the_twin(lib: object, n: int) -> None:
    p, b = make_case(1, 2)
    x = torch.rand(n, 3) * 1.2 - 0.1
    x[0] = torch.tensor([0.0, 1.0, 1.0])
    want = encode(p.table.double(), x.double(), p.levels, p.scales)
    sigma = twin.density_net(p, x)[0].exp()
    p, b = moved(p, b)
    assert torch.allclose(native.encode(lib, p, x.cuda()).cpu().double(), want, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(native.density(lib, p, x.cuda()).cpu(), sigma, rtol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [1, 2, 32])
def test_samples_are_placed_as_the_twin_places_them(lib: object, samples: int) -> None:
    _, b = make_case(300, 2)
    grid = 10 * torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(1)) ** 4
    jitter = torch.rand(300)
    band = torch.stack([torch.full((300,), 0.5), torch.full((300,), 0.6)], 1)
    band[::3] = 0.0
    rays = (b.origin, b.direction, b.norm, band, jitter)
    shape = (samples, 96, 0.1, 0.3, 0.65)
    want = twin.sample_edges(grid, *rays, *shape)
    found = native.sample(lib, grid.cuda(), *(t.cuda() for t in rays), *shape).cpu()  # type: ignore[arg-type]
    assert (found[:, 1:] >= found[:, :-1]).all()
    assert float(((found - want).abs().amax(1) > 1e-3).float().mean()) < 0.02


def test_no_rays_are_no_work_and_bad_numbers_touch_nothing(lib: object) -> None:
    p, b = moved(*make_case(0, 4))
    terms, g = native.gradients(lib, p, b)  # type: ignore[arg-type]
    assert set(terms.values()) == {0.0} and not g.table.any()
    config = dataclasses.replace(FieldConfig(), log2_table=10, finest=64, proposal=16)
    field = NerfField(config, np.zeros(3), 2.0, 1.0, 0.1, 5, 7, "cuda")
    _, b = moved(*make_case(32, 8))
    b.colour[5] = float("nan")
    b.colour_weight.fill_(1.0)
    before = field.state()
    finite, _ = field.learn(b, Rates(1e-2, 1e-2, 1e-2, 1))
    assert not finite and all(np.array_equal(before[k], v) for k, v in field.state().items())


def test_steps_on_the_gpu_are_steps_of_the_twin() -> None:
    config = dataclasses.replace(FieldConfig(), log2_table=10, finest=64, proposal=16)
    gpu = NerfField(config, np.zeros(3), 2.0, 1.0, 0.1, 5, 7, "cuda")
    plain = dataclasses.replace(config, backend="torch")
    cpu = NerfField(plain, np.zeros(3), 2.0, 1.0, 0.1, 5, 7, "cpu")
    p, b = make_case(64, 16, seed=5)
    for field in (gpu, cpu):
        field.parameters.table *= 1e4
    _, there = moved(p, b)
    for k in range(3):
        rates = Rates(1e-2, 2e-3, 1e-3, k + 1, clip=1e-3, anchor=0.1)
        one, two = gpu.learn(there, rates), cpu.learn(b, rates)
        assert one[0] and two[0]
        assert one[1]["colour"] == pytest.approx(two[1]["colour"], rel=1e-3)
    for name in ("table", "weights", "extras"):
        a, w = gpu.state()[name], cpu.state()[name]
        assert (np.abs(a - w) > 1e-3 * np.abs(w).max()).mean() < 5e-3, name
