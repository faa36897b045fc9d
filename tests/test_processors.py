"""One source for every processor: plain x86-64, AVX2, AVX-512, ARM, and five NVIDIA architectures.

The library in use is built for the processor it runs on (endorecon/kernels.py). Here the others are
built too; those that this processor can run are held to the twin, the rest must compile in silence.
"""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from field_cases import doubled, make_case

from endorecon import kernels
from endorecon.field import native, twin

LEVELS = {  # what a processor must have for a level of x86-64
    "x86-64": set(),
    "x86-64-v3": {"avx2", "fma", "bmi2"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}


def build(compiler: str, name: str, flags: list[str], out: Path) -> str:
    """Compile a CPU kernel with every warning an error; its messages."""
    own = [f for f in kernels.CXX_FLAGS if f != "-march=native"]
    source = str(kernels.source_dir() / f"{name}.cpp")
    command = [compiler, *own, *flags, "-Werror", source, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


def flags_here() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.M)
    return set(found[1].split()) if found else set()


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_x86_does_what_the_twin_does(level: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or shutil.which("g++") is None:
        pytest.skip("no g++ for x86-64 here")
    if not LEVELS[level] <= flags_here():
        pytest.skip(f"this processor lacks {LEVELS[level] - flags_here()}")
    build("g++", "field", [f"-march={level}"], tmp_path / "field.so")
    lib = ctypes.CDLL(str(tmp_path / "field.so"))
    lib.field_step.restype = lib.field_render.restype = ctypes.c_int32
    p, b = make_case(40, 19)
    terms, g = native.gradients(lib, p, b)
    P, B = doubled(p, b)
    told = twin.losses(B, twin.composite(P, B))
    total = told["colour"] + told["depth"] + told["spread"]
    for name in ("colour", "depth", "spread", "square"):
        assert terms[name] == pytest.approx(float(told[name].detach()), rel=1e-5)
    for found, want in zip(
        (g.table, g.weights, g.extras), torch.autograd.grad(total, (P.table, P.weights, P.extras))
    ):
        assert float((found - want).norm()) <= 1e-5 * float(want.norm())
    colour, _, _ = native.render(lib, p, b, (0.16, 0.5, 0.84))
    with torch.no_grad():
        assert torch.allclose(colour.double(), twin.composite(P, B).shown, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["field", "sweep", "mls", "tsdf"])
def test_the_kernels_compile_for_arm_without_a_warning(name: str, tmp_path: Path) -> None:
    compiler = "aarch64-linux-gnu-g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} (Debian: g++-aarch64-linux-gnu): ARM is not compile-checked")
    assert build(compiler, name, [], tmp_path / "out.so") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["field", "sweep", "mls"])
def test_the_cuda_sources_compile_for_every_architecture_without_a_warning(
    name: str, tmp_path: Path
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the CUDA sources are not compile-checked")
    assert kernels.CUDA_ARCHITECTURES == (75, 80, 86, 89, 90)
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in kernels.CUDA_ARCHITECTURES]
    newest = kernels.CUDA_ARCHITECTURES[-1]
    flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")  # PTX for newer ones
    out = tmp_path / f"{name}.so"
    done = subprocess.run(
        [nvcc, *kernels.NVCC_FLAGS, "--threads", "2", "-Werror", "all-warnings", *flags,
         str(kernels.source_dir() / f"{name}.cu"), "-o", str(out)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.strip() == "", done.stderr
    tool = shutil.which("cuobjdump")
    if tool is not None:
        listed = subprocess.run([tool, "--list-elf", "--list-ptx", str(out)], capture_output=True,
                                text=True, timeout=60).stdout  # fmt: skip
        for a in kernels.CUDA_ARCHITECTURES:
            assert f"sm_{a}." in listed, listed
        assert "ptx" in listed
