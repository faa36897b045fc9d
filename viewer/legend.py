"""The legend at the right edge: a colour bar with its unit, or the three states of the surface."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case
from .overlay import dress
from .style import BACKGROUND, GUESSED, OBSERVED, WEAK, WHITE, unit_color
from .surface_layer import colormap, ticks

TITLES = {"sigma": "sigma", "ct": "to CT", "depth": "depth"}


class Legend:
    """One bar and three words, of which at most one kind is seen."""

    def __init__(self, renderer: Any) -> None:
        from vtkmodules.vtkRenderingAnnotation import vtkScalarBarActor
        from vtkmodules.vtkRenderingCore import vtkTextActor

        self.renderer = renderer
        self.bar = vtkScalarBarActor()
        self.bar.SetUnconstrainedFontSize(True)
        self.bar.SetBarRatio(0.28)
        self.bar.SetPosition(0.87, 0.545)
        self.bar.SetWidth(0.12)
        self.bar.SetDrawBackground(True)
        self.bar.GetBackgroundProperty().SetColor(*unit_color(BACKGROUND))
        self.bar.GetBackgroundProperty().SetOpacity(0.7)
        self.bar.SetHeight(0.35)
        self.bar.SetVerticalTitleSeparation(10)
        self.bar.SetVisibility(False)
        renderer.AddViewProp(self.bar)
        self.words = []
        for k, (text, color) in enumerate(
            (("seen", OBSERVED), ("weak", WEAK), ("guessed (hatched)", GUESSED))
        ):
            actor = vtkTextActor()
            actor.SetInput(f"■ {text}")
            actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
            actor.SetPosition(0.988, 0.80 - 0.055 * k)
            dress(actor.GetTextProperty(), color, 20)
            actor.GetTextProperty().SetJustificationToRight()
            actor.GetTextProperty().SetBackgroundColor(*unit_color(BACKGROUND))
            actor.GetTextProperty().SetBackgroundOpacity(0.78)
            actor.SetVisibility(False)
            renderer.AddViewProp(actor)
            self.words.append(actor)

    def show(self, colouring: str, limits: tuple[float, float] | None, case: Case) -> None:
        """Make the legend fit a colouring."""
        size = max(13, self.renderer.GetSize()[1] // 34)
        for actor in self.words:
            actor.SetVisibility(colouring == "status")
            actor.GetTextProperty().SetFontSize(size)
        self.bar.SetVisibility(colouring in TITLES and limits is not None)
        if limits is None or colouring not in TITLES:
            return
        from pyvista import LookupTable

        table = LookupTable(colormap(colouring == "depth"), scalar_range=limits)
        self.bar.SetLookupTable(table)
        self.bar.SetTitle(f"{TITLES[colouring]} [{'mm' if case.mm else 'u'}]")
        labels = ticks(*limits)
        step = (limits[1] - limits[0]) / (labels - 1)
        self.bar.SetNumberOfLabels(labels)
        self.bar.SetLabelFormat(f"{{:.{max(0, -int(np.floor(np.log10(step) + 1e-9)))}f}}")
        for p in (self.bar.GetTitleTextProperty(), self.bar.GetLabelTextProperty()):
            dress(p, WHITE, size)
            p.SetColor(*unit_color(WHITE))
            p.SetItalic(False)
