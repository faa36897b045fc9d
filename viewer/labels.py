"""Labels of places in the scene: moved apart on the screen, each tied to its place by a thin line.

A label is a text actor with an `anchor` (3,) in the scene. Before each picture they are placed one
after the other: the nearest free spot beside the anchor, inside the view and off its writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .overlay import dress
from .style import BACKGROUND, GREY, unit_color

Array = NDArray[Any]
GAP = 14.0  # pixels between a place and its label
PAD = 4.0  # pixels between two labels
SHARE = 36  # a label's letters are this part of the window's height
Box = tuple[float, float, float, float]  # left, bottom, right, top


def label(plotter: Any, words: str, at: Any, color: str) -> Any:
    """A text actor for a place of the scene, in the first renderer."""
    from vtkmodules.vtkRenderingCore import vtkTextActor

    actor: Any = vtkTextActor()
    actor.SetInput("\n".join(f" {line} " for line in words.split("\n")))
    actor.anchor = tuple(float(v) for v in at)
    p = actor.GetTextProperty()
    dress(p, color, max(13, plotter.render_window.GetSize()[1] // SHARE))
    p.SetBackgroundColor(*unit_color(BACKGROUND))
    p.SetBackgroundOpacity(0.86)
    p.SetJustificationToLeft()
    p.SetVerticalJustificationToBottom()
    plotter.renderers[0].AddViewProp(actor)
    return actor


def free_place(anchor: Array, size: Array, taken: Sequence[Box], view: Box) -> Box:
    """Where a label (w, h) goes: the candidate nearest to its anchor (2,) that touches nothing."""
    w, h = size
    steps = range(14)
    best: tuple[float, float, Box] | None = None
    for k in steps:
        for way in (1, -1) if k else (1,):
            for left in (anchor[0] + GAP, anchor[0] - GAP - w, anchor[0] - w / 2):
                low = anchor[1] - h / 2 + way * k * (0.5 * h + PAD)
                x = float(np.clip(left, view[0], max(view[2] - w, view[0])))
                y = float(np.clip(low, view[1], max(view[3] - h, view[1])))
                box = (x, y, x + w, y + h)
                on_it = _over(box, (*(anchor - 8.0), *(anchor + 8.0)))
                covers = sum(_over(box, other) for other in taken) + 2 * on_it
                far = abs(x + w / 2 - anchor[0]) + abs(y + h / 2 - anchor[1])
                if best is None or (covers, far) < best[:2]:
                    best = (covers, far, box)
        if best is not None and best[0] == 0:
            break
    assert best is not None
    return best[2]


def _over(a: Box | tuple[float, ...], b: Box | tuple[float, ...]) -> float:
    """Share of the smaller box that two boxes have in common."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if min(w, h) <= 0:
        return 0.0
    return w * h / max(min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])), 1e-9)


class Placement:
    """Places all labels of a renderer before each picture."""

    def __init__(self, renderer: Any) -> None:
        from vtkmodules.vtkCommonDataModel import vtkPolyData
        from vtkmodules.vtkRenderingCore import vtkActor2D, vtkPolyDataMapper2D

        self.renderer = renderer
        self._lines = vtkPolyData()
        mapper = vtkPolyDataMapper2D()
        mapper.SetInputData(self._lines)
        self._leaders = vtkActor2D()
        self._leaders.SetMapper(mapper)
        self._leaders.GetProperty().SetColor(*unit_color(GREY))
        self._leaders.GetProperty().SetLineWidth(1.5)
        renderer.AddViewProp(self._leaders)
        renderer.AddObserver("StartEvent", lambda *_: self.update())

    def labels(self) -> list[Any]:
        """The text actors that are seen, in the order they were made."""
        props = self.renderer.GetViewProps()
        every = [props.GetItemAsObject(k) for k in range(props.GetNumberOfItems())]
        return [a for a in every if hasattr(a, "anchor") and a.GetVisibility()]

    def update(self) -> None:
        from vtkmodules.vtkCommonCore import vtkPoints
        from vtkmodules.vtkCommonDataModel import vtkCellArray

        W, H = self.renderer.GetSize()
        left, bottom = self.renderer.GetOrigin()
        view = (0.01 * W, 0.14 * H, 0.99 * W, 0.87 * H)
        points, lines = vtkPoints(), vtkCellArray()
        placed: list[Box] = []
        for actor in self.labels():
            self.renderer.SetWorldPoint(*actor.anchor, 1.0)
            self.renderer.WorldToDisplay()
            x, y, depth = self.renderer.GetDisplayPoint()
            anchor = np.array([x - left, y - bottom])
            inside = 0 <= depth <= 1 and 0 <= anchor[0] <= W and 0 <= anchor[1] <= H
            actor.GetProperty().SetOpacity(float(inside))
            if not inside:
                actor.SetPosition(-9999, -9999)
                continue
            bounds = [0.0] * 4
            actor.GetBoundingBox(self.renderer, bounds)
            size = np.array([bounds[1] - bounds[0] + 1, bounds[3] - bounds[2] + 1])
            box = free_place(anchor, size, placed, view)
            actor.SetPosition(box[0] - bounds[0], box[1] - bounds[2])
            placed.append(box)
            end = np.clip(anchor, [box[0], box[1]], [box[2], box[3]])
            lines.InsertNextCell(2)
            for p in (anchor, end):
                lines.InsertCellPoint(points.InsertNextPoint(float(p[0]), float(p[1]), 0.0))
        self._lines.SetPoints(points)
        self._lines.SetLines(lines)
        self._lines.Modified()
