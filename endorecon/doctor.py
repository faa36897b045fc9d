"""What this machine has and lacks, each in one sentence with the repair."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def findings() -> Iterator[tuple[bool, str]]:
    """(good, sentence) one at a time; a bad one says what to do."""
    yield from _opencv()
    yield from _torch()
    yield from _kernels()
    yield from _tinycudann()
    yield from _libraries()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield (
        free > 5,
        f"{free:.0f} GiB of disk are free here" + ("" if free > 5 else "; a run needs up to 5"),
    )


def _opencv() -> Iterator[tuple[bool, str]]:
    owners = []
    for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
                 "opencv-contrib-python-headless"):  # fmt: skip
        try:
            owners.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(owners) == 1:
        yield True, owners[0]
    elif not owners:
        yield False, "OpenCV is missing; pip install opencv-python"
    else:
        both = " and ".join(owners)
        yield (
            False,
            (
                f"two packages own one cv2 folder ({both}); pip uninstall -y "
                f"{' '.join(o.split()[0] for o in owners)} && pip install opencv-python"
            ),
        )


def _torch() -> Iterator[tuple[bool, str]]:
    try:
        import torch
    except ImportError as error:
        yield False, f"torch cannot be imported ({error}); pip install torch"
        return
    yield True, f"torch {torch.__version__}"
    if torch.cuda.is_available():
        yield (
            True,
            f"CUDA device: {torch.cuda.get_device_name(0)}, torch's CUDA {torch.version.cuda}",
        )
    else:
        yield True, "no CUDA device: the preset `cpu` is used"


def _kernels() -> Iterator[tuple[bool, str]]:
    from endorecon import kernels

    for name in ("field", "sweep", "mls", "tsdf", "patches"):
        found = kernels.load(name)
        sentence = kernels.why(name)
        yield found is not None, sentence + ("" if found else "; plain numpy and torch run instead")


def _tinycudann() -> Iterator[tuple[bool, str]]:
    from endorecon.field import tcnn

    found = tcnn.find()
    if isinstance(found, str):
        yield True, f"tinycudann is not used (optional; needs a GPU and nvcc): {tcnn.INSTALL}"
    else:
        yield True, f"tinycudann {getattr(found, '__version__', '')} is at hand (optional)"


def _libraries() -> Iterator[tuple[bool, str]]:
    import importlib

    for name, package in (("open3d", "open3d"), ("pyvista", "pyvista"), ("SimpleITK", "SimpleITK"),
                          ("av", "av"), ("skimage", "scikit-image")):  # fmt: skip
        try:
            importlib.import_module(name)
            yield True, f"{package} {metadata.version(package)}"
        except Exception as error:
            yield (
                False,
                (
                    f"{package} does not import ({type(error).__name__}: {error}); "
                    f"pip install {package}, and on a slim image: "
                    "apt-get install libgl1 libx11-6 libgomp1 libegl1"
                ),
            )
