"""The layers of the scene: a name, what draws it, seen or not, how opaque, cut or not.

A layer is built when it is first shown. Clipping is done by the mappers (six planes at most), so
that it costs nothing and picking can ask the same planes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Layer:
    """One entry of the visibility list."""

    name: str
    build: Callable[[], list[Any]]  # makes the actors
    visible: bool = False
    opacity: float = 1.0
    clipped: bool = True
    fades: bool = True  # whether its actors take the layer's opacity
    actors: list[Any] = field(default_factory=list)
    built: bool = False
    why_not: str = ""  # a sentence when it cannot be shown


@dataclass(frozen=True)
class Clip:
    """Half-spaces that are kept: each a point and a normal that points to what stays."""

    planes: tuple[tuple[Array, Array], ...] = ()

    def keeps(self, p: Array) -> bool:
        return all(float((p - o) @ n) >= 0 for o, n in self.planes)


class Layers:
    """All layers of one view, in the order of the list."""

    def __init__(self, plotter: Any) -> None:
        self.plotter = plotter
        self.all: dict[str, Layer] = {}
        self.clip = Clip()

    def add(
        self, name: str, build: Callable[[], list[Any]], visible: bool = False,
        opacity: float = 1.0, clipped: bool = True, fades: bool = True, why_not: str = "",
    ) -> None:  # fmt: skip
        """Put a layer on the list; it is built now only if visible."""
        self.all[name] = Layer(name, build, False, opacity, clipped, fades, why_not=why_not)
        if visible:
            self.show(name, True)

    def show(self, name: str, visible: bool) -> str:
        """Show or hide; the answer is "" or the sentence why it cannot be shown."""
        layer = self.all[name]
        if visible and layer.why_not:
            return layer.why_not
        layer.visible = visible
        if visible and not layer.built:
            layer.actors, layer.built = layer.build(), True
            self._dress(layer)
        for actor in layer.actors:
            actor.SetVisibility(visible)
        return ""

    def fade(self, name: str, opacity: float) -> None:
        """Set the opacity, 0..1."""
        self.all[name].opacity = float(np.clip(opacity, 0, 1))
        self._dress(self.all[name])

    def refresh(self, name: str, actors: list[Any] | None = None) -> None:
        """Take new actors (or build anew) and give them the layer's look."""
        layer = self.all[name]
        if actors is None:
            for actor in layer.actors:
                self.plotter.remove_actor(actor, reset_camera=False, render=False)
            layer.built, layer.actors = False, []
            if layer.visible:
                self.show(name, True)
            return
        layer.actors, layer.built = actors, True
        self._dress(layer)
        for actor in actors:
            actor.SetVisibility(layer.visible)

    def cut(self, clip: Clip) -> None:
        """Clip every layer that lets itself be clipped."""
        self.clip = clip
        for layer in self.all.values():
            self._dress(layer)

    def _dress(self, layer: Layer) -> None:
        for actor in layer.actors:
            if actor.IsA("vtkVolume"):
                _fade_volume(actor, layer.opacity)
            elif hasattr(actor, "prop") and layer.fades:
                actor.prop.opacity = layer.opacity
            mapper = actor.GetMapper() if hasattr(actor, "GetMapper") else None
            if layer.clipped and mapper is not None:
                clip_mapper(mapper, self.clip)


def clip_mapper(mapper: Any, clip: Clip) -> None:
    """Give a mapper the planes of a clip."""
    from vtkmodules.vtkCommonDataModel import vtkPlane

    mapper.RemoveAllClippingPlanes()
    for origin, normal in clip.planes:
        plane = vtkPlane()
        plane.SetOrigin([float(v) for v in origin])
        plane.SetNormal([float(v) for v in normal])
        mapper.AddClippingPlane(plane)


def _fade_volume(volume: Any, opacity: float) -> None:
    # The smaller the unit distance, the more opaque the same opacity function.
    volume.GetProperty().SetScalarOpacityUnitDistance(1.0 / max(opacity, 0.02))


def camera_lines(
    poses: Array, K: Array, width: int, height: int, size: float
) -> tuple[Array, Array]:
    """Frusta as points (n, 3) and segments (m, 2): a pyramid each, and a mark on its upper side."""
    corners = np.array(
        [[0, 0], [width, 0], [width, height], [0, height], [width / 2, -0.25 * height]]
    )
    rays = np.concatenate([(corners - K[:2, 2]) / [K[0, 0], K[1, 1]], np.ones((5, 1))], 1)
    local = np.concatenate([np.zeros((1, 3)), size * rays])
    points = np.einsum("nij,kj->nki", poses[:, :3, :3], local) + poses[:, None, :3, 3]
    lines = np.array(
        [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1], [1, 5], [5, 2]]
    )
    every = lines[None] + 6 * np.arange(len(poses))[:, None, None]
    return points.reshape(-1, 3), every.reshape(-1, 2)


def add_lines(
    plotter: Any, points: Array, segments: Array, color: str, width: float, name: str
) -> Any:
    """An actor of line segments, unlit."""
    import pyvista as pv

    lines = np.column_stack([np.full(len(segments), 2), segments]).ravel()
    mesh = pv.PolyData(np.asarray(points, float), lines=lines)  # made so, it draws no dots
    return plotter.add_mesh(
        mesh, name=name, color=color, line_width=width, lighting=False, reset_camera=False,
        render=False, pickable=False,
    )  # fmt: skip
