"""The hands of a session: picking on the surface, the tool in hand, and the files it writes.

Picking is a ray through the full mesh in float64 (never the picture's depth buffer), so a picked
point lies on the surface to rounding; clipped and hidden walls are not hit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EndoreconError
from endorecon.io import atomic

from . import markups
from .measure import Kind, Taken, again
from .mesh import Spot, SurfaceMesh
from .tools import Tools

if TYPE_CHECKING:
    from .case import Case
    from .session import Session

Array = NDArray[Any]
SNAP_PX = (0, 3, 6, 10)  # rings searched round a click that misses
NO_PREVIEW = "A round's preview is not measured: that needs the surface"


class Hands:
    """Tools and picking on what a session shows."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mesh: SurfaceMesh | None = None  # what is shown: for the cursor
        self.tools = Tools(session.case, None)
        self._held: tuple[Taken, ...] = ()  # while a round's preview is on show
        self._measured_on: Any = None
        self.ask_note: Callable[[], str] = lambda: ""  # a front door puts its question here

    def take_over(self, case: Case) -> None:
        """Another case is on show. Measurements wait while it is a preview, and are measured anew
        on a new surface."""
        if self.tools.mesh is not None:
            self._held, self._measured_on = self.tools.taken, self.tools.mesh.surface
        self.mesh = None if case.surface is None else SurfaceMesh(case.surface, case.scale_sigma)
        mesh = self.mesh if case.source == "surface" else None
        self.tools = Tools(case, mesh)
        self.session.overlay.write("tool", "")
        if mesh is not None and self._held:
            old, new = self._measured_on.vertices, mesh.surface.vertices
            same = old.shape == new.shape and bool(np.array_equal(old, new))
            kept = self._held if same else tuple(again(t, mesh) for t in self._held)
            self.tools.adopt(tuple(t for t in kept if t is not None))

    def ray(self, x: float, y: float) -> tuple[Array, Array]:
        """The segment (near, far) under a point of the window (origin below left)."""
        ends = []
        for depth in (0.0, 1.0):
            self.session.renderer.SetDisplayPoint(x, y, depth)
            self.session.renderer.DisplayToWorld()
            p = np.array(self.session.renderer.GetWorldPoint())
            ends.append(p[:3] / p[3])
        return ends[0], ends[1]

    def pick(self, x: float, y: float) -> Spot | None:
        """The surface under the mouse, or a few pixels beside it; clipped parts are not hit."""
        if self.mesh is None:
            return None
        for r in SNAP_PX:
            found = []
            for angle in np.linspace(0, 2 * np.pi, 12 if r else 1, endpoint=False):
                a, b = self.ray(x + r * np.cos(angle), y + r * np.sin(angle))
                spot = self.mesh.ray(a, b, lambda p, f, w=b - a: self._seen(p, f, w))  # type: ignore[misc]
                if spot is not None:
                    found.append((float(np.linalg.norm(np.array(spot.xyz) - a)), spot))
            if found:
                return min(found, key=lambda f: f[0])[1]
        return None

    def _behind_slice(self, x: float, y: float, spot: Spot) -> bool:
        """Whether a shown, opaque CT slice lies between the eye and the spot."""
        layer = self.session.layers.all["CT slices"]
        if not layer.visible or layer.opacity < 0.6:
            return False
        a, b = self.ray(x, y)
        reach = float(np.linalg.norm(np.array(spot.xyz) - a))
        for actor in layer.actors:
            low, high = np.array(actor.GetBounds()).reshape(3, 2).T
            k = int(np.argmin(high - low))
            if abs(b[k] - a[k]) < 1e-9:
                continue
            p = a + (low[k] - a[k]) / (b[k] - a[k]) * (b - a)
            inside = np.delete((p >= low) & (p <= high), k).all()
            near = float((p - a) @ (b - a)) > 0 and float(np.linalg.norm(p - a)) < reach - 1e-3
            if inside and near and self.session.layers.clip.keeps(p):
                return True
        return False

    def _seen(self, p: Array, face: int, way: Array) -> bool:
        if not self.session.layers.clip.keeps(p):
            return False
        if not self.session.inside or self.session.case.surface is None:
            return True
        a, b, c = self.session.case.surface.vertices[self.session.case.surface.faces[face]]
        return bool((np.cross(b - a, c - a) @ way < 0) == self.session.faces_look_in())

    def click(self, x: float, y: float) -> None:
        """A click in the scene: a spot for the tool in hand."""
        if self.tools.kind is None:
            return
        if self.session.compared is not None:
            self.session.say("Measure with one run in view (v)", bad=True)
            return
        spot = self.pick(x, y)
        if spot is None:
            self.session.say("There is no surface here", bad=True)
            return
        if self._behind_slice(x, y, spot):
            self.session.say("A CT slice hides the surface here: hide it (g) or turn", bad=True)
            return
        self.place(spot, self.ask_note() if self.tools.kind == "note" else "")

    def click_frame(self, u: float, v: float) -> None:
        """A click in the video frame at pixel (u, v): the place in the scene."""
        spot = self.session.scope.spot_at(u, v)
        if spot is None:
            self.session.say("This pixel sees no surface", bad=True)
            return
        if self.tools.mesh is None:
            self.session.set_cursor(np.array(spot.xyz))
            return
        if self.tools.kind is None:
            self.tools.choose("point")
        self.place(spot, frame=self.session.scope.frame_index)

    def place(self, spot: Spot, text: str = "", frame: int | None = None) -> Taken | None:
        """Give a spot to the tool in hand and say what came of it."""
        try:
            done = self.tools.place(spot, text, frame)
        except EndoreconError as error:
            self.session.layers.refresh("measurements")
            self.session.say(str(error), bad=True)
            return None
        self.session.set_cursor(np.array(spot.xyz), quiet=True)
        self._measured(done)
        return done

    def _measured(self, done: Taken | None) -> None:
        self.session.layers.refresh("measurements")
        if done is None:
            self.session.say(f"{len(self.tools.pending)} picked")
            return
        words = f"{done.name}: {self.tools.value_text(done)}"
        along = self.tools.along_text(done)
        words += f" · along {along}" if along else ""
        words += " · on weak surface" if done.weak else ""
        words += f" · {done.text}" if done.kind == "area" and done.text else ""
        self.session.say(f"{words} · {self.session.case.state}")

    def use(self, kind: Kind | None) -> None:
        """Take up a tool, None lays it down."""
        if kind is not None and self.tools.mesh is None:
            self.session.say(NO_PREVIEW, bad=True)
            return
        hint = self.tools.choose(kind)
        self.session.overlay.write("tool", f" {hint} " if hint else "")
        self.session.layers.refresh("measurements")
        self.session.say(hint)

    def close_outline(self) -> None:
        """Close the ostium outline."""
        try:
            done = self.tools.close()
        except EndoreconError as error:
            self.session.say(str(error), bad=True)
            return
        if done is None:
            self.session.say("An outline needs at least three points", bad=True)
            return
        self._measured(done)

    def undo(self) -> None:
        """One step back."""
        words = "Undone" if self.tools.undo() else "Nothing to undo"
        self.session.layers.refresh("measurements")
        self.session.say(words)

    @property
    def folder(self) -> Path:
        """Where the viewer writes when no other place is named."""
        return self.session.case.run.path / "viewer"

    def save(self, path: Path | None = None) -> Path | None:
        """Write the measurements as .mrk.json."""
        return self._write(path, "measurements.mrk.json", lambda f: markups.save(
            f, self.tools.taken, self.session.case))  # fmt: skip

    def load(self, path: Path | None = None) -> None:
        """Read measurements from .mrk.json and measure them anew on this surface."""
        if self.tools.mesh is None:
            self.session.say(NO_PREVIEW, bad=True)
            return
        file = path or self.folder / "measurements.mrk.json"
        try:
            taken, left_out = markups.load(file, self.session.case, self.tools.mesh)
        except EndoreconError as error:
            self.session.say(str(error), bad=True)
            return
        self.tools.adopt(taken)
        self.session.layers.refresh("measurements")
        said = [f"{len(taken)} measurements loaded", *left_out[:2]]
        self.session.say(" · ".join(said), bad=bool(left_out))

    def export_csv(self, path: Path | None = None) -> Path | None:
        """Write the table of measurements."""
        text = self.tools.csv().encode()
        return self._write(path, "measurements.csv", lambda f: atomic.write_bytes(f, text))

    def screenshot(self, path: Path | None = None) -> Path | None:
        """Write the view as PNG."""
        from .headless import write_picture

        return self._write(path, "view.png", lambda f: write_picture(self.session, f))

    def _write(self, path: Path | None, name: str, write: Callable[[Path], None]) -> Path | None:
        file = path or self.folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file)
        except (EndoreconError, OSError) as error:
            self.session.say(f"Could not be written ({error})", bad=True)
            return None
        self.session.say(f"Written: {file}")
        return file

    def turntable(self, path: Path | None = None) -> Path | None:
        """Write one turn of the view as MP4."""
        from .headless import write_turntable

        return self._write(path, "turntable.mp4", lambda f: write_turntable(self.session, f))

    def annotate(self, name: str, text: str) -> None:
        """Write a note to a measurement."""
        self.tools.annotate(name, text)
        self._redraw(f"{name}: {text}")

    def remove(self, name: str) -> None:
        """Take a measurement away."""
        self.tools.remove(name)
        self._redraw(f"{name} removed")

    def _redraw(self, words: str) -> None:
        self.session.layers.refresh("measurements")
        self.session.say(words)
