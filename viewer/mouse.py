"""The mouse as in 3D Slicer: left turns, middle (or shift + left) moves, right or wheel zooms.

Pulling the right button down zooms in, pushing up zooms out (VTK does it the other way round).
A click without a drag picks with the tool in hand; shift + click, or shift and moving, sets the
cursor of the slices. The same observers serve Qt, trame and tests: they sit on VTK's interactor.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session

STILL_PX = 4  # a press and release this near is a click
EVERY_S = 0.06  # between two cursor moves


class Mouse:
    """Observers on the interactor of a session's window."""

    def __init__(self, session: Session, interactor: Any) -> None:
        from vtkmodules.vtkInteractionStyle import vtkInteractorStyleTrackballCamera

        self.session, self.iren = session, interactor
        self._down: tuple[int, int] | None = None
        self._zoom_from: int | None = None
        self._last = 0.0
        style: Any = vtkInteractorStyleTrackballCamera()
        self.style = style
        style.AddObserver("RightButtonPressEvent", self._right_down)
        style.AddObserver("RightButtonReleaseEvent", self._right_up)
        style.AddObserver("CharEvent", lambda *_: None)  # VTK's letter keys are not ours
        style.AddObserver("KeyPressEvent", lambda *_: None)
        style.AddObserver("StartInteractionEvent", lambda *_: session.motion.start())
        style.AddObserver("EndInteractionEvent", lambda *_: session.motion.stop())
        interactor.SetInteractorStyle(self.style)
        # On the style, not on the interactor: while it turns, the style has all events for itself.
        style.AddObserver("LeftButtonPressEvent", self._left_down)
        style.AddObserver("LeftButtonReleaseEvent", self._left_up)
        style.AddObserver("MouseMoveEvent", self._move)
        for wheel in ("MouseWheelForwardEvent", "MouseWheelBackwardEvent"):
            interactor.AddObserver(wheel, lambda *_: session.scope.loosen(), 1.0)

    def _left_down(self, *_: Any) -> None:
        self._down = self.iren.GetEventPosition()
        self.style.OnLeftButtonDown()

    def _left_up(self, *_: Any) -> None:
        down, self._down = self._down, None
        self.style.OnLeftButtonUp()
        x, y = self.iren.GetEventPosition()
        if down is None or abs(x - down[0]) > STILL_PX or abs(y - down[1]) > STILL_PX:
            return
        if self.iren.GetShiftKey():
            self.session.point_cursor(x, y)
        else:
            self.session.hands.click(x, y)

    def _move(self, *_: Any) -> None:
        x, y = self.iren.GetEventPosition()
        if self._zoom_from is not None:
            self._zoom(y)
        elif self._down is None and self.iren.GetShiftKey():
            if time.monotonic() - self._last > EVERY_S:
                self._last = time.monotonic()
                self.session.point_cursor(x, y)
        elif self._down is not None:
            far = max(abs(x - self._down[0]), abs(y - self._down[1])) > STILL_PX
            if far:
                self.session.scope.loosen()
                self.style.OnMouseMove()
        else:  # the middle button moves
            self.style.OnMouseMove()

    def _right_down(self, *_: Any) -> None:
        self._zoom_from = self.iren.GetEventPosition()[1]
        self.session.motion.start()

    def _right_up(self, *_: Any) -> None:
        self._zoom_from = None
        self.session.motion.stop()

    def _zoom(self, y: int) -> None:
        assert self._zoom_from is not None
        self.session.scope.loosen()
        camera = self.session.camera
        camera.Dolly(1.01 ** (self._zoom_from - y))
        self._zoom_from = y
        self.session.renderer.ResetCameraClippingRange()
        self.session.render()
