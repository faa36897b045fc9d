"""Measurements in the scene: spots, lines and labels of constant size on the screen.

Labels are yellow in millimetres and grey without: an unregistered number must not shine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .labels import label
from .style import CYAN, GREY, MAGENTA, WHITE, YELLOW
from .tools import Tools

NEARER = (-1_000, -60_000)  # units of depth (1.6e-5 of its range each) towards the eye
FAINT = 0.3  # what is hidden


def draw(plotter: Any, tools: Tools) -> list[Any]:
    """Actors of all measurements and of the spots picked so far."""
    import pyvista as pv

    actors: list[Any] = []
    color = YELLOW if tools.case.mm else GREY
    for k, t in enumerate(tools.taken):
        P = t.points
        actors += spots(plotter, P, MAGENTA if t.kind in ("point", "note") else color, f"m{k}")
        if t.kind == "distance":
            actors += _line(plotter, P, color, 4, f"m{k}-straight")
            if len(t.path) > 2:
                actors += _line(plotter, np.array(t.path), CYAN, 3, f"m{k}-along")
        elif t.kind == "angle":
            actors += _line(plotter, P, color, 4, f"m{k}-arms")
        elif t.kind == "area":
            actors += _line(plotter, np.concatenate([P, P[:1]]), color, 4, f"m{k}-rim")
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
            label(plotter, words, at, color if t.kind not in ("point", "note") else WHITE)
        )
    if tools.pending:
        P = np.array([s.xyz for s in tools.pending])
        actors += spots(plotter, P, CYAN, "pending")
        if len(P) > 1:
            actors += _line(plotter, P, CYAN, 3, "pending-line")
    return actors


def spots(plotter: Any, points: Any, color: str, name: str) -> list[Any]:
    """Balls at points (n, 3), faint where something hides them."""
    import pyvista as pv

    mesh = pv.PolyData(np.asarray(points, float))
    actors = [
        plotter.add_mesh(
            mesh, color=color, style="points", point_size=15, render_points_as_spheres=True,
            name=f"{name}-{how}", reset_camera=False, render=False, pickable=False, ambient=0.6,
        )
        for how in ("solid", "faint")
    ]  # fmt: skip
    return _solid_and_faint(actors)


def _line(plotter: Any, points: Any, color: str, width: float, name: str) -> list[Any]:
    from .layers import add_lines

    n = len(points)
    segments = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    return _solid_and_faint([
        add_lines(plotter, points, segments, color, width, f"{name}-{how}")
        for how in ("solid", "faint")
    ])  # fmt: skip


def _solid_and_faint(actors: list[Any]) -> list[Any]:
    """The first pulled a little to the eye, so that what lies on the surface is not half sunk in
    it; the second a shadow of it that shines through what lies before it."""
    for actor, pull in zip(actors, NEARER, strict=True):
        actor.mapper.SetResolveCoincidentTopologyToPolygonOffset()
        actor.mapper.SetRelativeCoincidentTopologyLineOffsetParameters(-8, pull)
        actor.mapper.SetRelativeCoincidentTopologyPointOffsetParameter(pull)
    actors[1].prop.opacity = FAINT
    return actors
