"""Every default of the program, once. Numbers and words only: the package imports nobody else.

A config names a backend by a word; the dictionary word -> module stands with the backends
(`field/__init__.py`, `stereo/__init__.py`). Order: defaults < preset YAML < flags; the resolved
tree is written to run.json. Lengths inside the field are relative to depth, so that the same
numbers serve a scene in millimetres and a scene without unit.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from endorecon.config.reconstruction import (
    CertaintyConfig,
    FieldConfig,
    LoopConfig,
    PosesConfig,
    RefineConfig,
    StereoConfig,
    SurfaceConfig,
    VideoConfig,
)
from endorecon.config.validation import EvaluateConfig, PhantomConfig

__all__ = [
    "CertaintyConfig",
    "Config",
    "EvaluateConfig",
    "FieldConfig",
    "LoopConfig",
    "PhantomConfig",
    "PosesConfig",
    "RefineConfig",
    "StereoConfig",
    "SurfaceConfig",
    "VideoConfig",
    "as_dict",
    "with_differences",
]


@dataclass(frozen=True)
class Config:
    """The whole program."""

    video: VideoConfig = dataclasses.field(default_factory=VideoConfig)
    poses: PosesConfig = dataclasses.field(default_factory=PosesConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    stereo: StereoConfig = dataclasses.field(default_factory=StereoConfig)
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    surface: SurfaceConfig = dataclasses.field(default_factory=SurfaceConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    phantom: PhantomConfig = dataclasses.field(default_factory=PhantomConfig)


def as_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain dictionaries (for run.json and YAML)."""
    return dataclasses.asdict(config)


def with_differences(config: Any, differences: dict[str, Any], where: str = "") -> Any:
    """`config` with nested differences applied; an unknown key names the nearest right one.

    Raises KeyError (unknown key) or TypeError (wrong type), each with the full key in the text.
    """
    import difflib

    known = {f.name: f for f in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for key, value in differences.items():
        name = f"{where}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f", did you mean {where}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise KeyError(f"unknown setting {name}{hint}")
        old = getattr(config, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise TypeError(f"{name} is a section, not a value")
            changes[key] = with_differences(old, value, f"{name}.")
            continue
        allowed = _types(type(config), key)
        if float in allowed and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) not in allowed:
            words = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
            raise TypeError(f"{name} must be {words}, got {value!r}")
        changes[key] = value
    return dataclasses.replace(config, **changes)


def _types(config: type, key: str) -> tuple[type, ...]:
    """The types a value may have: one, or those of a union such as `float | None`."""
    found = typing.get_type_hints(config)[key]
    return typing.get_args(found) or (found,)
