"""Two runs, or two rounds of one, side by side; one eye for both where they share a space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .case import Case
from .overlay import Overlay
from .surface_layer import SurfaceLayer

if TYPE_CHECKING:
    from .session import Session


def set_beside(session: Session, other: Case | None) -> None:
    """Show `other` in the right half, or give the whole window back (None)."""
    s = session
    if s._compare_layer is not None:
        s.plotter.subplot(0, 1)
        s._compare_layer.remove()
        s.plotter.subplot(0, 0)
        s._compare_layer = None
    s.compared = other
    if other is None or other.surface is None:
        s.compared = None
        s.renderer.SetViewport(0, 0, 1, 1)
        s.other.SetDraw(False)
        s.other.InteractiveOff()
        s.say("One view")
        return
    s.renderer.SetViewport(0, 0, 0.5, 1)
    s.other.SetViewport(0.5, 0, 1, 1)
    s.other.SetDraw(True)
    s.other.InteractiveOn()
    s.plotter.subplot(0, 1)
    layer = SurfaceLayer(s.plotter, other.surface, "compared", "mm" if other.mm else "u")
    colouring = s.colouring if s.colouring in ("photo", "plain", "sigma", "status") else "photo"
    limit = None
    if colouring == "sigma" and s.case.surface is not None and other.mm == s.case.mm:
        from .surface_layer import limits

        limit = limits(s.case.surface.sigma)  # the same colours mean the same on both sides
    layer.colour(colouring, None, limit)
    s.plotter.subplot(0, 0)
    s._compare_layer = layer
    if s._compare_overlay is None:
        s._compare_overlay = Overlay(s.other, other, full=False)
    s._compare_overlay.show(other)
    same_space = other.mm and s.case.mm
    same_run = other.run.path.resolve() == s.case.run.path.resolve()
    if same_space or same_run:
        s.other.SetActiveCamera(s.camera)
        s.reset_view()
        s.say(f"Beside it: {other.name}, {other.source}")
    else:
        camera = s.other.MakeCamera()
        v = other.surface.vertices
        middle, size = (v.min(0) + v.max(0)) / 2, float(np.linalg.norm(np.ptp(v, axis=0)))
        camera.SetFocalPoint(*middle)
        camera.SetPosition(*(middle + 1.9 * size * np.array([0.57, -0.77, 0.42])))
        camera.SetViewUp(0, 0, 1)
        s.other.SetActiveCamera(camera)
        s.say(f"Beside it: {other.name}; the two share no space, so each turns by itself")
    s.other.ResetCameraClippingRange()
    s.changed()
