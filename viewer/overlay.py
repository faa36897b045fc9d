"""What is written over the scene: title, state, scale bar, orientation, message, keys.

Letters and cube are shown only in LPS: L is +x, P is +y, S is +z. The scale bar holds at the
depth of the focus (perspective has no other scale), which is said beside it. Sizes follow the
height of the window, so that a projector shows the same as a laptop.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import Case
from .style import AMBER, BACKGROUND, FONT, GREY, WHITE, YELLOW, unit_color

Array = NDArray[Any]
LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))  # of +x -x, +y -y, +z -z in LPS


def letters_of(direction: Array) -> str:
    """Orientation letters of a direction in LPS: the main one, and a second where it is oblique."""
    size = np.abs(direction) / max(float(np.linalg.norm(direction)), 1e-12)
    order = np.argsort(-size)
    named = [LETTERS[k][0 if direction[k] >= 0 else 1] for k in order if size[k] > 0.42]
    return "".join(named[:2])


def nice_length(target: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above the target."""
    power = 10.0 ** np.floor(np.log10(max(target, 1e-12)))
    return float(max(m * power for m in (1, 2, 5) if m * power <= target * (1 + 1e-9)))


class Overlay:
    """The writing over one renderer; `update` runs before each picture."""

    def __init__(self, renderer: Any, case: Case, full: bool = True) -> None:
        self.renderer, self.case, self.full = renderer, case, full
        self.scale: tuple[float, float] = (0.0, 0.0)  # length shown, pixels
        self._texts: dict[str, tuple[Any, float]] = {}
        self._size = (0, 0)
        self._message = ""
        self._put("title", "", 0.012, 0.988, 33, WHITE, "left", "top")
        self._put("state", "", 0.012, 0.940, 33, WHITE, "left", "top")
        self._put("clinical", "NOT FOR CLINICAL USE", 0.988, 0.988, 31, AMBER, "right", "top")
        self._bar: Any = None
        self._bar_points: Any = None
        self._cube: Any = None
        if full:
            self._put("message", "", 0.5, 0.022, 31, WHITE, "centre", "bottom")
            self._put("tool", "", 0.988, 0.935, 31, YELLOW, "right", "top")
            self._put("help", "", 0.5, 0.5, 38, WHITE, "centre", "centre")
            for name, x, y in (("left", 0.012, 0.5), ("right", 0.988, 0.5), ("top", 0.5, 0.845),
                               ("bottom", 0.5, 0.125)):  # fmt: skip
                sides = {"left": "left", "right": "right"}
                self._put(name, "", x, y, 22, WHITE, sides.get(name, "centre"), "centre")
            self._put("scale", "", 0.02, 0.115, 33, WHITE, "left", "bottom")
            self._add_bar()
            self._add_cube()
        self.show(case)
        renderer.AddObserver("StartEvent", lambda *_: self.update())

    def show(self, case: Case) -> None:
        """Write title and state of a case."""
        self.case = case
        source = "" if case.source == "surface" else f" · {case.source}"
        self.write("title", f"{case.name}{source} · {case.date} · {case.version}"
                            f" · {case.info.get('status', '?')}")  # fmt: skip
        self.write("state", case.state, WHITE if case.mm else AMBER)
        self._size = (0, 0)  # fit them again

    def write(self, name: str, text: str, color: str | None = None) -> None:
        """Change one of the texts; a long message is broken into lines."""
        actor = self._texts[name][0]
        if name == "message":
            self._message = text
            size = actor.GetTextProperty().GetFontSize()
            columns = max(20, int(0.72 * self._size[0] / (0.58 * size)))
            text = "\n".join(textwrap.wrap(text, columns))
        actor.SetInput(text)
        actor.SetVisibility(bool(text))
        if color is not None:
            actor.GetTextProperty().SetColor(*unit_color(color))

    @property
    def helping(self) -> bool:
        return bool(self._texts["help"][0].GetVisibility())

    def help(self, text: str) -> None:
        """Show the keys ("" hides them)."""
        self.write("help", text)

    def _put(
        self, name: str, text: str, x: float, y: float, share: float, color: str, side: str,
        level: str,
    ) -> None:  # fmt: skip
        from vtkmodules.vtkRenderingCore import vtkTextActor

        actor = vtkTextActor()
        actor.SetInput(text)
        actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        actor.SetPosition(x, y)
        dress(actor.GetTextProperty(), color)
        p = actor.GetTextProperty()
        {"left": p.SetJustificationToLeft, "right": p.SetJustificationToRight,
         "centre": p.SetJustificationToCentered}[side]()  # fmt: skip
        {"top": p.SetVerticalJustificationToTop, "bottom": p.SetVerticalJustificationToBottom,
         "centre": p.SetVerticalJustificationToCentered}[level]()  # fmt: skip
        if name == "help":  # columns
            p.SetFontFile(FONT.replace("DejaVuSans.ttf", "DejaVuSansMono.ttf"))
            p.SetJustificationToLeft()
            actor.SetPosition(0.04, 0.5)
        p.SetBackgroundColor(*unit_color(BACKGROUND))  # it must read over a bright wall, too
        p.SetBackgroundOpacity({"help": 0.96, "message": 0.86, "tool": 0.86}.get(name, 0.6))
        actor.SetVisibility(bool(text))
        self.renderer.AddViewProp(actor)
        self._texts[name] = (actor, share)

    def _add_bar(self) -> None:
        from vtkmodules.vtkCommonCore import vtkPoints
        from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
        from vtkmodules.vtkRenderingCore import vtkActor2D, vtkPolyDataMapper2D

        self._bar_points = vtkPoints()
        self._bar_points.SetNumberOfPoints(6)
        lines = vtkCellArray()
        for a, b in ((0, 1), (2, 3), (4, 5)):
            lines.InsertNextCell(2)
            lines.InsertCellPoint(a)
            lines.InsertCellPoint(b)
        data = vtkPolyData()
        data.SetPoints(self._bar_points)
        data.SetLines(lines)
        mapper = vtkPolyDataMapper2D()
        mapper.SetInputData(data)
        self._bar = vtkActor2D()
        self._bar.SetMapper(mapper)
        self._bar.GetProperty().SetLineWidth(3)
        self._bar.GetProperty().SetColor(*unit_color(WHITE))
        self.renderer.AddViewProp(self._bar)

    def _add_cube(self) -> None:
        """A cube with the six letters, in a renderer of its own in the corner."""
        from vtkmodules.vtkRenderingAnnotation import vtkAnnotatedCubeActor
        from vtkmodules.vtkRenderingCore import vtkRenderer

        cube = vtkAnnotatedCubeActor()
        for k, axis in enumerate("XYZ"):
            getattr(cube, f"Set{axis}PlusFaceText")(LETTERS[k][0])
            getattr(cube, f"Set{axis}MinusFaceText")(LETTERS[k][1])
        cube.SetFaceTextScale(0.62)
        cube.GetCubeProperty().SetColor(*unit_color("#2f5d7c"))
        cube.GetTextEdgesProperty().SetOpacity(0)
        for face in ("XPlus", "XMinus", "YPlus", "YMinus", "ZPlus", "ZMinus"):
            getattr(cube, f"Get{face}FaceProperty")().SetColor(1, 1, 1)
        # So the letters stand upright: superior up from the sides, anterior up from above.
        cube.SetXFaceTextRotation(0)
        cube.SetYFaceTextRotation(0)
        cube.SetZFaceTextRotation(90)
        corner = vtkRenderer()
        corner.SetViewport(0.875, 0.0, 1.0, 0.19)
        corner.SetLayer(1)
        corner.InteractiveOff()
        corner.AddViewProp(cube)
        self._cube = corner
        window = self.renderer.GetRenderWindow()
        window.SetNumberOfLayers(2)
        window.AddRenderer(corner)

    def update(self) -> None:
        """Before each picture: font sizes, scale bar, letters, cube."""
        W, H = self.renderer.GetSize()
        if min(W, H) <= 1:
            return
        if self._size != (W, H):
            self._size = (W, H)
            for actor, share in self._texts.values():
                size = H / share * min(1, W / H / 0.95)
                actor.GetTextProperty().SetFontSize(max(11, round(size)))
            if self.full:  # the keys must fit, and a sentence breaks before it runs out
                p = self._texts["help"][0].GetTextProperty()
                p.SetFontSize(max(9, int(min(H / 36, W / 62))))
                self.write("message", self._message)
            narrow = W < 1.15 * H  # beside another view
            p = self._texts["clinical"][0].GetTextProperty()
            (p.SetJustificationToLeft if narrow else p.SetJustificationToRight)()
            self._texts["clinical"][0].SetPosition(*((0.012, 0.89) if narrow else (0.988, 0.988)))
            self._fit_title(0.97 * W if narrow else 0.62 * W)
        if not self.full:
            return
        camera = self.renderer.GetActiveCamera()
        self._update_bar(camera, W, H)
        lps = self.case.mm
        toward = np.array(camera.GetFocalPoint()) - np.array(camera.GetPosition())
        forward = toward / max(float(np.linalg.norm(toward)), 1e-12)
        right = np.cross(forward, np.array(camera.GetViewUp()))
        right /= max(float(np.linalg.norm(right)), 1e-12)
        up = np.cross(right, forward)
        lps = lps and not self.helping
        for name, way in (("left", -right), ("right", right), ("top", up), ("bottom", -up)):
            self.write(name, letters_of(way) if lps else "")
        self._cube.SetDraw(bool(lps))
        view = self._cube.GetActiveCamera()
        view.SetFocalPoint(0, 0, 0)
        view.SetPosition(*(-4.6 * forward))
        view.SetViewUp(*up)
        self._cube.ResetCameraClippingRange()

    def _fit_title(self, width: float) -> None:
        """Title and state in smaller letters where they would run into what stands beside them."""
        for name in ("title", "state"):
            actor, _ = self._texts[name]
            bounds, p = [0.0] * 4, actor.GetTextProperty()
            actor.GetBoundingBox(self.renderer, bounds)
            long = bounds[1] - bounds[0]
            if long > width:
                p.SetFontSize(max(9, int(p.GetFontSize() * width / long)))

    def _update_bar(self, camera: Any, W: int, H: int) -> None:
        half = np.tan(np.radians(camera.GetViewAngle()) / 2) * camera.GetDistance()
        per_pixel = 2 * half / max(H, 1)
        length = nice_length(0.2 * W * per_pixel)
        pixels = length / per_pixel
        self.scale = (length, pixels)
        x, y, tick = 0.02 * W, 0.098 * H, 0.008 * H
        ends = [(x, y), (x + pixels, y), (x, y - tick), (x, y + tick), (x + pixels, y - tick),
                (x + pixels, y + tick)]  # fmt: skip
        for k, (u, v) in enumerate(ends):
            self._bar_points.SetPoint(k, u, v, 0)
        self._bar_points.Modified()
        unit = "mm" if self.case.mm else "u"
        self.write("scale", f"{length:g} {unit} at the focus", WHITE if self.case.mm else GREY)


def dress(p: Any, color: str, size: int = 16) -> None:
    """The one typeface, with a shadow so that it reads over anything."""
    from vtkmodules.vtkRenderingCore import vtkTextProperty  # noqa: F401  (registers the factory)

    p.SetFontFamily(4)  # VTK_FONT_FILE
    p.SetFontFile(FONT)
    p.SetFontSize(size)
    p.SetColor(*unit_color(color))
    p.SetShadow(True)
    p.SetShadowOffset(1, -1)
