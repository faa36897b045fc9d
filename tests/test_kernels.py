"""The door to cuda/: built once, never stale, never silent about a failure."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from endorecon import kernels
from endorecon.errors import EnvironmentFault

SOURCE = '#include "add.h"\nextern "C" int add(int a, int b) { return ADD(a, b); }\n'


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source folder and a cache of this test's own."""
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "toy.cpp").write_text(SOURCE)
    (tmp_path / "cuda" / "add.h").write_text("#define ADD(a, b) ((a) + (b))\n")
    monkeypatch.setattr(kernels, "source_dir", lambda: tmp_path / "cuda")
    monkeypatch.setattr(kernels, "_loaded", {})
    monkeypatch.setenv("ENDORECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENDORECON_KERNELS", raising=False)
    return tmp_path


def test_a_kernel_is_built_once_and_loads_quickly_afterwards(house: Path) -> None:
    library = kernels.load("toy")
    assert library is not None, kernels.why("toy")
    assert library.add(2, 3) == 5
    kernels._loaded.clear()
    start = time.perf_counter()
    assert kernels.load("toy") is not None
    assert time.perf_counter() - start < 0.5  # measured: 10 ms; the machine may be busy
    assert len(list((house / "cache" / "kernels").glob("*.so"))) == 1
    assert "in use" in kernels.why("toy")


@pytest.mark.slow
def test_the_real_kernels_build_in_seconds_and_load_in_milliseconds(tmp_path: Path) -> None:
    env = {**os.environ, "ENDORECON_CACHE": str(tmp_path)}
    code = (
        "import time; from endorecon import kernels\n"
        "for name in ('field', 'sweep', 'mls', 'tsdf'):\n"
        "    start = time.perf_counter(); found = kernels.load(name)\n"
        "    print(time.perf_counter() - start); assert found is not None, kernels.why(name)\n"
    )

    def run() -> list[float]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return [float(x) for x in done.stdout.split()]

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run()
    # CPU seconds of all three together: the wall clock is that of whoever else works here
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 30.0
    loads = [run() for _ in range(5)]
    assert all(min(each) < 0.05 for each in zip(*loads)), loads


def test_a_changed_compiler_builds_a_new_library(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = house / "cxx"
    monkeypatch.setenv("CXX", str(wrapper))
    for word in ("one", "other"):
        wrapper.write_text(f'#!/bin/sh\n# {word}\nexec g++ "$@"\n')
        wrapper.chmod(0o755)
        kernels._loaded.clear()
        assert kernels.load("toy") is not None
    assert len(list((house / "cache" / "kernels").glob("*.so"))) == 2


def test_a_build_that_is_killed_leaves_nothing_that_hinders(house: Path) -> None:
    """The lock goes with its owner; a half-written library is never found."""
    wrapper = house / "cxx"
    wrapper.write_text(f"#!/bin/sh\ntouch {house}/started; sleep 30\n")
    wrapper.chmod(0o755)
    code = (
        "from pathlib import Path; from endorecon import kernels\n"
        f"kernels.source_dir = lambda: Path({str(house / 'cuda')!r})\nkernels.load('toy')\n"
    )
    env = {**os.environ, "CXX": str(wrapper)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)
    end = time.monotonic() + 30
    while not (house / "started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    wrapper.write_text('#!/bin/sh\nexec g++ "$@"\n')
    library = kernels.load("toy")
    assert library is not None and library.add(2, 3) == 5


def test_a_change_in_an_included_header_builds_a_new_library(house: Path) -> None:
    assert kernels.load("toy") is not None
    kernels._loaded.clear()
    (house / "cuda" / "add.h").write_text("#define ADD(a, b) ((a) + (b) + 100)\n")
    library = kernels.load("toy")
    assert library is not None and library.add(2, 3) == 105


def test_a_broken_source_is_remembered_with_its_reason(house: Path) -> None:
    (house / "cuda" / "toy.cpp").write_text("nonsense\n")
    assert kernels.load("toy") is None
    assert "compiler failed" in kernels.why("toy")
    kernels._loaded.clear()
    assert kernels.load("toy") is None
    assert "remembered" in kernels.why("toy")


def test_without_a_compiler_there_is_a_sentence(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert kernels.load("toy") is None
    assert "no C++ compiler" in kernels.why("toy")
    monkeypatch.setenv("ENDORECON_KERNELS", "require")
    with pytest.raises(EnvironmentFault, match="required"):
        kernels.load("toy")


def test_a_broken_compiler_runs_once(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = house / "cxx"
    fake.write_text(f"#!/bin/sh\necho x >> {house}/calls\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    for _ in range(2):
        kernels._loaded.clear()
        assert kernels.load("toy") is None
    assert len((house / "calls").read_text().splitlines()) == 1
    assert "remembered" in kernels.why("toy")


def test_off_means_off_and_a_wrong_word_is_an_error(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDORECON_KERNELS", "off")
    assert kernels.load("toy") is None
    assert "switched off" in kernels.why("toy")
    monkeypatch.setenv("ENDORECON_KERNELS", "maybe")
    with pytest.raises(EnvironmentFault, match="auto, off or require"):
        kernels.load("toy")


def test_two_processes_at_once_build_once(house: Path) -> None:
    wrapper = house / "cxx"
    wrapper.write_text(f'#!/bin/sh\necho x >> {house}/builds; sleep 1\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    code = (
        "from pathlib import Path; from endorecon import kernels\n"
        f"kernels.source_dir = lambda: Path({str(house / 'cuda')!r})\n"
        "assert kernels.load('toy').add(1, 2) == 3\n"
    )
    env = {**os.environ, "CXX": str(wrapper)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert (house / "builds").read_text() == "x\n"


def test_addresses_check_type_shape_and_order() -> None:
    a = np.zeros((4, 3), np.float32)
    assert kernels.address(a, "float32", (4, 3)).value == a.ctypes.data
    assert kernels.address(None, "float32").value is None
    with pytest.raises(ValueError, match="float32"):
        kernels.address(a.astype(np.float64), "float32")
    with pytest.raises(ValueError, match="contiguous"):
        kernels.address(a.T, "float32")
    with pytest.raises(ValueError, match="shape"):
        kernels.address(a, "float32", (3, 4))


def test_addresses_take_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    t = torch.arange(6, dtype=torch.float32)
    first = ctypes.cast(kernels.address(t, "float32"), ctypes.POINTER(ctypes.c_float))
    assert first[5] == 5.0
    with pytest.raises(ValueError, match="contiguous"):
        kernels.address(t[::2], "float32")
