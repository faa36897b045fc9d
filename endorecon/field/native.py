"""The kernels of the field through ctypes: the structs of cuda/hashmlp.h and one call an operation.

Every function has its twin in `twin.py`; units and shapes are those given there. Tensors must be
contiguous float32 (frame: int32) on the machine of the library; anything else raises ValueError.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from endorecon import kernels
from endorecon.field.hashgrid import Levels
from endorecon.field.twin import TERMS, WEIGHTS, Parameters, Rates, RayBatch

MAX_LEVELS = 16
MAX_SAMPLES = 128


class _Levels(Structure):
    _fields_ = (
        ("count", c_int32),
        ("log2_table", c_int32),
        ("res", c_int32 * MAX_LEVELS),
        ("dense", c_int32 * MAX_LEVELS),
        ("scale", c_float * MAX_LEVELS),
    )


class _Model(Structure):
    _fields_ = (
        ("levels", _Levels),
        ("table", c_void_p),
        ("weights", c_void_p),
        ("extras", c_void_p),
        ("views", c_int32),
        ("near_light", c_int32),
        ("response", c_float),
        ("inverse_ceiling", c_float * 3),
    )


class _Batch(Structure):
    _fields_ = (
        ("rays", c_int32),
        ("samples", c_int32),
        *((name, c_void_p) for name in ("origin", "direction", "view", "norm", "falloff", "frame")),
        *((name, c_void_p) for name in ("edges", "colour", "colour_weight")),
        *((name, c_void_p) for name in ("target", "target_scale", "target_weight")),
        ("charbonnier", c_float),
        ("spread_weight", c_float),
        ("white", c_float),
    )


class _Adam(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("table_m", "table_v", "weights_m", "weights_v")),
        *((name, c_void_p) for name in ("extras_m", "extras_v")),
        *((name, c_float) for name in ("rate_table", "rate_weights", "rate_extras")),
        *((name, c_float) for name in ("beta1", "beta2", "eps", "correct1", "correct2")),
        ("clip", c_float),
        ("anchor", c_float),
    )


class _Sampler(Structure):
    _fields_ = (
        ("grid", c_void_p),
        ("grid_res", c_int32),
        ("bins", c_int32),
        ("near_z", c_float),
        ("uniform_share", c_float),
        ("band_share", c_float),
    )


@dataclass
class Moments:
    """Adam's running means of the gradient and its square, shaped like the parameters."""

    table_m: Tensor
    table_v: Tensor
    weights_m: Tensor
    weights_v: Tensor
    extras_m: Tensor
    extras_v: Tensor


@dataclass
class Gradients:
    """Gradients of one batch; position (3, R, S) only where it was asked for."""

    table: Tensor
    weights: Tensor
    extras: Tensor
    position: Tensor | None = None


def library(device: str) -> ctypes.CDLL | None:
    """The library for a device, its structs checked against these; None: see kernels.why."""
    machine: Any = "cuda" if device.startswith("cuda") else "cpu"
    lib = kernels.load("field", machine)
    if lib is None:
        return None
    if not getattr(lib, "checked", False):
        sizes = (c_int32 * 6)()
        lib.field_sizes(sizes)
        mine = [ctypes.sizeof(s) for s in (_Levels, _Model, _Batch, _Adam, _Sampler)]
        assert list(sizes) == [*mine, WEIGHTS], "cuda/hashmlp.h and native.py disagree"
        lib.field_step.restype = lib.field_render.restype = c_int32
        lib.checked = True  # type: ignore[attr-defined]
    return lib


def fits(levels: Levels, samples: int) -> bool:
    """Whether the fused kernels serve this shape (2 features a level, at most 12 levels)."""
    return 2 * levels.count <= 24 and samples <= MAX_SAMPLES


def _f(t: Tensor | None, shape: tuple[int, ...] | None = None) -> c_void_p:
    return kernels.address(t, "float32", shape)


def _model(p: Parameters) -> _Model:
    lv = _Levels(p.levels.count, p.levels.log2_table)
    lv.res[: p.levels.count] = p.levels.res
    lv.dense[: p.levels.count] = [int(d) for d in p.levels.dense]
    lv.scale[: p.levels.count] = p.scales
    views = len(p.extras) - 1
    return _Model(
        lv,
        _f(p.table, (p.levels.count, p.levels.rows, 2)),
        _f(p.weights, (WEIGHTS,)),
        _f(p.extras, (views + 1,)),
        views,
        int(p.near_light),
        p.response,
        (c_float * 3)(*p.inverse_ceiling),
    )


def _batch(b: RayBatch) -> _Batch:
    R, S = b.edges.shape[0], b.edges.shape[1] - 1
    if not 1 <= S <= MAX_SAMPLES:
        raise ValueError(f"the kernels take 1 to {MAX_SAMPLES} samples a ray, got {S}")
    return _Batch(
        R,
        S,
        _f(b.origin, (R, 3)),
        _f(b.direction, (R, 3)),
        _f(b.view, (R, 3)),
        _f(b.norm, (R,)),
        _f(b.falloff, (R, 3)),
        kernels.address(b.frame, "int32", (R,)),
        _f(b.edges),
        _f(b.colour, (R, 3)),
        _f(b.colour_weight, (R,)),
        _f(b.target, (R,)),
        _f(b.target_scale, (R,)),
        _f(b.target_weight, (R,)),
        b.charbonnier,
        b.spread_weight,
        b.white,
    )


def _stream(t: Tensor) -> tuple[c_void_p, ...]:
    """The extra argument of the CUDA entry points."""
    if t.device.type != "cuda":
        return ()
    return (c_void_p(torch.cuda.current_stream(t.device).cuda_stream),)


def sample(
    lib: ctypes.CDLL,
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
    """`twin.sample_edges` by the kernel."""
    if not 1 <= samples <= MAX_SAMPLES or bins > 1024:
        raise ValueError(f"the kernels take 1 to {MAX_SAMPLES} samples and at most 1024 bins")
    R = len(origin)
    edges = torch.zeros((R, samples + 1), device=origin.device)
    s = _Sampler(_f(grid), grid.shape[0], bins, near_z, uniform_share, band_share)
    lib.field_sample(
        ctypes.byref(s),
        c_int32(R),
        c_int32(samples),
        _f(origin, (R, 3)),
        _f(direction, (R, 3)),
        _f(norm, (R,)),
        _f(band, (R, 2)),
        _f(jitter, (R,)),
        _f(edges),
        *_stream(origin),
    )
    return edges


def step(
    lib: ctypes.CDLL, p: Parameters, b: RayBatch, moments: Moments, r: Rates
) -> tuple[bool, dict[str, float]]:
    """One training step in place; (False, terms) and nothing touched if a number is not finite."""
    adam = _Adam(
        *(_f(t) for t in (moments.table_m, moments.table_v, moments.weights_m, moments.weights_v)),
        *(_f(t) for t in (moments.extras_m, moments.extras_v)),
        r.table,
        r.weights,
        r.extras,
        r.beta1,
        r.beta2,
        r.eps,
        1.0 / (1.0 - r.beta1**r.count),
        1.0 / (1.0 - r.beta2**r.count),
        r.clip,
        r.anchor,
    )
    terms = np.zeros(len(TERMS))
    code = _run_step(lib, p, b, ctypes.byref(adam), terms, (None, None, None), None)
    return code == 0, dict(zip(TERMS, terms.tolist()))


def gradients(
    lib: ctypes.CDLL, p: Parameters, b: RayBatch, with_position: bool = False
) -> tuple[dict[str, float], Gradients]:
    """Losses and gradients of one batch, nothing changed."""
    R, S = b.edges.shape[0], b.edges.shape[1] - 1
    g = Gradients(*(torch.zeros_like(t) for t in (p.table, p.weights, p.extras)))
    if with_position:
        g.position = torch.zeros((3, R, S), device=p.table.device)
    terms = np.zeros(len(TERMS))
    _run_step(lib, p, b, None, terms, (g.table, g.weights, g.extras), g.position)
    return dict(zip(TERMS, terms.tolist())), g


def _run_step(
    lib: ctypes.CDLL,
    p: Parameters,
    b: RayBatch,
    adam: Any,
    terms: np.ndarray,
    grads: tuple[Tensor | None, ...],
    position: Tensor | None,
) -> int:
    model, batch = _model(p), _batch(b)
    return int(
        lib.field_step(
            ctypes.byref(model),
            ctypes.byref(batch),
            adam,
            terms.ctypes.data_as(POINTER(ctypes.c_double)),
            *(_f(g) for g in grads),
            _f(position),
            *_stream(p.table),
        )
    )


def render(
    lib: ctypes.CDLL, p: Parameters, b: RayBatch, quantiles: tuple[float, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Display colour (R, 3), z at three quantiles (R, 3), opacity (R,) of a batch."""
    R = len(b.origin)
    device = p.table.device
    colour, depth = torch.zeros((R, 3), device=device), torch.zeros((R, 3), device=device)
    opacity = torch.zeros(R, device=device)
    q = (c_float * 3)(*quantiles)
    model, batch = _model(p), _batch(b)
    lib.field_render(
        ctypes.byref(model),
        ctypes.byref(batch),
        q,
        _f(colour),
        _f(depth),
        _f(opacity),
        *_stream(p.table),
    )
    return colour, depth, opacity


def density(lib: ctypes.CDLL, p: Parameters, points: Tensor) -> Tensor:
    """Density (n,) per reference depth at points (n, 3) of the box."""
    out = torch.zeros(len(points), device=points.device)
    n = c_int64(len(points))
    model = _model(p)
    lib.field_density(
        ctypes.byref(model), n, _f(points, (len(points), 3)), _f(out), *_stream(points)
    )
    return out


def encode(lib: ctypes.CDLL, p: Parameters, points: Tensor) -> Tensor:
    """Features (n, 2 * levels) at points (n, 3) of the box."""
    out = torch.zeros((len(points), 2 * p.levels.count), device=points.device)
    n = c_int64(len(points))
    model = _model(p)
    lib.field_encode(
        ctypes.byref(model), n, _f(points, (len(points), 3)), _f(out), *_stream(points)
    )
    return out
