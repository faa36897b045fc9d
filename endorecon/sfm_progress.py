"""How the SfM child process tells its parent where it stands."""

from __future__ import annotations

import json
import sys


def say(stage: str, done: int = 0, total: int = 0) -> None:
    """One JSON object on a line of stdout."""
    sys.stdout.write(json.dumps({"stage": stage, "done": done, "total": total}) + "\n")
    sys.stdout.flush()
