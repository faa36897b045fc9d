"""The nets of the field by tiny-cuda-nn (`tinycudann`): optional, NVIDIA only, not on PyPI.

Encoding and nets run in its fused half-precision kernels; compositing, losses and Adam are those of
the twin, so that a field behaves the same whoever does its arithmetic. Its parameters are flat
float32 vectors of its own layout: a field saved with it goes on with it, and with nothing else.
Without a GPU its import raises OSError (EnvironmentError), not ImportError.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from endorecon.config import FieldConfig

if TYPE_CHECKING:
    from endorecon.field.twin import Parameters

DEVICES = ("cuda",)
INSTALL = (
    "TCNN_CUDA_ARCHITECTURES=90 pip install --no-build-isolation "
    '"git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"'
)


def find() -> ModuleType | str:
    """The module, or why there is none."""
    try:
        import tinycudann
    except (ImportError, OSError) as error:
        return str(error) or type(error).__name__
    found: ModuleType = tinycudann
    return found


class TinyCuda:
    """Density and colour nets of the default shape; `table` and `weights` are their parameters."""

    def __init__(self, module: Any, config: FieldConfig, seed: int, device: str) -> None:
        growth = (config.finest / config.coarsest) ** (1.0 / max(config.levels - 1, 1))
        grid = {
            "otype": "HashGrid",
            "n_levels": config.levels,
            "n_features_per_level": 2,
            "log2_hashmap_size": config.log2_table,
            "base_resolution": config.coarsest,
            "per_level_scale": growth,
        }
        self._grid = module.Encoding(3, grid, seed=seed).to(device)
        self._density = module.Network(2 * config.levels, 16, _net(1), seed=seed + 1).to(device)
        self._colour = module.Network(24, 3, _net(2), seed=seed + 2).to(device)
        first, second, third = (
            part.params.detach().float() for part in (self._grid, self._density, self._colour)
        )
        self.table = first.reshape(-1, 2).clone()
        self.weights = torch.cat([second, third])
        self._cut = len(second)

    def density(self, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw log density (n,) and 15 features (n, 15) at points (n, 3) of the box."""
        scale = torch.tensor(p.scales, device=x.device).repeat_interleave(2)
        feature = _call(self._grid, p.table.reshape(-1), x.clamp(0.0, 1.0), 2 * len(p.scales))
        out = _call(self._density, p.weights[: self._cut], feature * scale, 16)
        return out[:, 0], out[:, 1:]

    def colour(self, p: Parameters, inputs: Tensor) -> Tensor:
        """Raw log radiance (n, 3) from features and view harmonics (n, 24)."""
        return _call(self._colour, p.weights[self._cut :], inputs, 3)


def _net(hidden: int) -> dict[str, Any]:
    return {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": 32,
        "n_hidden_layers": hidden,
    }


def _call(part: torch.nn.Module, params: Tensor, x: Tensor, columns: int) -> Tensor:
    """A module with these parameters, in float32; it pads batches, but takes no empty one."""
    if len(x) == 0:
        return x.new_zeros((0, columns))
    out: Tensor = torch.func.functional_call(part, {"params": params}, (x,)).float()
    assert out.shape == (len(x), columns)
    return out
