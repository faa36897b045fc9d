"""What import-linter lets pass: modules on no floor, and the way up to viewer/.

viewer/ is mapped into the package as endorecon.viewer but lies beside it, so that import-linter
knows it by another name.
"""

from __future__ import annotations

import ast
import tomllib
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


def test_every_room_stands_on_a_floor() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    floors = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    listed = {word for floor in floors for word in floor.split() if word not in "|:"}
    rooms = {f.stem for f in PACKAGE.glob("*.py")} | {f.parent.name for f in PACKAGE.glob("*/*.py")}
    assert {f"endorecon.{room}" for room in rooms - {"__init__", "endorecon"}} <= listed
