"""Radiance fields: what the loop learns, renders and asks for depth.

A field is whatever keeps the `Field` protocol; FIELDS maps the word of `FieldConfig.kind` to the
module and function that open one. Torch is imported only when a field is opened.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from endorecon.config import FieldConfig
from endorecon.errors import UsageError
from endorecon.scene import Views

FIELDS = {"nerf": "endorecon.field.nerf:open_nerf"}


class Field(Protocol):
    """Density and colour in space, with everything needed to keep it and to go on training."""

    step: int  # optimisation steps so far
    seed: int  # of all that is drawn
    device: str

    @property
    def kernels(self) -> str:
        """One sentence on what does the arithmetic."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training goes on from; `load` of it gives the same bits."""

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state of a field of the same shape."""

    def density(self, points: Any) -> np.ndarray:
        """Density (n,) per world unit at world points (n, 3)."""


def open_field(config: FieldConfig, views: Views, seed: int, device: str) -> Any:
    """A fresh field of the configured kind for these views; `device` is "cpu" or "cuda".

    Raises UsageError for an unknown kind and NotEnoughInformation without sparse points.
    """
    if config.kind not in FIELDS:
        raise UsageError(f"there is no field {config.kind!r}", f"choose {' or '.join(FIELDS)}")
    module, name = FIELDS[config.kind].split(":")
    return getattr(importlib.import_module(module), name)(config, views, seed, device)
