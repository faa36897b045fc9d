"""Landmarks that lie beside the run (`RUN/*.mrk.json`, `RUN/evaluation/*.mrk.json`), drawn.

They are LPS millimetres, so they are shown only in a registered view.
"""

from __future__ import annotations

from typing import Any

from endorecon.errors import EndoreconError
from endorecon.io.slicer import read_landmarks

from .case import Case
from .drawing import spots
from .labels import label
from .style import GREEN


def add_landmarks(plotter: Any, case: Case) -> tuple[list[Any], str]:
    """Actors, and a sentence on what could not be shown ("" when all could)."""
    folder = case.run.path
    files = sorted(folder.glob("*.mrk.json")) + sorted((folder / "evaluation").glob("*.mrk.json"))
    if not files:
        return [], "There are no landmarks beside this run (*.mrk.json)"
    if not case.mm:
        return [], f"Landmarks are in LPS millimetres ({case.why_no_mm})"
    actors, words = [], ""
    for k, file in enumerate(files):
        try:
            found = read_landmarks(file)
        except EndoreconError as error:
            words = str(error)
            continue
        actors += spots(plotter, found.xyz, GREEN, f"landmarks-{k}")
        actors += [label(plotter, n, found[n], GREEN) for n in found.names]
    return actors, words
