"""How the command line shows events: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

NOTICE = "Research software, not for clinical use."
_STAGES = {
    "video": "reading and screening the video",
    "poses": "finding the camera poses",
    "rounds": "field and virtual stereo",
    "surface": "fusing the surface",
}


def draw(preset: str, device: str, events: Iterator[Any]) -> None:
    """Draw a fit until it ends; the first line says by what preset and where."""
    print(f"endorecon fit, preset {preset}, device {device}. {NOTICE}", flush=True)
    if sys.stdout.isatty():
        _live(events)
    else:
        for line in _lines(events):
            print(line, flush=True)


def _lines(events: Iterator[Any]) -> Iterator[str]:
    begun = time.monotonic()
    for event in events:
        text = sentence(event)
        if text:
            yield f"[{time.monotonic() - begun:6.1f} s] {text}"


def sentence(event: Any) -> str:
    """What a log says of an event; "" for the fine-grained ones."""
    kind = type(event).__name__
    if kind == "StageStarted":
        return _STAGES.get(event.stage, event.stage)
    if kind == "StageFinished":
        how = "found finished" if event.resumed else f"done in {event.seconds:.0f} s"
        return f"  {event.stage}: {how}"
    if kind == "Note":
        return ("  warning: " if event.warning else "  ") + event.sentence
    if kind == "Warned":
        return f"  warning: {event.sentence}"
    if kind == "RoundFinished":
        moved = "" if event.change is None else f"depths moved by {100 * event.change:.2f} %, "
        return (
            f"  round {event.round}: {moved}{100 * event.trusted:.0f} % trusted, "
            f"held-out NCC {event.held_out_ncc:.3f}, {event.seconds:.0f} s"
        )
    if kind == "RoundsFinished":
        return f"  {event.status} (best round {event.best}): {event.why}"
    if kind == "Fitted":
        scale = "in mm" if event.unit == "mm" else "without unit: nothing says how large it is"
        return (
            f"{event.status}: {event.frames_posed} of {event.frames_kept} frames posed, "
            f"{event.rounds} rounds, {event.seconds:.0f} s, {scale}. "
            f"Surface: {event.run}/surface.ply"
        )
    return ""


def _live(events: Iterator[Any]) -> None:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:34s}"), BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        for event in events:
            kind = type(event).__name__
            if kind == "PoseProgress":
                bar.update(task, description=f"poses: {event.stage}", total=event.total or None,
                           completed=event.done)  # fmt: skip
            elif kind == "StepDone":
                bar.update(task, description="field: training", total=event.steps,
                           completed=event.step)  # fmt: skip
            elif kind == "ViewsMeasured":
                bar.update(task, description=f"round {event.round}: {event.what}",
                           total=event.total, completed=event.done)  # fmt: skip
            text = sentence(event)
            if text:
                bar.console.print(text, highlight=False)
