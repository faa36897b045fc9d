"""Kernels against twins: values, gradients (autograd and finite differences), strange input."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from field_cases import doubled, make_case

from endorecon import kernels
from endorecon.config import FieldConfig
from endorecon.errors import InputRefused
from endorecon.field import native, twin
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Rates

TOTAL = ("colour", "depth", "spread")


@pytest.fixture(scope="module")
def lib() -> object:
    found = native.library("cpu")
    if found is None:
        pytest.skip(kernels.why("field"))
    return found


def total_loss(p: twin.Parameters, b: twin.RayBatch) -> torch.Tensor:
    terms = twin.losses(b, twin.composite(p, b))
    return terms["colour"] + terms["depth"] + terms["spread"]


def close(found: torch.Tensor, want: torch.Tensor, tolerance: float) -> bool:
    """Relative to the size of the whole array."""
    return float((found.double() - want).norm()) <= tolerance * float(want.norm()) + 1e-12


CASES = [  # rays, samples, levels, log2_table, light off the camera, near light
    (64, 32, 12, 10, False, True),
    (37, 13, 7, 12, True, True),
    (5, 128, 3, 8, False, False),
    (3, 1, 2, 10, False, True),
    (1, 2, 12, 10, True, True),
]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_autograd(lib: object, case: tuple) -> None:
    R, S, L, T, off, near = case
    p, b = make_case(R, S, L, T, off_light=off, near_light=near)
    terms, g = native.gradients(lib, p, b, with_position=True)  # type: ignore[arg-type]
    P, B = doubled(p, b)
    P_table, leaves = P.table, (P.table, P.weights, P.extras)
    z = 0.5 * (B.edges[:, 1:] + B.edges[:, :-1])
    B.origin.requires_grad_(True)
    told = twin.losses(B, twin.composite(P, B))
    for name in (*TOTAL, "square"):
        assert terms[name] == pytest.approx(float(told[name].detach()), rel=1e-5, abs=1e-9)
    want = torch.autograd.grad(total_loss(P, B), (*leaves, B.origin), allow_unused=True)
    for found, w in zip((g.table, g.weights, g.extras), want):
        assert close(found, torch.zeros_like(found).double() if w is None else w, 1e-5)
    assert g.position is not None and P_table is P.table and z.shape == (R, S)
    if want[3] is not None:
        assert close(g.position.sum(2).T, want[3], 1e-4)


@pytest.mark.parametrize("term", TOTAL)
def test_each_term_has_the_gradient_of_its_finite_differences(lib: object, term: str) -> None:
    """Depth and spread too; the differences are taken of the twin in double precision."""
    p, b = make_case(16, 12, seed=3)
    if term != "colour":
        b.colour_weight.zero_()
    if term != "depth":
        b.target_weight.zero_()
    if term != "spread":
        b.spread_weight = 0.0
    _, g = native.gradients(lib, p, b)  # type: ignore[arg-type]
    P, B = doubled(p, b)
    with torch.no_grad():
        for name, found in (("weights", g.weights), ("table", g.table), ("extras", g.extras)):
            leaf, flat = getattr(P, name).view(-1), found.view(-1)
            largest = flat.abs().topk(min(12, len(flat))).indices
            for i in largest.tolist():
                old, h = leaf[i].item(), 1e-6
                leaf[i] = old + h
                up = total_loss(P, B).item()
                leaf[i] = old - h
                down = total_loss(P, B).item()
                leaf[i] = old
                slope = (up - down) / (2 * h)
                assert flat[i].item() == pytest.approx(slope, rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_rendering_is_that_of_the_twin(lib: object, case: tuple) -> None:
    R, S, L, T, off, near = case
    p, b = make_case(R, S, L, T, off_light=off, near_light=near)
    colour, depth, opacity = native.render(lib, p, b, (0.16, 0.5, 0.84))  # type: ignore[arg-type]
    P, B = doubled(p, b)
    with torch.no_grad():
        c = twin.composite(P, B)
    assert close(colour, c.shown, 1e-5)
    assert close(depth, twin.quantile_depths(B.edges, c.tau, (0.16, 0.5, 0.84)), 1e-5)
    assert torch.allclose(opacity.double(), 1 - c.weight[:, -1], atol=1e-6)


@pytest.mark.parametrize("samples,banded", [(32, False), (32, True), (1, False), (2, True)])
def test_samples_are_placed_as_the_twin_places_them(
    lib: object, samples: int, banded: bool
) -> None:
    _, b = make_case(300, 2)
    grid = 10 * torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(1)) ** 4
    jitter = torch.rand(300)
    band = torch.stack([torch.full((300,), 0.5), torch.full((300,), 0.6)], 1)
    band[::3] = 0.0  # no band
    shape = (samples, 96, 0.1, 0.3, 0.65)
    rays = (b.origin, b.direction, b.norm, band if banded else None, jitter)
    found = native.sample(lib, grid, *rays, *shape)  # type: ignore[arg-type]
    want = twin.sample_edges(grid, *rays, *shape)
    assert (found[:, 1:] >= found[:, :-1]).all()
    assert float((found - want).abs().median()) < 1e-5
    # a bin whose middle lies on a cell's face may fall either way: a few rays may differ
    assert float(((found - want).abs().amax(1) > 1e-3).float().mean()) < 0.02
    if banded and samples == 32:
        inside = ((found > 0.499) & (found < 0.601)).sum(1)
        assert (inside[1::3] >= 20).all() and inside[::3].float().mean() < 15


def test_a_clipped_value_may_be_outshone_but_not_missed_from_below() -> None:
    p, b = make_case(40, 8)
    c = twin.composite(p, b)
    b.colour_weight = torch.ones(40)
    b.colour = torch.full((40, 3), 0.9)
    bright = dataclasses.replace(c, shown=torch.full((40, 3), 1.7))
    dark = dataclasses.replace(c, shown=torch.full((40, 3), 0.2))
    assert float(twin.losses(b, bright)["colour"]) == 0.0
    assert float(twin.losses(b, dark)["colour"]) > 0.5
    b.white = 1.0  # 0.9 is an ordinary value now
    assert float(twin.losses(b, bright)["colour"]) > 0.5


def test_no_rays_are_no_work(lib: object) -> None:
    p, b = make_case(0, 4)
    terms, g = native.gradients(lib, p, b)  # type: ignore[arg-type]
    assert set(terms.values()) == {0.0} and not g.table.any()
    assert native.render(lib, p, b, (0.1, 0.5, 0.9))[0].shape == (0, 3)  # type: ignore[arg-type]


def test_non_contiguous_and_misshapen_input_is_refused(lib: object) -> None:
    p, b = make_case(8, 4)
    bad = dataclasses.replace(b, colour=torch.rand(3, 8).T)
    with pytest.raises(ValueError, match="contiguous"):
        native.gradients(lib, p, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        native.gradients(lib, p, dataclasses.replace(b, norm=torch.ones(7)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples"):
        native.gradients(lib, *make_case(2, 129))  # type: ignore[arg-type]


def fresh(**change: object) -> NerfField:
    small = {"log2_table": 10, "finest": 64, "proposal": 16, **change}
    config = dataclasses.replace(FieldConfig(), **small)  # type: ignore[arg-type]
    return NerfField(config, np.zeros(3), 2.0, 1.0, 0.1, 5, 7, "cpu")


@pytest.mark.parametrize("where", ["colour", "edges", "target", "table"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_noticed_and_nothing_is_touched(
    where: str, bad: float
) -> None:
    field = fresh()
    _, b = make_case(32, 8)
    b.colour_weight.fill_(1.0)
    b.target_weight.fill_(1.0)
    if where == "table":
        field.parameters.table[:, :, 0] = bad
    else:
        getattr(b, where)[5] = bad
    before = field.state()
    finite, _ = field.learn(b, Rates(1e-2, 1e-2, 1e-2, 1))
    assert not finite
    after = field.state()
    assert all(np.array_equal(before[k], after[k], equal_nan=True) for k in before)


def test_a_step_of_the_kernel_is_a_step_of_the_twin() -> None:
    _, b = make_case(64, 16, seed=5)
    one, two = fresh(), fresh()
    if one.library is None:
        pytest.skip("no kernel here")
    two.library = None
    for field in (one, two):
        field.parameters.table *= 1e4  # away from the start, where all gradients nearly vanish
    rates = Rates(1e-2, 2e-3, 1e-3, 1, clip=1e-3, anchor=0.1)
    told = [field.learn(b, dataclasses.replace(rates, count=k)) for k in (1, 2)
            for field in (one, two)]  # fmt: skip
    assert all(finite for finite, _ in told)
    for name in (*TOTAL, "norm"):
        assert told[2][1][name] == pytest.approx(told[3][1][name], rel=1e-3)
    for k, v in one.state().items():
        w = two.state()[k]
        if k.startswith("adam") or k in ("table", "weights", "extras"):
            # the sign of a gradient near zero decides a whole step of Adam: compare the bulk
            off = np.abs(v - w) > 1e-3 * np.abs(w).max()
            assert off.mean() < 2e-3, k


def test_ray_gradients_are_those_of_the_twin_and_of_finite_differences() -> None:
    _, b = make_case(40, 12, seed=2)
    one, two = fresh(), fresh()
    if one.library is None:
        pytest.skip("no kernel here")
    two.library = None
    for field in (one, two):
        field.parameters.table *= 1e4
    for found, want in zip(one.ray_gradients(b), two.ray_gradients(b)):
        assert found.shape == (40, 3) and close(found, want.double(), 1e-3)
    P, B = doubled(two.parameters, b)
    slope = one.ray_gradients(b)[0]
    ray = int(slope.abs().amax(1).argmax())
    with torch.no_grad():
        for axis in range(3):
            values = []
            for h in (1e-6, -1e-6):
                B.origin[ray, axis] += h
                values.append(total_loss(P, B).item())
                B.origin[ray, axis] -= h
            want = (values[0] - values[1]) / 2e-6
            assert slope[ray, axis].item() == pytest.approx(want, rel=1e-2, abs=1e-6)


def test_the_number_of_threads_does_not_change_a_bit(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import numpy as np\nfrom field_cases import make_case\nfrom test_nerf import fresh\n"
        "from endorecon.field.twin import Rates\nf = fresh()\n_, b = make_case(500, 32)\n"
        "for k in range(3): f.learn(b, Rates(1e-2, 1e-2, 1e-2, k + 1))\n"
        "np.savez(sys.argv[1], **f.state())\n"
    )
    states = []
    for threads in (1, 3):
        out = tmp_path / f"{threads}.npz"
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        here = Path(__file__).parent.parent
        command = [sys.executable, "-c", code, str(out)]
        subprocess.run(command, env=env, cwd=here, check=True, timeout=300)
        states.append(dict(np.load(out)))
    assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0])


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(InputRefused, match="another shape"):
        fresh().load(fresh(log2_table=9).state())
    state = fresh().state()
    del state["weights"]
    with pytest.raises(InputRefused, match="lacks"):
        fresh().load(state)


def test_density_is_in_world_units_and_nothing_outside_the_box() -> None:
    field = fresh()
    d = field.density(np.array([[1.0, 1.0, 1.0], [2.5, 1.0, 1.0]]))
    assert d[0] == pytest.approx(np.exp(twin.LOG_SIGMA_SHIFT), rel=0.05) and d[1] == 0.0
    double = NerfField(field.config, np.zeros(3), 4.0, 2.0, 0.1, 5, 7, "cpu")
    assert double.density(np.full((1, 3), 2.0))[0] == pytest.approx(d[0] / 2, rel=1e-5)
