"""Shared fixtures: where the real data is, whether there is a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Under load on few cores, spinning OpenMP threads cost more than they save (speed.md, section 1);
# it must be set before torch or a kernel is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it skip, visibly, when it is absent."""
    place = os.environ.get("ENDORECON_DATA", "")
    if not place or not Path(place).is_dir():
        pytest.skip("ENDORECON_DATA does not name a folder: real-data tests skipped")
    return Path(place)


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
