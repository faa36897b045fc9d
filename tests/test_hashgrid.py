"""The hash grid: definition against a slow obvious version, kernel against definition."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from field_cases import make_case

from endorecon.field import native, twin
from endorecon.field.hashgrid import encode, level_scales, make_levels


def slow_encode(table: np.ndarray, x: np.ndarray, res: int, dense: bool) -> np.ndarray:
    """One level at one point, corner by corner."""
    rows = len(table)
    p = np.clip(x * res, 0, res)
    cell = np.minimum(np.floor(p), res - 1).astype(int)
    out = np.zeros(2)
    for step in itertools.product((0, 1), repeat=3):
        at = cell + step
        if dense:
            row = at[0] + (res + 1) * (at[1] + (res + 1) * at[2])
        else:
            row = (int(at[0]) ^ (int(at[1]) * 2654435761) ^ (int(at[2]) * 805459861)) % rows
        weight = np.prod(np.where(step, p - cell, 1 - (p - cell)))
        out += weight * table[row]
    return out


def test_encoding_is_what_the_slow_version_says() -> None:
    levels = make_levels(5, 9, 4, 40)
    assert levels.res[0] == 4 and levels.res[-1] == 40
    assert levels.dense == (True, True, False, False, False)
    table = torch.rand(5, 512, 2, dtype=torch.float64)
    x = torch.rand(20, 3, dtype=torch.float64) * 1.4 - 0.2  # some outside the box
    found = encode(table, x, levels, level_scales(5, 5.0))
    for i, k in itertools.product(range(20), range(5)):
        want = slow_encode(table[k].numpy(), x[i].numpy(), levels.res[k], levels.dense[k])
        assert np.allclose(found[i, 2 * k : 2 * k + 2], want)


def test_levels_open_one_after_the_other() -> None:
    assert level_scales(4, 4.0) == (1.0, 1.0, 1.0, 1.0)
    scales = level_scales(4, 1.5)
    assert scales[0] == 1.0 and scales[1] == pytest.approx(0.5) and scales[2:] == (0.0, 0.0)


@pytest.mark.parametrize("n", [0, 1, 7, 64, 129])
def test_the_kernel_encodes_as_the_twin_does(n: int) -> None:
    lib = native.library("cpu")
    if lib is None:
        pytest.skip("no kernel here")
    p, _ = make_case(1, 2)
    x = torch.rand(n, 3) * 1.2 - 0.1
    if n:
        x[0] = torch.tensor([0.0, 1.0, 1.0])  # the last corners of every table
    want = encode(p.table.double(), x.double(), p.levels, p.scales)
    assert torch.allclose(native.encode(lib, p, x).double(), want, rtol=0, atol=1e-5)


def test_the_kernel_gives_the_density_of_the_twin() -> None:
    lib = native.library("cpu")
    if lib is None:
        pytest.skip("no kernel here")
    p, _ = make_case(1, 2)
    x = torch.rand(1001, 3)
    want = twin.density_net(dataclasses.replace(p), x)[0].exp()
    assert torch.allclose(native.density(lib, p, x), want, rtol=2e-5)
