"""What import-linter cannot see: viewer/ lies beside the package and is mapped into it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "endorecon"


def _imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_the_commands_alone_open_the_viewer() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    opens = {
        str(file.relative_to(PACKAGE))
        for file in files
        if any(
            m == "endorecon.viewer" or m.startswith("endorecon.viewer.") for m in _imported(file)
        )
    }
    assert opens == {"commands.py"}
