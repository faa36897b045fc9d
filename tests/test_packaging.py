"""What a wheel holds: every package of the tree, found by the same list as the editable install."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_of_the_tree_is_declared() -> None:
    declared = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in ROOT.glob("endorecon/**/__init__.py")
    }
    assert found | {"endorecon.viewer", "endorecon.cuda", "endorecon.configs"} == declared


def test_cuda_is_never_importable_as_a_package() -> None:
    # it would shadow NVIDIA's `cuda` namespace package
    assert not (ROOT / "cuda" / "__init__.py").exists()
