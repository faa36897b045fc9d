"""The one door to cuda/: build a kernel library at first use, load it, or say why not.

`load("field")` gives a ctypes.CDLL built from cuda/field.cpp by the C++ compiler (`CXX`, else g++),
`load("field", "cuda")` the one built from cuda/field.cu by nvcc; None when that is not possible,
and `why(name)` is then the reason in one sentence. A library is named by the hash of its source, of
the headers of cuda/ that it includes, of the flags, the compiler's file and the processor, so that
old code can never run in silence, and a cache shared by different machines serves each with its own
build: that is the dispatch between AVX-512, AVX2, NEON and plain code. A failed build is remembered
under the same name.

Environment: ENDORECON_KERNELS = auto (default) | off | require; ENDORECON_CACHE = cache folder.
Flags: no -ffast-math (it drops NaN checks and, with several threads, repeatability); the two flags
used instead only forget `errno` and the floating-point exception mask. No torch in this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from endorecon.errors import EnvironmentFault

# Under load on few cores spinning OpenMP threads cost 5-8x in short loops (speed.md, section 1).
# It counts only when set before the first OpenMP library is loaded, hence at import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Machine = Literal["cpu", "cuda"]

CXX_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC,-Wall"]
CUDA_ARCHITECTURES = (75, 80, 86, 89, 90)  # compiled for, in CI; PTX of the last serves newer ones
BUILD_TIMEOUT_S = 300.0

_loaded: dict[tuple[str, Machine], ctypes.CDLL | str] = {}


class _Impossible(Exception):
    """A reason, in one sentence, why there is no library."""


def source_dir() -> Path:
    """The folder of kernel sources, found by path (editable: beside the package)."""
    here = Path(__file__).resolve().parent
    inside = here / "cuda"
    return inside if inside.is_dir() else here.parent / "cuda"


def cache_dir() -> Path:
    """Where built libraries live: ENDORECON_CACHE/kernels, else ~/.cache/endorecon/kernels."""
    place = os.environ.get("ENDORECON_CACHE")
    return (Path(place) if place else Path.home() / ".cache" / "endorecon") / "kernels"


def load(name: str, machine: Machine = "cpu") -> ctypes.CDLL | None:
    """The kernel library `name`, built if need be; None (see `why`) where it cannot be had.

    Raises EnvironmentFault in place of None when ENDORECON_KERNELS=require.
    """
    mode = os.environ.get("ENDORECON_KERNELS", "auto")
    if mode not in ("auto", "off", "require"):
        raise EnvironmentFault(
            f"ENDORECON_KERNELS is {mode!r}", "set it to auto, off or require, or unset it"
        )
    if mode == "off":
        return None
    key = (name, machine)
    if key not in _loaded:
        try:
            _loaded[key] = _open(name, machine)
        except _Impossible as reason:
            _loaded[key] = str(reason)
    found = _loaded[key]
    if isinstance(found, str):
        if mode == "require":
            raise EnvironmentFault(
                f"kernel {name!r} ({machine}) is required but {found}",
                "mend that or set ENDORECON_KERNELS=auto",
            )
        return None
    return found


def run(name: str, function: str, arguments: Sequence[Any], machine: str, what: str) -> bool:
    """Call a C function of kernel `name`; False where there is no such kernel, and nothing done.

    machine: cpu or cuda; a GPU that is full or gone leaves the work to the CPU. Raises
    EnvironmentFault, which names `what`, when that fails, too.
    """
    library = (load(name, "cuda") if machine == "cuda" else None) or load(name)
    if library is None:
        return False
    if getattr(library, function)(*arguments) != 0:
        spare = load(name)
        if spare is None or getattr(spare, function)(*arguments) != 0:
            raise EnvironmentFault(f"The {what} kernel failed", "run with --device cpu")
    return True


def why(name: str, machine: Machine = "cpu") -> str:
    """One sentence on how kernel `name` stands: in use, switched off, or why it is missing."""
    if os.environ.get("ENDORECON_KERNELS") == "off":
        return f"kernel {name!r} ({machine}) is switched off by ENDORECON_KERNELS=off"
    found = _loaded.get((name, machine))
    if found is None:
        return f"kernel {name!r} ({machine}) has not been asked for"
    if isinstance(found, str):
        return f"kernel {name!r} ({machine}) is not used: {found}"
    return f"kernel {name!r} ({machine}) is in use: {Path(found._name).name}"


def address(array: Any, dtype: str, shape: tuple[int, ...] | None = None) -> ctypes.c_void_p:
    """Pointer to the data of a numpy array or torch tensor; None becomes a null pointer.

    Raises ValueError when type, shape (where given) or memory order are not what the kernel takes.
    Keep a reference to the array for as long as the kernel runs.
    """
    if array is None:
        return ctypes.c_void_p(None)
    if isinstance(array, np.ndarray):
        kind, packed, place = str(array.dtype), array.flags.c_contiguous, array.ctypes.data
    else:  # a torch tensor, told by its methods so that torch is not imported here
        kind = str(array.dtype).removeprefix("torch.")
        packed, place = array.is_contiguous(), array.data_ptr()
    if kind != dtype:
        raise ValueError(f"a kernel needs {dtype}, got {kind}")
    if not packed:
        raise ValueError("a kernel needs a contiguous array")
    if shape is not None and tuple(array.shape) != shape:
        raise ValueError(f"a kernel needs shape {shape}, got {tuple(array.shape)}")
    return ctypes.c_void_p(place)


def sources(path: Path) -> list[Path]:
    """`path` and every file of its folder that it includes by "...", directly or not."""
    found: list[Path] = []
    todo = [path]
    while todo:
        one = todo.pop()
        if one in found or not one.is_file():
            continue
        found.append(one)
        names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', one.read_text(), re.MULTILINE)
        todo += [one.parent / n for n in names]
    return [path, *sorted(found[1:])]


def _compiler(machine: Machine) -> tuple[str, list[str], str]:
    """Compiler, flags and a word on the processor they are for."""
    if machine == "cpu":
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            raise _Impossible("no C++ compiler was found (install g++ or set CXX)")
        return compiler, CXX_FLAGS, _processor()
    compiler = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if compiler is None:
        raise _Impossible("no nvcc was found (install the CUDA toolkit)")
    arch = _cuda_architecture()
    flag = f"-gencode=arch=compute_{arch},code=[sm_{arch},compute_{arch}]"
    return compiler, [*NVCC_FLAGS, flag], f"sm_{arch}"


def _processor() -> str:
    """What -march=native depends on."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        return "".join(sorted(set(re.findall(r"^(?:model name|flags|Features)\s*:.*", text, re.M))))
    return f"{platform.machine()} {platform.processor()}"


def _cuda_architecture() -> int:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise _Impossible("no NVIDIA driver was found (nvidia-smi is missing)")
    try:
        text = subprocess.run(
            [tool, "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Impossible("nvidia-smi did not answer") from error
    match = re.search(r"(\d+)\.(\d+)", text)
    if match is None:
        raise _Impossible("nvidia-smi names no CUDA device")
    return int(match[1]) * 10 + int(match[2])


def _open(name: str, machine: Machine) -> ctypes.CDLL:
    source = source_dir() / f"{name}.{'cpp' if machine == 'cpu' else 'cu'}"
    if not source.is_file():
        raise _Impossible(f"there is no source {source.name} in cuda/")
    compiler, flags, processor = _compiler(machine)
    digest = hashlib.sha256()
    for part in (_identity(compiler), processor, platform.platform(), *flags):
        digest.update(part.encode() + b"\0")
    for path in sources(source):
        digest.update(path.read_bytes() + b"\0")
    library = cache_dir() / f"{name}-{machine}-{digest.hexdigest()[:20]}.so"
    if not library.is_file():
        try:
            library.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _Impossible(f"the cache folder cannot be made ({error.strerror})") from error
        _build(library, [compiler, *flags, str(source)])
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise _Impossible(f"the library does not load ({error})") from error


def _identity(compiler: str) -> str:
    """What tells one compiler from another without starting it, which takes longer than a load."""
    try:
        real = Path(compiler).resolve()
        found = real.stat()
    except OSError as error:
        raise _Impossible(f"the compiler cannot be read ({error.strerror})") from error
    return f"{real} {found.st_size} {found.st_mtime_ns}"


def _build(library: Path, command: list[str]) -> None:
    """Build under a lock; a second process waits for the first and takes its result."""
    failed = library.with_suffix(".failed")
    with _lock(library.with_suffix(".lock")):
        if library.is_file():
            return
        if failed.is_file():
            raise _Impossible(f"{failed.read_text()} (remembered; delete {failed.name} to retry)")
        handle, scratch = tempfile.mkstemp(suffix=".so", dir=library.parent)
        os.close(handle)
        try:
            done = subprocess.run(
                [*command, "-o", scratch], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
            )
            if done.returncode == 0:
                os.replace(scratch, library)  # atomic: nobody ever loads half a library
                return
            lines = [x for x in done.stderr.splitlines() if "error" in x.lower()] or [done.stderr]
            reason = f"the compiler failed ({lines[0].strip()[:300]})"
        except subprocess.TimeoutExpired:
            reason = f"the compiler took more than {BUILD_TIMEOUT_S:.0f} s"
        except OSError as error:
            reason = f"the compiler does not start ({error.strerror})"
        finally:
            Path(scratch).unlink(missing_ok=True)
        failed.write_text(reason)
        raise _Impossible(reason)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An flock with a time-out; the system frees it when its owner dies, whose pid it holds."""
    try:
        import fcntl
    except ImportError as error:  # not a POSIX system
        raise _Impossible("kernels are built on POSIX systems only") from error
    with open(path, "a+") as file:
        end = time.monotonic() + BUILD_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > end:
                    file.seek(0)
                    owner = file.read().strip() or "unknown"
                    raise _Impossible(f"process {owner} holds the build lock") from error
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
