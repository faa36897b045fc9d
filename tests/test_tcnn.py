"""The tiny-cuda-nn backend, against a double of its Python interface where it cannot import."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from field_cases import make_case

from endorecon import kernels
from endorecon.config import FieldConfig
from endorecon.doctor import findings
from endorecon.errors import EnvironmentFault, InputRefused, UsageError
from endorecon.field import tcnn, twin
from endorecon.field.hashgrid import encode, make_levels
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Rates

SMALL = {"log2_table": 10, "finest": 64, "proposal": 16, "levels": 6, "samples": 8}


class Part(torch.nn.Module):
    """What every module of tinycudann has: flat float32 `params`, half-precision answers."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        draw = torch.rand(count, generator=torch.Generator().manual_seed(seed))
        self.params = torch.nn.Parameter((draw - 0.5) * 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32 and len(x) > 0 and self.params.dtype == torch.float32
        return self.answer(x).half()

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Encoding(Part):
    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337
    ) -> None:
        c = encoding_config
        assert n_input_dims == 3 and c["otype"] == "HashGrid" and c["n_features_per_level"] == 2
        count, base = c["n_levels"], c["base_resolution"]
        finest = round(base * c["per_level_scale"] ** (count - 1))
        self.levels = make_levels(count, c["log2_hashmap_size"], base, finest)
        super().__init__(count * self.levels.rows * 2, seed)
        self.n_output_dims = 2 * count

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        table = self.params.view(self.levels.count, self.levels.rows, 2)
        return encode(table, x, self.levels, (1.0,) * self.levels.count)


class Network(Part):
    def __init__(
        self, n_input_dims: int, n_output_dims: int, network_config: dict[str, Any],
        seed: int = 1337,
    ) -> None:  # fmt: skip
        c = network_config
        assert c["otype"] == "FullyFusedMLP" and c["n_neurons"] in (16, 32, 64, 128)
        assert c["activation"] == "ReLU" and c["output_activation"] == "None"
        widths = [n_input_dims, *[c["n_neurons"]] * c["n_hidden_layers"], n_output_dims]
        self.shapes = list(zip(widths[1:], widths[:-1]))
        super().__init__(sum(a * b for a, b in self.shapes), seed)
        self.n_output_dims = n_output_dims

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        at = 0
        for k, (rows, columns) in enumerate(self.shapes):
            x = x @ self.params[at : at + rows * columns].view(rows, columns).T
            at += rows * columns
            x = torch.relu(x) if k + 1 < len(self.shapes) else x
        return x


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `tinycudann` that imports and runs on the CPU."""
    module = ModuleType("tinycudann")
    vars(module).update(Encoding=Encoding, Network=Network)
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.setattr(tcnn, "DEVICES", ("cuda", "cpu"))


def make(backend: str, **change: Any) -> NerfField:
    config = dataclasses.replace(FieldConfig(), backend=backend, **(SMALL | change))
    return NerfField(config, np.zeros(3), 2.0, 1.0, 0.1, 5, 7, "cpu")


def test_it_learns_renders_and_resumes_behind_the_same_interface(double: None) -> None:
    field = make("tinycudann")
    assert field.library is None and "tiny-cuda-nn" in field.kernels
    _, b = make_case(64, 8)
    told = []
    for k in range(30):
        finite, terms = field.learn(b, Rates(1e-2, 5e-3, 1e-3, k + 1))
        assert finite
        told.append(terms["colour"])
    assert told[-1] < 0.8 * told[0]
    other = make("tinycudann")
    other.load(field.state())
    ours, theirs = (f.look(b, (0.16, 0.5, 0.84)) for f in (field, other))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs))
    field.distil(keep=0.5)
    assert field.grid.isfinite().all() and field.density(np.full((3, 3), 1.0)).shape == (3,)
    assert all(g.isfinite().all() for g in field.ray_gradients(b))


def test_its_gradients_are_those_of_finite_differences(double: None) -> None:
    field = make("tinycudann")
    p = field.parameters
    x = torch.rand(50, 3)
    leaf = p.weights.clone().requires_grad_(True)
    p.weights = leaf
    sigma, features = twin.density_net(p, x)
    slope = torch.autograd.grad(sigma.sum() + features.sum(), leaf)[0]
    with torch.no_grad():
        last = slice(32 * 12, 32 * 12 + 16 * 32)  # the last matrix of the density net: no kinks
        k, h = last.start + int(slope[last].abs().argmax()), 0.05
        sums = []
        for step in (h, -h):
            p.weights = leaf.detach().clone()
            p.weights[k] += step
            sums.append(sum(float(part.sum()) for part in twin.density_net(p, x)))
    assert float(slope[k]) == pytest.approx((sums[0] - sums[1]) / (2 * h), rel=0.05)  # it is half


def test_closed_levels_neither_speak_nor_learn(double: None) -> None:
    field = make("tinycudann")
    field.open_levels(2.0)
    p = field.parameters
    p.table.requires_grad_(True)
    sigma, _ = twin.density_net(p, torch.rand(40, 3))
    g = torch.autograd.grad(sigma.sum(), p.table)[0].view(6, -1)
    assert g[:2].any() and not g[2:].any()


def test_an_empty_batch_is_no_work(double: None) -> None:
    field = make("tinycudann")
    _, b = make_case(0, 8)
    assert field.look(b, (0.1, 0.5, 0.9))[0].shape == (0, 3)


def test_a_field_of_another_backend_is_not_taken_over_in_silence(double: None) -> None:
    with pytest.raises(InputRefused, match="another shape"):
        make("torch").load(make("tinycudann").state())


def test_asked_for_by_name_it_serves_or_fails_with_the_way_to_install_it() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        EnvironmentFault, match=r"tinycudann is asked for.*pip install.*tiny-cuda-nn"
    ):
        make("tinycudann")


def test_without_kernels_a_machine_that_has_it_uses_it_and_says_why(
    double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDORECON_KERNELS", "off")
    field = make("auto")
    assert field.parameters.nets is not None and "switched off" in field.kernels
    with pytest.raises(EnvironmentFault, match="switched off"):
        make("kernels")
    with pytest.raises(UsageError, match="no backend 'fast'"):
        make("fast")


def test_our_kernels_come_first_and_torch_comes_when_asked(double: None) -> None:
    if kernels.load("field") is None:
        pytest.skip(kernels.why("field"))
    assert make("auto").library is not None and make("kernels").library is not None
    plain = make("torch")
    assert plain.library is None and plain.parameters.nets is None and "torch" in plain.kernels


def test_an_import_that_raises_oserror_is_a_missing_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "tinycudann":
                raise OSError("Unknown compute capability")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert tcnn.find() == "Unknown compute capability"
    said = [sentence for good, sentence in findings() if "tinycudann" in sentence]
    assert said and "pip install" in said[0] and "tiny-cuda-nn" in said[0]
