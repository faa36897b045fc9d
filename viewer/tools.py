"""The tools: what is being picked, what has been measured, and one step back at a time.

A tool takes spots until it has enough. Every change is a new tuple, so undo is the one before.
Rows carry unit, space, state of registration, TRE and date: a number never goes without them.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import Any

from .case import Case
from .measure import NEEDED, Kind, Taken, take
from .mesh import Spot, SurfaceMesh

LETTER = {"point": "P", "distance": "D", "angle": "A", "area": "O", "note": "N"}
HINT = {
    "point": "Point: click on the surface",
    "distance": "Distance: click two points",
    "angle": "Angle: click three points, the second is the corner",
    "area": "Outline: click round the ostium, Enter closes it",
    "note": "Note: click where it belongs",
}
COLUMNS = (
    "name", "kind", "value", "low", "high", "unit", "along", "along_low", "along_high", "x", "y",
    "z", "space", "registered", "tre", "surface", "frame", "note", "run", "run_date", "version",
    "status", "use",
)  # fmt: skip


class Tools:
    """Measurements on one case."""

    def __init__(self, case: Case, mesh: SurfaceMesh | None) -> None:
        self.case, self.mesh = case, mesh
        self.kind: Kind | None = None
        self.pending: tuple[Spot, ...] = ()
        self.taken: tuple[Taken, ...] = ()
        self._before: list[tuple[tuple[Spot, ...], tuple[Taken, ...]]] = []

    def choose(self, kind: Kind | None) -> str:
        """Take up a tool (None lays it down); returns the hint."""
        self.kind, self.pending = kind, ()
        return HINT[kind] if kind else ""

    def _remember(self) -> None:
        self._before.append((self.pending, self.taken))

    def _name(self, kind: Kind) -> str:
        used = {t.name for t in self.taken}
        return next(n for k in range(1, 10_000) if (n := f"{LETTER[kind]}{k}") not in used)

    def place(self, spot: Spot, text: str = "", frame: int | None = None) -> Taken | None:
        """Give the tool a spot; the finished measurement, or None while it wants more.

        Raises NotEnoughInformation (a sentence) when it refuses; the spot is then not kept.
        """
        kind = self.kind or "point"
        assert self.mesh is not None
        self._remember()
        try:
            if len(self.pending) + 1 < NEEDED[kind] or kind == "area":
                take("point", "", (spot,), self.mesh)  # refuses what lies on guessed surface
                self.pending = (*self.pending, spot)
                return None
            return self._finish(kind, (*self.pending, spot), text, frame)
        except Exception:
            self._before.pop()
            raise

    def close(self) -> Taken | None:
        """Close the outline."""
        if self.kind != "area" or len(self.pending) < NEEDED["area"]:
            return None
        self._remember()
        return self._finish("area", self.pending, "", None)

    def _finish(self, kind: Kind, spots: tuple[Spot, ...], text: str, frame: int | None) -> Taken:
        assert self.mesh is not None
        try:
            done = take(kind, self._name(kind), spots, self.mesh, text, frame)
        finally:
            self.pending = ()
        self.taken = (*self.taken, done)
        return done

    def undo(self) -> bool:
        """One step back: a spot, a measurement, a removal, a loading."""
        if not self._before:
            return False
        self.pending, self.taken = self._before.pop()
        return True

    def remove(self, name: str) -> None:
        self._remember()
        self.taken = tuple(t for t in self.taken if t.name != name)

    def annotate(self, name: str, text: str) -> None:
        """Write a note to a measurement."""
        self._remember()
        self.taken = tuple(replace(t, text=text) if t.name == name else t for t in self.taken)

    def adopt(self, taken: tuple[Taken, ...]) -> None:
        """Take over measurements that were loaded."""
        self._remember()
        self.pending, self.taken = (), taken

    def value_text(self, t: Taken) -> str:
        """The value of one measurement in words."""
        c = self.case
        if t.kind == "distance":
            return c.length(t.value, t.half)
        if t.kind == "angle":
            return f"{t.value:.1f} ± {t.half:.1f}°"
        if t.kind == "area":
            return c.length(t.value, t.half, 2)
        x, y, z = t.spots[0].xyz
        space = "LPS" if c.mm else "own space"
        where = f"{space} {x:.1f}, {y:.1f}, {z:.1f}"
        return f"{where} · σ {c.length(t.spots[0].sigma)}"

    def along_text(self, t: Taken) -> str:
        """The way along the surface in words, "" for what has none."""
        if t.kind != "distance":
            return ""
        if not math.isfinite(t.along):
            return f"not measured: {t.why_no_along}"
        return self.case.length(t.along, t.along_half)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a measurement, keys COLUMNS, numbers as numbers."""
        c = self.case
        tre = c.registration.get("tre_mm") if c.mm else None
        rows = []
        for t in self.taken:
            length = "mm" if c.mm else "unitless"
            unit = {"angle": "deg", "area": "mm2" if c.mm else length}.get(t.kind, length)
            x, y, z = t.spots[0].xyz
            rows.append({
                "name": t.name, "kind": t.kind, "value": t.value, "low": t.value - t.half,
                "high": t.value + t.half, "unit": unit, "along": t.along,
                "along_low": t.along - t.along_half, "along_high": t.along + t.along_half,
                "x": x, "y": y, "z": z, "space": "LPS" if c.mm else "reconstruction",
                "registered": c.state, "tre": tre if tre is not None else "",
                "surface": "weak" if t.weak else "observed",
                "frame": "" if t.frame is None else t.frame, "note": t.text, "run": c.name,
                "run_date": c.date, "version": c.version, "status": c.info.get("status", ""),
                "use": "not for clinical use",
            })  # fmt: skip
        return rows

    def csv(self) -> str:
        """The table as CSV: dot as decimal mark, one row a measurement."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows():
            writer.writerow({k: _plain(v) for k, v in row.items()})
        return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"  # a note must not become a formula in a spreadsheet
    return value
