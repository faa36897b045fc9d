"""Speed of the training and rendering core: kernels, torch twin, torch.compile, nerfstudio.

    python benchmarks/core.py [--pairs 7] [--rays 4096] [--samples 32] [--no-compile]
                              [--nerfstudio FOLDER] [--device cpu|cuda] [--json FILE]

Same work for all: 12 levels x 2 features, tables of 2^17 rows, 32-wide nets; a training step is
forward, backward and Adam, a rendering goes to colour, three depth quantiles and opacity. Each rival
runs in pairs with the kernels, interleaved, and the median of the ratios counts: a shared machine
can be three times slower from one minute to the next. The kernels run several times in a pair, so
that both sides of it meet the same load. The ratio of CPU seconds is told beside that of wall time:
it hardly moves with the load, but does not see how well a rival uses both cores.

nerfstudio is its torch HashEncoding + MLP (+ spherical harmonics) in place of ours, with our
compositing, losses and Adam. It needs no whole environment:

    pip install --no-deps --target FOLDER nerfstudio==1.1.5 jaxtyping wadler-lindig
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import roofline
import torch

from endorecon.config import FieldConfig
from endorecon.errors import EnvironmentFault
from endorecon.field import native, twin
from endorecon.field.hashgrid import encode
from endorecon.field.nerf import NerfField
from endorecon.field.twin import Rates, RayBatch

QUANTILES = (0.16, 0.5, 0.84)
RATES = Rates(1e-3, 2e-4, 1e-4, 100)
Work = Callable[[], Any]


def make_work(
    rays: int, samples: int, device: str = "cpu", backend: str = "auto"
) -> tuple[NerfField, RayBatch]:
    """A field of the default shape with a surface in it, and one batch of rays round it."""
    config = dataclasses.replace(FieldConfig(), samples=samples, backend=backend)
    field = NerfField(config, np.zeros(3), 2.5, 1.0, 0.1, 40, 0, device)
    values = torch.rand(field.parameters.table.shape, generator=torch.Generator().manual_seed(0))
    field.parameters.table.copy_(values - 0.5)
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
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(batch, name, value.to(device))
    return field, batch


def total(p: twin.Parameters, b: RayBatch) -> torch.Tensor:
    """The loss of the twin."""
    terms = twin.losses(b, twin.composite(p, b))
    return terms["colour"] + terms["depth"] + terms["spread"]


def train_by_twin(field: NerfField, batch: RayBatch, loss: Callable[..., Any]) -> None:
    """One step of the torch twin; `loss` may be compiled."""
    p, m = field.parameters, field.moments
    leaves = (p.table, p.weights, p.extras)
    for t in leaves:
        t.requires_grad_(True)
    grads = torch.autograd.grad(loss(p, batch), leaves)
    for t in leaves:
        t.requires_grad_(False)
    twin.adam(p.table, grads[0], m.table_m, m.table_v, RATES.table, RATES, True)
    twin.adam(p.weights, grads[1], m.weights_m, m.weights_v, RATES.weights, RATES, False)
    twin.adam(p.extras, grads[2], m.extras_m, m.extras_v, RATES.extras, RATES, False)


class Nerfstudio:
    """nerfstudio's torch encoding and nets of the same shape, in the places of ours."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            sys.path.append(str(folder))
            for name in ("viser", "viser.transforms"):  # imported for a type, never called here
                sys.modules.setdefault(name, types.ModuleType(name))
            vars(sys.modules["viser"])["transforms"] = sys.modules["viser.transforms"]
        from nerfstudio.field_components.encodings import HashEncoding, SHEncoding
        from nerfstudio.field_components.mlp import MLP

        torchy = {"implementation": "torch"}
        self.grid = HashEncoding(
            num_levels=12, min_res=16, max_res=512, log2_hashmap_size=17, features_per_level=2,
            **torchy,
        )  # fmt: skip
        self.sphere = SHEncoding(levels=3, **torchy)
        self.density = MLP(24, 2, 32, out_dim=16, **torchy)
        self.colour = MLP(24, 3, 32, out_dim=3, **torchy)
        self.parameters = [
            q for part in (self.grid, self.density, self.colour) for q in part.parameters()
        ]
        self.adam = torch.optim.Adam(self.parameters, lr=1e-3, eps=1e-15)

    def to(self, device: str) -> None:
        for part in (self.grid, self.sphere, self.density, self.colour):
            part.to(device)

    def density_net(self, p: twin.Parameters, x: torch.Tensor) -> tuple[Any, Any]:
        out = self.density(self.grid(x))
        shift, most = twin.LOG_SIGMA_SHIFT, twin.LOG_SIGMA_MAX
        return (out[:, 0] + shift).clamp(max=most), out[:, 1:]

    def colour_net(self, p: twin.Parameters, features: Any, view: torch.Tensor) -> torch.Tensor:
        raw = self.colour(torch.cat([features, self.sphere(view)], 1))
        return raw.clamp(twin.LOG_RGB_MIN, twin.LOG_RGB_MAX).exp()

    def instead(self, work: Callable[[], Any]) -> Any:
        """Run `work` with these nets in the twin."""
        mine = twin.density_net, twin.colour_net
        twin.density_net, twin.colour_net = self.density_net, self.colour_net
        try:
            return work()
        finally:
            twin.density_net, twin.colour_net = mine

    def train(self, p: twin.Parameters, batch: RayBatch) -> None:
        self.adam.zero_grad(set_to_none=True)
        self.instead(lambda: total(p, batch)).backward()
        self.adam.step()


def timed(work: Work, at_least: float = 0.0) -> tuple[float, float]:
    """Wall and CPU seconds of one run, averaged over as many as take `at_least` seconds."""
    start, busy, runs = time.perf_counter(), time.process_time(), 0
    while True:
        work()
        runs += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
        if spent >= at_least:
            return spent / runs, (time.process_time() - busy) / runs


@dataclasses.dataclass
class Told:
    """Seconds and ratios to the kernels of one rival, pair by pair."""

    seconds: list[float]
    ratios: list[float]
    cpu: list[float]  # ratios of CPU seconds

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def interleave(
    ours: Work, rivals: dict[str, Work], pairs: int
) -> tuple[list[float], dict[str, Told]]:
    """Seconds of ours in each pair, and what each rival took."""
    ours()
    mine: list[float] = []
    told = {k: Told([], [], []) for k in rivals}
    for work in rivals.values():
        work()
    for _ in range(pairs):
        for name, work in rivals.items():
            a = timed(ours, 0.3)
            b = timed(work)
            mine.append(a[0])
            told[name].seconds.append(b[0])
            told[name].ratios.append(b[0] / a[0])
            told[name].cpu.append(b[1] / a[1])
    return mine, told


def machine_name() -> str:
    """Processor, cores and what the kernels can use of it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    words = [w for w in ("avx2", "avx512f") if re.search(rf"^flags.*\b{w}\b", text, re.M)]
    return f"{name[1] if name else platform.machine()}, {os.cpu_count()} cores, {' '.join(words)}"


def load() -> str:
    """Jobs that want the processor."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Run it and print the tables; the last lines are the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rays", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--nerfstudio", type=Path, help="folder that holds the package")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    field, batch = make_work(args.rays, args.samples, args.device)
    n = args.rays * args.samples
    where = torch.cuda.get_device_name() if args.device == "cuda" else machine_name()
    print(f"{where}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{args.rays} rays x {args.samples} samples, {args.pairs} pairs; {field.kernels}")
    print(f"load before: {load()}")
    if field.library is None:
        raise SystemExit("no kernels: nothing to compare")
    lib, p = field.library, field.parameters

    @torch.no_grad()
    def twin_render(look: Callable[..., Any] = twin.composite) -> None:
        c = look(p, batch)
        twin.quantile_depths(batch.edges, c.tau, QUANTILES)

    training: dict[str, Work] = {"torch eager": lambda: train_by_twin(field, batch, total)}
    rendering: dict[str, Work] = {"torch eager": twin_render}
    if not args.no_compile:
        fast, fast_look = torch.compile(total), torch.compile(twin.composite)
        first = timed(lambda: train_by_twin(field, batch, fast))
        print(f"torch.compile: first training step {first[0]:.1f} s, ", end="")
        print(f"first rendering {timed(lambda: twin_render(fast_look))[0]:.1f} s")
        training["torch.compile"] = lambda: train_by_twin(field, batch, fast)
        rendering["torch.compile"] = lambda: twin_render(fast_look)
    try:
        other = Nerfstudio(args.nerfstudio)
    except Exception as error:  # it fails in many ways where a package or a driver is missing
        print(f"nerfstudio: SKIPPED, it does not import here ({type(error).__name__}: {error})")
    else:
        other.to(args.device)
        training["nerfstudio"] = lambda: other.train(p, batch)
        rendering["nerfstudio"] = lambda: other.instead(twin_render)
        compare_encodings(p, other, n, args.pairs)

    try:
        tiny, _ = make_work(args.rays, args.samples, args.device, "tinycudann")
    except EnvironmentFault as error:
        print(f"tinycudann: SKIPPED ({error.what})")
    else:
        training["tinycudann"] = lambda: tiny.learn(batch, RATES)
        rendering["tinycudann"] = lambda: tiny.look(batch, QUANTILES)

    results: dict[str, Any] = {"machine": where, **vars(args), "load": os.getloadavg()[0]}
    verdict = []
    spent = {}
    for kind, work, rivals in (
        ("train", lambda: native.step(lib, p, batch, field.moments, RATES), training),
        ("render", lambda: native.render(lib, p, batch, QUANTILES), rendering),
    ):  # fmt: skip
        mine, told = interleave(work, rivals, args.pairs)
        spent[kind] = min(mine)
        ours = statistics.median(mine)
        print(f"\n{kind}: kernels {ours * 1e3:.1f} ms (best {min(mine) * 1e3:.1f}), "
              f"{n / ours * 1e-6:.2f} M samples/s, {args.rays / ours * 1e-3:.1f} k rays/s")  # fmt: skip
        for name, t in told.items():
            s = statistics.median(t.seconds)
            print(f"  {name:14s} {s * 1e3:8.0f} ms, {n / s * 1e-6:.3f} M samples/s, "
                  f"{args.rays / s * 1e-3:.2f} k rays/s, {t.ratio:.1f} x slower "
                  f"({min(t.ratios):.1f}-{max(t.ratios):.1f}), "
                  f"{statistics.median(t.cpu):.1f} x the CPU seconds")  # fmt: skip
        results[kind] = {"kernels_s": mine, **{k: vars(t) for k, t in told.items()}}
        verdict.append(f"{kind}: " + ", ".join(f"{t.ratio:.1f} x {k}" for k, t in told.items()))
    if args.device == "cuda":
        print("no roofline on a GPU yet: see the kernels' own counters (ncu)")
        print("\n" + "\n".join(verdict))
        if args.json:
            args.json.write_text(json.dumps(results, indent=1, default=str))
        return
    m = roofline.measure()
    print(f"\nroofline of all cores, measured now: {m.flops * 1e-9:.0f} GFLOP/s, "
          f"{m.reads * 1e-6:.0f} M random reads/s and {m.updates * 1e-6:.0f} M updates/s in 1 MB a "
          f"thread, {m.streamed * 1e-9:.1f} GB/s streamed; the best run of the kernels counts")  # fmt: skip
    # Adam reads and writes gradient, parameter and two moments of what it touches: here nearly all.
    adam_bytes = 2 * 4 * 4 * p.table.numel()
    for kind, seconds in spent.items():
        print(roofline.report(kind, n, seconds, adam_bytes, m))
    print(f"load after: {load()}\n")
    print("\n".join(verdict))
    if args.json:
        args.json.write_text(json.dumps(results | {"roofline": vars(m)}, indent=1, default=str))


def compare_encodings(p: twin.Parameters, other: Nerfstudio, n: int, pairs: int) -> None:
    """The eager twin's encoding beside nerfstudio's: the yardstick must not be a slow one."""
    x = torch.rand(n, 3, device=p.table.device)

    def own() -> None:
        p.table.requires_grad_(True)
        encode(p.table, x, p.levels, p.scales).sum().backward()
        p.table.requires_grad_(False)
        p.table.grad = None

    def theirs() -> None:
        other.grid(x).sum().backward()

    mine, told = interleave(own, {"nerfstudio": theirs}, pairs)
    t = told["nerfstudio"]
    print(f"encoding alone, forward + backward: our twin {statistics.median(mine) * 1e3:.0f} ms, "
          f"nerfstudio {statistics.median(t.seconds) * 1e3:.0f} ms, "
          f"{t.ratio:.2f} x our twin")  # fmt: skip


if __name__ == "__main__":
    main()
