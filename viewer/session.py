"""One session: a case, its layers and tools, the eye, and what is said to the user.

The three front doors (Qt, browser, picture) call the same methods and read the same state; each
appends a function to `listeners`, called after a change, and `render` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EndoreconError, UsageError

from .case import Case, open_case
from .ct_layers import CtLayers
from .drawing import draw
from .eye import add_path, clip_planes, look_from
from .hands import Hands
from .labels import Placement
from .layers import Clip, Layers
from .legend import Legend
from .motion import Motion
from .overlay import Overlay
from .rounds import Rounds
from .scope import Scope
from .slices import WINDOWS, bounds, picture, point_in
from .style import BACKGROUND
from .surface_layer import COLOURINGS, SurfaceLayer, depth_in, faces_towards, limits

Array = NDArray[Any]


def make_plotter(size: tuple[int, int] = (1400, 900), off_screen: bool = True) -> Any:
    """A pyvista plotter with the two views a session needs."""
    import pyvista as pv

    return pv.Plotter(off_screen=off_screen, window_size=list(size), shape=(1, 2), border=False)


class Session:
    """All that the viewer does to one run (and perhaps a second beside it)."""

    def __init__(self, plotter: Any, case: Case, ct: Path | None = None) -> None:
        self.plotter = plotter
        self.listeners: list[Callable[[], None]] = []
        self.on_render: Callable[[], None] = lambda: None  # until all is in place
        self.message, self.bad = "", False
        self.case = case
        self.colouring, self.inside = "photo", False
        self.window = next(iter(WINDOWS))
        self.clip_mode, self.clip_at = "off", 0.5
        self.box = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
        self.ct: CtLayers | None = None
        self._ct_path = ct
        self._ct_distance: Array | None = None
        self._towards: bool | None = None
        self.renderer, self.other = plotter.renderers[0], plotter.renderers[1]
        for renderer in (self.renderer, self.other):
            renderer.set_background(BACKGROUND)
            renderer.camera_set = True  # pyvista would move the eye at the first picture
        self.compared: Case | None = None
        self._compare_layer: SurfaceLayer | None = None
        self._compare_overlay: Overlay | None = None
        self.renderer.SetViewport(0, 0, 1, 1)
        self.other.SetDraw(False)
        self.other.InteractiveOff()  # or it would take the mouse in the right half
        self.overlay = Overlay(self.renderer, case)
        self.legend = Legend(self.renderer)
        self.labels = Placement(self.renderer)
        self.layers = Layers(plotter)
        self.scope = Scope(self)
        self.rounds = Rounds(self)
        self.motion = Motion(self)
        self.surface_layer: SurfaceLayer | None = None
        self.cursor = np.zeros(3)
        self.hands = Hands(self)
        self._add_layers()
        self._take_case(case)
        self.reset_view()
        self.renderer.AddObserver("StartEvent", lambda *_: self.scope.resized())
        for note in case.notes[:1]:
            self.say(note)
        # pyvista's own render does nothing off-screen before its first picture.
        off = bool(getattr(plotter, "off_screen", False))
        self.draw_now = plotter.render_window.Render if off else plotter.render
        self.on_render = self.draw_now

    # -- what is shown ---------------------------------------------------------------------------

    @property
    def camera(self) -> Any:
        return self.renderer.GetActiveCamera()

    @property
    def diagonal(self) -> float:
        if self.case.surface is None:
            return 1.0
        v = self.case.surface.vertices
        return float(np.linalg.norm(v.max(0) - v.min(0)))

    def _add_layers(self) -> None:
        L, no_ct = self.layers, ""
        if self._ct_path is None:
            no_ct = "No CT was given (--ct PATH)"
        elif not self.case.mm:
            no_ct = f"The CT is not shown beside the reconstruction ({self.case.why_no_mm})"
        L.add("surface", lambda: [], visible=True)
        L.add("camera path", self._build_path, visible=False, clipped=False)
        L.add("video frame", self.scope.quad, visible=True, clipped=False, fades=False)
        drawn = lambda: draw(self.plotter, self.hands.tools)  # noqa: E731
        L.add("measurements", drawn, visible=True, clipped=False, fades=False)
        L.add("landmarks", self._build_landmarks, clipped=False, fades=False)
        ct = {
            "CT slices": lambda c: c.add_slices(self.plotter, self.cursor, self.window),
            "CT volume": lambda c: c.add_volume(self.plotter, self.window),
            "CT bone": lambda c: c.add_bone(self.plotter),
            "CT air-tissue surface": lambda c: c.add_air(self.plotter),
        }
        for name, build in ct.items():
            opacity = 0.35 if name == "CT air-tissue surface" else 1.0
            L.add(name, lambda b=build: b(self.ct), opacity=opacity, why_not=no_ct)  # type: ignore[misc]

    def _take_case(self, case: Case) -> None:
        """Show a case (at the start, after a new round): surface, path, measurements."""
        self.case = case
        self.overlay.show(case)
        self._towards, self._ct_distance = None, None
        if self.surface_layer is not None:
            self.surface_layer.remove()
            self.surface_layer = None
        self.hands.take_over(case)
        if case.surface is not None:
            self.surface_layer = SurfaceLayer(
                self.plotter, case.surface, "surface", "mm" if case.mm else "u"
            )
            if not self.cursor.any():
                self.cursor = case.surface.vertices.mean(0)
            self.colour(self.colouring if self.colouring != "ct" else "photo")
        self.scope.k = min(self.scope.k, max(self.scope.count - 1, 0))
        for name in ("camera path", "landmarks", "measurements"):
            self.layers.refresh(name)

    def show(self, name: str, visible: bool) -> None:
        """Show or hide a layer; a layer that cannot be shown says why."""
        try:
            if visible and name.startswith("CT") and not self.layers.all[name].why_not:
                self._open_ct()
            refusal = self.layers.show(name, visible)
        except EndoreconError as error:
            refusal = error.what
        if refusal:
            self.say(refusal, bad=True)
        self.changed()

    def fade(self, name: str, opacity: float) -> None:
        """Opacity of a layer, 0..1."""
        self.layers.fade(name, opacity)
        self.changed()

    def _open_ct(self) -> CtLayers:
        if self.ct is None:
            assert self._ct_path is not None
            self.say("Reading the CT ...")
            self.ct = CtLayers(self._ct_path, self.case.surface if self.case.mm else None)
            self.say(self.ct.notes[0] if self.ct.notes else "CT read")
        return self.ct

    def colour(self, colouring: str) -> None:
        """Colour the surface in one of COLOURINGS; refuses, with a sentence, what it cannot."""
        layer = self.surface_layer
        if colouring not in COLOURINGS:
            raise UsageError(f"Unknown colouring {colouring}", f"choose of {', '.join(COLOURINGS)}")
        if layer is None or self.case.surface is None:
            self.colouring = colouring
            return
        values = None
        try:
            if colouring == "ct":
                values = self._distance_to_ct()
            elif colouring == "depth":
                cameras = self.case.cameras
                if cameras is None or not self.scope.count:
                    raise UsageError("The run has no poses yet, so there is no depth to show")
                values = depth_in(self.case.surface, cameras.world_from_camera[self.scope.k])
        except EndoreconError as error:
            self.say(error.what, bad=True)
            return
        self.colouring = colouring
        layer.colour(colouring, values)
        self.layers.refresh("surface", layer.actors)
        self._cull()
        shown = self.case.surface.sigma if colouring == "sigma" else values
        self.legend.show(colouring, None if shown is None else limits(shown), self.case)
        self.changed()

    def _distance_to_ct(self) -> Array:
        refusal = self.layers.all["CT air-tissue surface"].why_not
        if refusal:
            raise UsageError(refusal)
        if self._ct_distance is None:
            assert self.case.surface is not None
            self._ct_distance = self._open_ct().distance(self.case.surface.vertices)
        return self._ct_distance

    def look_inside(self, inside: bool) -> None:
        """Hide the walls that turn their outside to the eye, so that the cavity lies open."""
        self.inside = inside
        self._cull()
        self.changed()

    def _cull(self) -> None:
        if self.surface_layer is None:
            return
        for actor in self.surface_layer.actors:
            actor.prop.culling = "none" if not self.inside else (
                "back" if self.faces_look_in() else "front"
            )  # fmt: skip

    def faces_look_in(self) -> bool:
        if self._towards is None:
            cameras, surface = self.case.cameras, self.case.surface
            known = cameras is not None and surface is not None and self.scope.count
            self._towards = (
                faces_towards(surface, cameras.world_from_camera[:, :3, 3])  # type: ignore[union-attr,arg-type]
                if known
                else True
            )
        return self._towards

    def set_clip(self, mode: str, at: float | None = None, box: list[float] | None = None) -> None:
        """Clip: "off", "view" (a plane facing the eye), "x", "y", "z" (planes of LPS), "box"."""
        self.clip_mode = mode
        self.clip_at = self.clip_at if at is None else float(np.clip(at, 0, 1))
        self.box = self.box if box is None else [float(b) for b in box]
        planes = clip_planes(self.case.surface, self.camera, mode, self.clip_at, self.box)
        self.layers.cut(Clip(tuple(planes)))
        self.changed()

    def _build_path(self) -> list[Any]:
        return add_path(self.plotter, self.case.cameras, self.scope.k, self.diagonal)

    def _build_landmarks(self) -> list[Any]:
        from .landmarks import add_landmarks

        actors, words = add_landmarks(self.plotter, self.case)
        if words:
            self.say(words)
        return actors

    # -- the eye ---------------------------------------------------------------------------------

    def reset_view(self, way: str = "") -> None:
        """See everything; `way` looks from a side: one of L R A P S I (axes when unregistered)."""
        self.scope.flying = False
        v = None if self.case.surface is None else self.case.surface.vertices
        if (
            v is not None
            and self.case.cameras is not None
            and self.layers.all["camera path"].visible
        ):
            thin = v[:: max(1, len(v) // 10_000)]
            v = np.concatenate([thin, self.case.cameras.world_from_camera[:, :3, 3]])
        look_from(self.camera, v, self.renderer.GetSize(), way)
        self.renderer.ResetCameraClippingRange()
        self.frame_moved()

    def frame_moved(self) -> None:
        """After the current frame, the blend or the flight has changed."""
        self.layers.refresh("video frame")
        if self.layers.all["camera path"].visible:
            self.layers.refresh("camera path")
        if self.colouring == "depth":
            self.colour("depth")
        self.renderer.ResetCameraClippingRange()
        self.changed()

    def tick(self) -> None:
        """Called by the front door's timer, a few times a second."""
        self.motion.tick()
        self.rounds.tick()

    def render(self) -> None:
        self.on_render()

    def changed(self) -> None:
        """Draw, and tell the panels."""
        self.motion.settle()
        self.render()
        for listener in self.listeners:
            listener()

    def say(self, words: str, bad: bool = False) -> None:
        """A sentence at the foot of the view; refusals are red."""
        from .style import RED, WHITE

        self.message, self.bad = words, bad
        self.overlay.write("message", f" {words} " if words else "", RED if bad else WHITE)
        self.changed()

    # -- the cursor of the slices -----------------------------------------------------------------

    def point_cursor(self, x: float, y: float) -> None:
        """The slices jump to the surface under the mouse."""
        spot = self.hands.pick(x, y)
        if spot is not None:
            self.set_cursor(np.array(spot.xyz))

    def set_cursor(self, p: Array, quiet: bool = False) -> None:
        """Move the slices to a point of the display space."""
        self.cursor = np.asarray(p, float)
        if self.layers.all["CT slices"].visible:
            self.layers.refresh("CT slices")
        if not quiet:
            self.changed()

    def slice_picture(self, name: str, size: int = 300) -> Array | None:
        """A CT slice at the cursor as RGB, None without a (registered) CT."""
        if self._ct_path is None or self.layers.all["CT slices"].why_not:
            return None
        volume = self._open_ct().volume if self.ct is None else self.ct.volume
        if volume is None:
            return None
        low, high = bounds(volume)
        return picture(volume, name, np.clip(self.cursor, low, high), self.window, size)

    def cursor_from_slice(self, name: str, u: float, v: float, size: int = 300) -> None:
        """A click at pixel (u, v) of a slice picture moves the cursor there."""
        if self.ct is not None and self.ct.volume is not None:
            self.set_cursor(point_in(self.ct.volume, name, self.cursor, u, v, size))

    def set_window(self, window: str) -> None:
        """Choose the CT window preset."""
        self.window = window
        for name in ("CT slices", "CT volume"):
            if self.layers.all[name].built:
                self.layers.refresh(name)
        self.changed()

    # -- another run or round ---------------------------------------------------------------------

    def show_round(self, round_: int | None) -> None:
        """Show one round's preview in place of the surface (None: the surface again)."""
        try:
            case = open_case(self.case.run.path, round_, waiting=True)
        except EndoreconError as error:
            self.say(error.what, bad=True)
            return
        self._take_case(case)
        self.say(f"Shown: {case.source}")

    def compare(self, other: Case | None) -> None:
        """Put another run or round beside this one (None: one view again)."""
        from .compare import set_beside

        set_beside(self, other)

    def toggle_compare(self) -> None:
        """The last round beside what is shown, or one view again."""
        if self.compared is not None:
            self.compare(None)
            return
        rounds = self.rounds.all
        if not rounds:
            self.say("The run has no round to compare with", bad=True)
            return
        try:
            self.compare(open_case(self.case.run.path, rounds[0]))
        except EndoreconError as error:
            self.say(error.what, bad=True)


def prepare(session: Session, colour: str, frame: int | None, other: Case | None) -> None:
    """What the command line asked for at the start."""
    if colour != "photo":
        session.colour(colour)
    if frame is not None:
        session.scope.to_frame(frame)
        session.scope.fly()
    if other is not None:
        session.compare(other)
