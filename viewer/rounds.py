"""The rounds of a run: stepping through them, playing them, following a run that still grows.

Following reads `events.jsonl` and the round folders (which appear by one rename, so a half-written
one is never seen) about once a second; the caller's timer calls `tick`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EndoreconError
from endorecon.io.rundir import RunDir

from .case import open_case
from .style import AMBER, BACKGROUND, CYAN, WHITE

if TYPE_CHECKING:
    from .session import Session

Array = NDArray[Any]
PLAY_S = 0.9
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # percent


class Rounds:
    """Which round is on show, and whether they are playing or followed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.shown: int | None = None  # None: the surface
        self.playing, self.following = False, False
        self._next = 0.0
        self._seen: tuple[Any, ...] = ()

    @property
    def all(self) -> list[int]:
        return self.session.case.run.rounds()

    def step(self, by: int) -> None:
        """The next or previous round; past the last one comes the surface."""
        stops: list[int | None] = [*self.all, None]
        if len(stops) == 1:
            self.session.say("The run has no finished round yet", bad=True)
            return
        at = stops.index(self.shown) if self.shown in stops else len(stops) - 1
        self.shown = stops[(at + by) % len(stops)]
        self.session.show_round(self.shown)

    def play(self) -> None:
        """Play the rounds from the first, or stop."""
        self.playing = not self.playing and bool(self.all)
        self.shown = None
        self._next = 0.0
        self.session.say("Playing the rounds" if self.playing else "Stopped")

    def tick(self) -> None:
        """Called by the front door's timer, a few times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        if self.playing:
            self._next = now + PLAY_S
            self.step(1)
            self.playing = self.shown is not None
        elif self.following:
            self._next = now + 1.0
            self._look()

    def _look(self) -> None:
        """Take over what the run has written since."""
        run = self.session.case.run
        surface = run.path / "surface.ply"
        try:
            seen = (tuple(run.rounds()), len(run.events()),
                    surface.stat().st_mtime_ns if surface.is_file() else 0)  # fmt: skip
            if seen == self._seen:
                return
            case = open_case(run.path, waiting=True)
        except (EndoreconError, OSError):
            return  # it is being written: the next look sees it whole
        first, self._seen = not self._seen, seen
        if first and case.source == self.session.case.source:
            return
        had_nothing = self.session.case.surface is None
        self.session._take_case(case)
        if had_nothing and case.surface is not None:
            self.session.reset_view()
        self.session.say(f"{case.source} · {case.info.get('status', '?')}")


def changes(run: RunDir) -> list[tuple[int, float]]:
    """(round, median relative change of depth) so far, from events.jsonl."""
    found: dict[int, float] = {}
    for event in run.events():
        change, k = event.get("change"), event.get("round")
        if isinstance(k, int) and isinstance(change, int | float) and np.isfinite(change):
            found[k] = float(change)
    return sorted(found.items())


def curve(run: RunDir, size: tuple[int, int] = (420, 240)) -> Array:
    """The convergence curve as RGB (h, w, 3) uint8: change a round, the tolerance as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    points = changes(run)
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.18, 0.24, 0.78, 0.62), facecolor=BACKGROUND)
    axes.set_title("change of depth a round [%]", color=WHITE, fontsize=11)
    if points:
        k, change = zip(*points)
        axes.plot(k, 100 * np.array(change), "o-", color=CYAN, linewidth=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(range(min(k), max(k) + 1))
        values = 100 * np.array(change)
        axes.set_ylim(min(values.min() * 0.6, 0.3), max(values.max() * 1.6, 1.0))
    else:
        axes.text(0.5, 0.5, "waiting for round 1", color=WHITE, ha="center", va="center",
                  transform=axes.transAxes, fontsize=12)  # fmt: skip
        axes.set_yticks([])
        axes.set_xticks([])
    tolerance = _tolerance(run)
    if points and tolerance:
        axes.axhline(100 * tolerance, color=AMBER, linestyle="--", linewidth=1.5)
        axes.text(0.99, 100 * tolerance, "converged below", color=AMBER, fontsize=9, ha="right",
                  va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_xlabel("round", color=WHITE, fontsize=10)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.tick_params(colors=WHITE, labelsize=9, which="both")
    for spine in axes.spines.values():
        spine.set_color(WHITE)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _tolerance(run: RunDir) -> float:
    try:
        value = run.info()["config"]["loop"]["tolerance"]
        return float(value)
    except (EndoreconError, KeyError, TypeError, ValueError):
        return 0.0
