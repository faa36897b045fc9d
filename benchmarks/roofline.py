"""What this machine can do at most, measured: fused multiply-adds, random 8-byte reads, streaming.

All threads of the machine work at once, each in its own memory; the best of several tries counts,
so that other people's load lowers the figure as little as possible.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# One sample of the default field (12 levels x 2 features, nets 24-32-16 and 24-32-32-4).
MACS = 24 * 32 + 32 * 16 + 24 * 32 + 32 * 32 + 32 * 4
READS = 12 * 8  # pairs of the table read forward; as many read, added to and written backward
FEATURES = 12 * 8  # bytes of the encoding, written once and read once, forward and backward

PROBE = r"""
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>
typedef float v16 __attribute__((vector_size(64)));
static double now() { using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count(); }
template <class Work> static double best_rate(double amount, Work work) {
  double best = 0;
  for (int t = 0; t < 30; ++t) { double s = now();
    #pragma omp parallel
    work();
    double d = amount * omp_get_max_threads() / (now() - s); if (d > best) best = d; }
  return best; }
extern "C" double flops() {
  return best_rate(400000.0 * 12 * 32, [] {
    v16 a[12]; for (auto &x : a) x = v16{} + 1.0f;
    const v16 m = v16{} + 0.999999f, c = v16{} + 1e-7f;
    for (int i = 0; i < 400000; ++i) for (auto &x : a) x = x * m + c;
    volatile float sink = 0; for (auto &x : a) sink = sink + x[0]; }); }
extern "C" double reads(int64_t bytes, int update) {
  const uint64_t mask = bytes / 8 - 1;
  return best_rate(4e6, [=] {
    std::vector<uint64_t> v(mask + 1, 1); uint64_t sum = 0, r[4] = {1, 2, 3, 4};
    for (int i = 0; i < 1000000; ++i) for (auto &x : r) {
      x = x * 6364136223846793005ull + 1442695040888963407ull;
      if (update) v[(x >> 33) & mask] += i; else sum += v[(x >> 33) & mask]; }
    volatile uint64_t sink = sum + v[7]; (void)sink; }); }
extern "C" double streamed() {
  return best_rate(2.0 * (16 << 20), [] {
    static thread_local std::vector<char> a(16 << 20, 1), b(16 << 20, 2);
    memcpy(a.data(), b.data(), a.size()); }); }
"""


@dataclass(frozen=True)
class Machine:
    """Rates a second of all threads together."""

    flops: float
    reads: float  # random 8-byte reads in a table of 1 MB, one a thread
    updates: float  # the same read, added to and written
    streamed: float  # bytes copied between arrays beyond the caches of a core, read plus written


def measure() -> Machine:
    """Build the probe and run it (about two seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        source, lib = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text(PROBE)
        command = ["g++", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(lib)], check=True)
        probe = ctypes.CDLL(str(lib))
        for name in ("flops", "reads", "streamed"):
            getattr(probe, name).restype = ctypes.c_double
        megabyte = ctypes.c_int64(1 << 20)
        return Machine(
            probe.flops(), probe.reads(megabyte, 0), probe.reads(megabyte, 1), probe.streamed()
        )


def report(kind: str, samples: int, seconds: float, adam_bytes: int, m: Machine) -> str:
    """Flops and bytes a sample, the least time this machine needs for them, and the share reached.

    The phases follow one another (encode, nets, scatter, Adam), so their least times add up.
    """
    train = kind == "train"
    flops = 2 * MACS * (3 if train else 1)
    streamed = 2 * FEATURES * (2 if train else 1) + (adam_bytes / samples if train else 0)
    table = 8 * READS * (3 if train else 1)
    least = {
        "multiply-adds of the nets": flops / m.flops,
        "random reads of the tables": READS / m.reads + (READS / m.updates if train else 0),
        "streaming (features, Adam)": streamed / m.streamed,
    }
    bound = sum(least.values())
    most = max(least, key=lambda k: least[k])
    spent = seconds / samples
    lines = [
        f"  {kind}: {flops / 1e3:.1f} kFLOP, {table} bytes of tables in {READS} random reads"
        f"{f' and {READS} updates' if train else ''}, {streamed:.0f} bytes streamed a sample",
        f"    least time {bound * 1e9:.0f} ns a sample ("
        + ", ".join(f"{k} {v * 1e9:.0f} ns" for k, v in least.items())
        + f"); spent {spent * 1e9:.0f} ns: {bound / spent:.0%} of the roofline",
        f"    {flops / spent / m.flops:.0%} of the multiply-add peak; bound most by the {most}",
    ]
    return "\n".join(lines)
