"""Speed of the training and rendering core: kernels, torch twin, torch.compile, nerfstudio's grid.

    python benchmarks/core.py [--pairs 5] [--rays 4096] [--samples 32] [--no-compile] [--json FILE]

Same work for all: 12 levels x 2 features, tables of 2^17 rows, 32-wide nets, forward + backward +
Adam (training) or forward to colour, depth and opacity (rendering). The contestants run interleaved
in pairs with the kernels and the medians of the ratios are reported, because a shared machine can
be three times slower from one minute to the next. nerfstudio's HashEncoding joins when it imports.
The roofline beside it is measured in the same run: FMA peak and random 8-byte reads of one core.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from endorecon.config import FieldConfig
from endorecon.field import native, twin
from endorecon.field.hashgrid import encode
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Rates, RayBatch

MACS = 24 * 32 + 32 * 16 + 24 * 32 + 32 * 32 + 32 * 4  # both nets, one sample, forward
FLOPS_TRAIN = 2 * MACS * 3  # forward, gradient of the input, gradient of the weights
FLOPS_RENDER = 2 * MACS
READS = 12 * 8  # random 8-byte reads a sample forward; as many read-modify-writes backward

PROBE = r"""
#include <chrono>
#include <cstdint>
#include <vector>
typedef float v16 __attribute__((vector_size(64)));
static double now() { using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count(); }
extern "C" double peak_gflops() {
  v16 a[12]; for (auto &x : a) x = v16{} + 1.0f;
  const v16 m = v16{} + 0.999999f, c = v16{} + 1e-7f;
  double best = 0; for (int t = 0; t < 20; ++t) { double s = now();
    for (int i = 0; i < 400000; ++i) for (auto &x : a) x = x * m + c;
    double d = 400000.0 * 12 * 32 / (now() - s) * 1e-9; if (d > best) best = d; }
  volatile float sink = 0; for (auto &x : a) sink = sink + x[0]; return best; }
extern "C" double reads_per_us(int64_t bytes) {
  const int64_t n = bytes / 8; std::vector<double> v(n, 1.0); double sum = 0, best = 0;
  for (int t = 0; t < 10; ++t) { uint64_t r = 88172645463325252ull; double s = now();
    for (int i = 0; i < 2000000; ++i) { r = r * 6364136223846793005ull + 1442695040888963407ull;
      sum += v[(r >> 33) % n]; }
    double d = 2.0 / (now() - s); if (d > best) best = d; }
  volatile double sink = sum; (void)sink; return best; }
"""


def make_work(rays: int, samples: int) -> tuple[NerfField, RayBatch]:
    """A field of the default shape with a surface in it, and one batch of rays round it."""
    config = dataclasses.replace(FieldConfig(), samples=samples)
    field = NerfField(config, np.zeros(3), 2.5, 1.0, 0.1, 40, 0, "cpu")
    field.parameters.table.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    view = torch.randn(rays, 3, generator=g)
    view = view / view.norm(dim=1, keepdim=True)
    surface = 0.5 + torch.rand(rays, 1, generator=g)
    spread = torch.linspace(-0.1, 0.1, samples - 1)
    edges = torch.cat([torch.full_like(surface, 0.1), surface + spread, surface * 0 + 2.5], 1)
    ones = torch.ones(rays)
    batch = RayBatch(
        torch.rand(rays, 3, generator=g) * 0.2 + 0.4, (view * 0.4).contiguous(), view, ones,
        torch.randint(0, 40, (rays,), generator=g, dtype=torch.int32), edges.contiguous(),
        torch.rand(rays, 3, generator=g), ones, surface[:, 0].contiguous(), ones * 0.01,
        (torch.rand(rays, generator=g) < 0.25).float() * 0.1, None, 0.05, 0.003,
    )  # fmt: skip
    return field, batch


def train_by_twin(field: NerfField, batch: RayBatch, loss: Callable[..., Any]) -> None:
    """One step of the torch twin; `loss` may be compiled."""
    p, m = field.parameters, field.moments
    leaves = (p.table, p.weights, p.extras)
    for t in leaves:
        t.requires_grad_(True)
    grads = torch.autograd.grad(loss(p, batch), leaves)
    for t in leaves:
        t.requires_grad_(False)
    r = Rates(1e-3, 2e-4, 1e-4, 100)
    twin.adam(p.table, grads[0], m.table_m, m.table_v, r.table, r, True)
    twin.adam(p.weights, grads[1], m.weights_m, m.weights_v, r.weights, r, False)
    twin.adam(p.extras, grads[2], m.extras_m, m.extras_v, r.extras, r, False)


def total(p: twin.Parameters, b: RayBatch) -> torch.Tensor:
    """The loss of the twin."""
    terms = twin.losses(b, twin.composite(p, b))
    return terms["colour"] + terms["depth"] + terms["spread"]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def nerfstudio_encoding() -> Any:
    """nerfstudio's torch HashEncoding of the same shape, or the sentence why not."""
    try:
        from nerfstudio.field_components.encodings import HashEncoding
    except Exception as error:  # it fails in many ways where torchvision or a driver is missing
        return f"skipped: nerfstudio does not import here ({type(error).__name__}: {error})"
    return HashEncoding(
        num_levels=12, min_res=16, max_res=512, log2_hashmap_size=17, features_per_level=2,
        implementation="torch",
    )  # fmt: skip


def roofline() -> dict[str, float]:
    """FMA peak (GFLOP/s) and random reads in a 1 MB table (a microsecond) of one core."""
    with tempfile.TemporaryDirectory() as folder:
        source, lib = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text(PROBE)
        command = ["g++", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(lib)]
        subprocess.run(command, check=True)
        probe = ctypes.CDLL(str(lib))
        probe.peak_gflops.restype = probe.reads_per_us.restype = ctypes.c_double
        return {
            "peak_gflops_core": probe.peak_gflops(),
            "reads_per_us_core": probe.reads_per_us(ctypes.c_int64(1 << 20)),
        }


def interleave(
    ours: Callable[[], Any], others: dict[str, Callable[[], Any]], pairs: int
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Median seconds of ours; per rival: median seconds and median ratio of its pairs with ours."""
    ours()
    mine: list[float] = []
    seconds: dict[str, list[float]] = {k: [] for k in others}
    ratios: dict[str, list[float]] = {k: [] for k in others}
    for _ in range(pairs):
        for name, work in others.items():
            a, b = timed(ours), timed(work)
            mine.append(a)
            seconds[name].append(b)
            ratios[name].append(b / a)
    return statistics.median(mine), {
        k: (statistics.median(seconds[k]), statistics.median(ratios[k])) for k in others
    }


def main() -> None:
    """Run it and print the tables; the last lines are the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rays", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    field, batch = make_work(args.rays, args.samples)
    n = args.rays * args.samples
    print(field.kernels)
    print(f"{args.rays} rays x {args.samples} samples, {torch.get_num_threads()} torch threads, ")
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if field.library is None:
        raise SystemExit("no kernels: nothing to compare")
    lib, p = field.library, field.parameters
    rates = Rates(1e-3, 2e-4, 1e-4, 100)

    def our_step() -> None:
        native.step(lib, p, batch, field.moments, rates)

    def our_render() -> None:
        native.render(lib, p, batch, (0.16, 0.5, 0.84))

    @torch.no_grad()
    def twin_render(look: Callable[..., Any] = twin.composite) -> None:
        c = look(p, batch)
        twin.quantile_depths(batch.edges, c.tau, (0.16, 0.5, 0.84))

    training: dict[str, Callable[[], Any]] = {
        "torch eager": lambda: train_by_twin(field, batch, total)
    }
    rendering: dict[str, Callable[[], Any]] = {"torch eager": twin_render}
    if not args.no_compile:
        fast = torch.compile(total)
        first = timed(lambda: train_by_twin(field, batch, fast))
        print(f"torch.compile: first training step took {first:.1f} s")
        training["torch.compile"] = lambda: train_by_twin(field, batch, fast)
        fast_look = torch.compile(twin.composite)
        with torch.no_grad():
            print(f"torch.compile: first rendering {timed(lambda: twin_render(fast_look)):.1f} s")
        rendering["torch.compile"] = lambda: twin_render(fast_look)
    rival = nerfstudio_encoding()
    x = torch.rand(n, 3)
    if isinstance(rival, str):
        print(f"nerfstudio HashEncoding: {rival}")
    else:

        def ns() -> None:
            rival(x).sum().backward()

        def own_twin() -> None:
            p.table.requires_grad_(True)
            encode(p.table, x, p.levels, p.scales).sum().backward()
            p.table.requires_grad_(False)
            p.table.grad = None

        ours, told = interleave(own_twin, {"nerfstudio": ns}, args.pairs)
        print(f"encoding alone, forward + backward: our twin {ours * 1e3:.0f} ms, "
              f"nerfstudio {told['nerfstudio'][0] * 1e3:.0f} ms")  # fmt: skip

    results: dict[str, Any] = {"rays": args.rays, "samples": args.samples, "pairs": args.pairs}
    verdict = []
    for kind, work, rivals in (
        ("train", our_step, training), ("render", our_render, rendering),
    ):  # fmt: skip
        ours, told = interleave(work, rivals, args.pairs)
        print(f"\n{kind}: kernels {ours * 1e3:.1f} ms, {n / ours * 1e-6:.2f} M samples/s, "
              f"{args.rays / ours * 1e-3:.1f} k rays/s")  # fmt: skip
        for name, (seconds, ratio) in told.items():
            print(f"  {name:14s} {seconds * 1e3:8.0f} ms, {n / seconds * 1e-6:.3f} M samples/s, "
                  f"{args.rays / seconds * 1e-3:.2f} k rays/s, {ratio:.1f} x slower")  # fmt: skip
        results[kind] = {"kernels_s": ours, "rivals": told}
        verdict.append(f"{kind}: " + ", ".join(f"{r:.1f} x {k}" for k, (_, r) in told.items()))
    roof = roofline()
    cores = os.cpu_count() or 1
    step, look = results["train"]["kernels_s"], results["render"]["kernels_s"]
    flop_share = FLOPS_TRAIN * n / step * 1e-9 / (roof["peak_gflops_core"] * cores)
    read_share = 2 * READS * n / step * 1e-6 / (roof["reads_per_us_core"] * cores)
    peak, reads = roof["peak_gflops_core"], roof["reads_per_us_core"]
    print(
        f"\nroofline, one of {cores} cores: {peak:.0f} GFLOP/s, {reads:.0f} random reads/us in 1 MB"
    )
    print(f"  training: {FLOPS_TRAIN / 1e3:.1f} kFLOP, {READS} reads and {READS} updates a sample;")
    print(f"    {flop_share:.0%} of the FMA peak, {read_share:.0%} of the read rate")
    flop_look = FLOPS_RENDER * n / look * 1e-9 / (peak * cores)
    read_look = READS * n / look * 1e-6 / (reads * cores)
    print(f"  rendering: {FLOPS_RENDER / 1e3:.1f} kFLOP, {READS} reads a sample;")
    print(f"    {flop_look:.0%} of the FMA peak, {read_look:.0%} of the read rate")
    print(f"load after: {os.getloadavg()[0]:.1f}\n")
    print("\n".join(verdict))
    if args.json:
        args.json.write_text(json.dumps(results | roof, indent=1))


if __name__ == "__main__":
    main()
