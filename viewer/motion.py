"""While the hand moves: a scene that is slow to draw gives up smooth edges and detail for a moment.

Software rendering spends most of a picture on multisampling, then on faces. Both come back when the
hand has rested. A graphics card that draws fast enough never sees any of this.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .layers import clip_mapper

if TYPE_CHECKING:
    from .session import Session
    from .surface_layer import SurfaceLayer

SLOW_S = 0.05  # a picture that took longer (below 20 a second) is lightened while turning
REST_S = 0.4  # without a hand on the mouse before the full picture is drawn again
LIGHT_FACES = 120_000  # never a twin below this
COARSE_PX = 4  # a volume's rays are this far apart while the hand moves


class Motion:
    """Whether the scene of a session is light just now, and how long the last picture took."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.window: Any = session.plotter.render_window
        self.last_s = 0.0
        self.light = False
        self._begun, self._rests_since = 0.0, 0.0
        self._held = False
        self._samples = 0
        self.window.AddObserver("StartEvent", self._begin)
        self.window.AddObserver("EndEvent", self._end)

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.last_s = time.perf_counter() - self._begun

    def start(self) -> None:
        """The hand takes hold of the scene."""
        self._held = True
        if not self.light and self.last_s > SLOW_S:
            self._lighten()

    def stop(self) -> None:
        """The hand lets go; the full picture follows when it rests (`tick`)."""
        self._held, self._rests_since = False, time.monotonic()

    def tick(self) -> None:
        """Called by the front door's timer, a few times a second."""
        if self.light and not self._held and time.monotonic() - self._rests_since > REST_S:
            self.settle()
            self.session.render()

    def _lighten(self) -> None:
        self.light = True
        self._samples = self.window.GetMultiSamples()
        self.window.SetMultiSamples(0)
        self._sample_volume(COARSE_PX)
        for layer, seen in self._surfaces():
            if seen and len(layer.surface.faces) > LIGHT_FACES:
                for actor in layer.twin().actors:
                    actor.SetVisibility(True)
                    actor.prop.culling = layer.actors[0].prop.culling
                    actor.prop.opacity = layer.actors[0].prop.opacity
                    clip_mapper(actor.mapper, self.session.layers.clip)
                for actor in layer.actors:
                    actor.SetVisibility(False)

    def settle(self) -> None:
        """Full again (not yet drawn), unless the hand still holds the scene."""
        if not self.light or self._held:
            return
        self.light = False
        self.window.SetMultiSamples(self._samples)
        self._sample_volume(1)
        for layer, seen in self._surfaces():
            for actor in layer.twin().actors if layer.has_twin else ():
                actor.SetVisibility(False)
            for actor in layer.actors:
                actor.SetVisibility(seen)

    def _sample_volume(self, every_px: float) -> None:
        for volume in self.session.layers.all["CT volume"].actors:
            volume.GetMapper().SetImageSampleDistance(every_px)

    def _surfaces(self) -> list[tuple[SurfaceLayer, bool]]:
        s = self.session
        shown = ((s.surface_layer, s.layers.all["surface"].visible), (s._compare_layer, True))
        return [(layer, seen) for layer, seen in shown if layer is not None]
