"""The measured mesh: rays, nearest points, sigma and status on it, ways along it.

Always the full surface, whatever is drawn: a surface may be decimated for viewing, never for
measuring. float64 in and out, display space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.scene import GUESSED, Surface

from .geodesic import surface_path

Array = NDArray[Any]


@dataclass(frozen=True)
class Spot:
    """A point on the surface with what is known there."""

    xyz: tuple[float, float, float]
    face: int
    sigma: float  # one standard deviation, display unit
    status: int  # the worst of the face's corners


def polydata(surface: Surface, faces: Array | None = None) -> Any:
    """vtkPolyData (pyvista) of a surface, or of some of its faces, with float64 points."""
    import pyvista as pv

    f = surface.faces if faces is None else faces
    mesh = pv.PolyData.from_regular_faces(np.ascontiguousarray(surface.vertices, float), f)
    return mesh


def _cut(a: Array, b: Array, A: Array, B: Array, C: Array) -> Array:
    """Where (0..1) the segment a-b meets triangles (n, 3), inf where not (Moeller, Trumbore 1997).

    VTK's own cut of many cells is a tenth of a millimetre off on our meshes, so only its list of
    candidates is used.
    """
    d, e1, e2, s = b - a, B - A, C - A, a - A
    h = np.cross(d[None], e2)
    det = (e1 * h).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (s * h).sum(1) / det
        q = np.cross(s, e1)
        v = (q @ d) / det
        t = (e2 * q).sum(1) / det
    edge = 1e-9  # a ray through an edge must not slip between its two faces
    hit = (u >= -edge) & (v >= -edge) & (u + v <= 1 + edge) & (t >= 0) & (t <= 1)
    return np.where(hit, t, np.inf)


class SurfaceMesh:
    """A surface with its search tree, built at the first question."""

    def __init__(self, surface: Surface, scale_sigma: float = 0.0) -> None:
        self.surface = surface
        self.scale_sigma = scale_sigma  # of the logarithm of the scale, common to all lengths
        self._locator: Any = None
        self._poly: Any = None

    def _tree(self) -> Any:
        if self._locator is None:
            from vtkmodules.vtkCommonDataModel import vtkStaticCellLocator

            self._poly = polydata(self.surface)
            self._locator = vtkStaticCellLocator()
            self._locator.SetDataSet(self._poly)
            self._locator.BuildLocator()
        return self._locator

    def ray(
        self, a: Array, b: Array, seen: Callable[[Array, int], bool] = lambda p, face: True
    ) -> Spot | None:
        """The first hit of the segment from a to b whose point and face `seen` lets through."""
        from vtkmodules.vtkCommonCore import vtkIdList

        cells = vtkIdList()
        self._tree().FindCellsAlongLine(a, b, 0.0, cells)
        ids = np.array([cells.GetId(k) for k in range(cells.GetNumberOfIds())], int)
        t = _cut(a, b, *np.moveaxis(self.surface.vertices[self.surface.faces[ids]], 1, 0))
        for k in np.argsort(t)[: int(np.isfinite(t).sum())]:
            p = a + t[k] * (b - a)
            if seen(p, int(ids[k])):
                return self.spot(p, int(ids[k]))
        return None

    def nearest(self, p: Array) -> Spot:
        """The surface point nearest to p."""
        from vtkmodules.vtkCommonCore import mutable

        closest = [0.0, 0.0, 0.0]
        face, sub, d2 = mutable(0), mutable(0), mutable(0.0)
        self._tree().FindClosestPoint([float(v) for v in p], closest, face, sub, d2)
        return self.spot(np.array(closest), int(face))

    def spot(self, p: Array, face: int) -> Spot:
        """Sigma (barycentric) and status (the worst corner) at a point of a face."""
        corners = self.surface.faces[face]
        v = self.surface.vertices[corners]
        e = np.stack([v[1] - v[0], v[2] - v[0]], 1)
        uv = np.linalg.lstsq(e, p - v[0], rcond=None)[0]
        w = np.clip([1 - uv.sum(), *uv], 0, 1)
        sigma = float((w * self.surface.sigma[corners]).sum() / max(w.sum(), 1e-12))
        x, y, z = (float(c) for c in p)
        return Spot((x, y, z), int(face), sigma, int(self.surface.status[corners].max()))

    def way(self, a: Spot, b: Spot) -> Array | None:
        """The shortest polyline (k, 3) along the surface, None when none leads there."""
        return surface_path(
            self.surface.vertices, self.surface.faces,
            np.array(a.xyz), a.face, np.array(b.xyz), b.face,
        )  # fmt: skip

    def guessed_beside(self, line: Array, samples: int = 64) -> bool:
        """Whether guessed surface is what lies nearest to any stretch of a polyline (k, 3)."""
        if not (self.surface.status == GUESSED).any():
            return False
        step = np.linalg.norm(np.diff(line, axis=0), axis=1)
        s = np.concatenate([[0.0], np.cumsum(step)])
        at = np.linspace(0, s[-1], max(samples, len(line)))
        points = np.stack([np.interp(at, s, line[:, k]) for k in range(3)], 1)
        return any(self.nearest(p).status == GUESSED for p in points)
