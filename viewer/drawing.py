"""Measurements in the scene: spots, lines and labels of constant size on the screen.

Labels are yellow in millimetres and grey without: an unregistered number must not shine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .overlay import dress
from .style import BACKGROUND, CYAN, GREY, MAGENTA, WHITE, YELLOW, unit_color
from .tools import Tools


def draw(plotter: Any, tools: Tools) -> list[Any]:
    """Actors of all measurements and of the spots picked so far."""
    import pyvista as pv

    actors: list[Any] = []
    color = YELLOW if tools.case.mm else GREY
    for k, t in enumerate(tools.taken):
        P = t.points
        actors.append(
            _spots(plotter, P, MAGENTA if t.kind in ("point", "note") else color, f"m{k}")
        )
        if t.kind == "distance":
            actors.append(_line(plotter, P, color, 4, f"m{k}-straight"))
            if len(t.path) > 2:
                actors.append(_line(plotter, np.array(t.path), CYAN, 3, f"m{k}-along"))
        elif t.kind == "angle":
            actors.append(_line(plotter, P, color, 4, f"m{k}-arms"))
        elif t.kind == "area":
            actors.append(_line(plotter, np.concatenate([P, P[:1]]), color, 4, f"m{k}-rim"))
            disc = pv.PolyData(np.concatenate([P, P.mean(0)[None]]))
            n = len(P)
            fan = np.array([[3, i, (i + 1) % n, n] for i in range(n)])
            disc.faces = fan.ravel()
            actors.append(plotter.add_mesh(
                disc, color=color, opacity=0.35, lighting=False, name=f"m{k}-disc",
                reset_camera=False, render=False, pickable=False,
            ))  # fmt: skip
        words = t.name
        if t.kind in ("distance", "angle", "area"):
            words += f"  {tools.value_text(t)}"
        if t.kind == "distance" and np.isfinite(t.along):
            words += f"\nalong  {tools.case.length(t.along)}"
        if t.text:
            words += f"\n{t.text[:60]}"
        at = P.mean(0) if t.kind in ("distance", "area") else P[min(1, len(P) - 1)]
        actors.append(
            _label(plotter, words, at, color if t.kind not in ("point", "note") else WHITE)
        )
    if tools.pending:
        P = np.array([s.xyz for s in tools.pending])
        actors.append(_spots(plotter, P, CYAN, "pending"))
        if len(P) > 1:
            actors.append(_line(plotter, P, CYAN, 3, "pending-line"))
    return actors


def _spots(plotter: Any, points: Any, color: str, name: str) -> Any:
    import pyvista as pv

    actor = plotter.add_mesh(
        pv.PolyData(np.asarray(points, float)), color=color, style="points", point_size=15,
        render_points_as_spheres=True, name=name, reset_camera=False, render=False,
        pickable=False, ambient=0.6,
    )  # fmt: skip
    return _in_front(actor)


def _line(plotter: Any, points: Any, color: str, width: float, name: str) -> Any:
    from .layers import add_lines

    n = len(points)
    segments = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    return _in_front(add_lines(plotter, points, segments, color, width, name))


def _in_front(actor: Any) -> Any:
    """Pulled a little to the eye, so that what lies on the surface is not half sunk in it."""
    mapper = actor.mapper
    mapper.SetResolveCoincidentTopologyToPolygonOffset()
    mapper.SetRelativeCoincidentTopologyLineOffsetParameters(-8, -8)
    mapper.SetRelativeCoincidentTopologyPointOffsetParameter(-60000)
    return actor


def _label(plotter: Any, words: str, at: Any, color: str) -> Any:
    from vtkmodules.vtkRenderingCore import vtkTextActor

    actor = vtkTextActor()
    actor.SetInput("\n".join(f"  {line} " for line in words.split("\n")))
    actor.GetPositionCoordinate().SetCoordinateSystemToWorld()
    actor.SetPosition(0, 0)
    actor.GetPositionCoordinate().SetValue(*(float(v) for v in at))
    p = actor.GetTextProperty()
    dress(p, color, max(13, plotter.render_window.GetSize()[1] // 36))
    p.SetBackgroundColor(*unit_color(BACKGROUND))
    p.SetBackgroundOpacity(0.78)
    p.SetJustificationToLeft()
    p.SetVerticalJustificationToBottom()
    plotter.renderers[0].AddViewProp(actor)
    return actor
