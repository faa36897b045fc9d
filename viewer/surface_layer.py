"""How the reconstructed surface is drawn: six ways of colouring, hatching, a light twin.

Guessed surface is hatched in screen space (a fragment shader), in every colouring, so that it
can never be taken for seen. Surfaces too large to turn smoothly are drawn as a clustered twin while
the hand moves; measuring always uses the full one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.scene import GUESSED, Surface

from .mesh import polydata
from .style import COLORMAP, GREY, PLAIN, hex_color
from .style import GUESSED as GUESSED_COLOR
from .style import OBSERVED as OBSERVED_COLOR
from .style import WEAK as WEAK_COLOR

Array = NDArray[Any]
COLOURINGS = {
    "photo": "Photo",
    "plain": "Plain",
    "sigma": "Sigma (standard deviation)",
    "status": "Status (seen, weak, guessed)",
    "ct": "Distance to CT",
    "depth": "Depth in the current frame",
}
TWIN_FACES = 60_000
HATCH = """//VTK::Light::Impl
  if (mod(gl_FragCoord.x + gl_FragCoord.y, 12.0) < 4.5) {
    gl_FragData[0] = vec4(0.05, 0.05, 0.06, gl_FragData[0].a);
  }
"""


def thinned(surface: Surface, faces: int = TWIN_FACES) -> Surface:
    """A light twin for viewing only: vertices clustered on a grid, one stands for its cell."""
    low, high = surface.vertices.min(0), surface.vertices.max(0)
    keep = len(surface.faces)
    cells = np.sqrt(keep and faces)
    edge = float(np.linalg.norm(high - low)) / max(cells, 2.0)
    for _ in range(6):
        cell = ((surface.vertices - low) / edge).astype(np.int64)
        n = cell.max(0) + 1
        key = (cell[:, 0] * n[1] + cell[:, 1]) * n[2] + cell[:, 2]
        _, first, of = np.unique(key, return_index=True, return_inverse=True)
        f = of[surface.faces]
        f = f[(f[:, 0] != f[:, 1]) & (f[:, 1] != f[:, 2]) & (f[:, 2] != f[:, 0])]
        if len(f) <= 1.5 * faces:
            break
        edge *= float(np.sqrt(len(f) / faces))
    return Surface(
        surface.vertices[first], f, surface.colors[first], surface.status[first],
        surface.sigma[first], surface.unit, surface.space,
    )  # fmt: skip


def faces_towards(surface: Surface, centres: Array) -> bool:
    """Whether the faces' right-hand sides look at the cameras (n, 3), by a sample's majority."""
    pick = np.linspace(0, len(surface.faces) - 1, min(2000, len(surface.faces))).astype(int)
    v = surface.vertices[surface.faces[pick]]
    normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
    to = centres[None] - v.mean(1)[:, None]
    nearest = np.argmin((to**2).sum(-1), 1)
    return bool(((normal * to[np.arange(len(pick)), nearest]).sum(1) > 0).mean() >= 0.5)


class SurfaceLayer:
    """One surface's meshes, ready to be coloured; `actors` is what the renderer holds."""

    def __init__(self, plotter: Any, surface: Surface, key: str, unit: str) -> None:
        self.plotter, self.surface, self.key, self.unit = plotter, surface, key, unit
        self.actors: list[Any] = []
        self._colouring = "photo"
        self._values: Array | None = None
        self._twin: SurfaceLayer | None = None
        guessed = (surface.status == GUESSED)[surface.faces].any(1)
        self._parts = [
            (polydata(surface, surface.faces[mask]), hatched)
            for mask, hatched in ((~guessed, False), (guessed, True))
            if mask.any()
        ]

    def colour(self, colouring: str, values: Array | None = None, limits: Any = None) -> None:
        """Draw in one of COLOURINGS; `values` (v,) for "ct" and "depth"."""
        self._colouring, self._values, self._limits = colouring, values, limits
        for k, (part, hatched) in enumerate(self._parts):
            self._draw(part, hatched, f"{self.key}-{k}")
        if self._twin is not None:
            self._twin.remove()
            self._twin = None

    def _draw(self, part: Any, hatched: bool, name: str) -> None:
        look: dict[str, Any] = {"lighting": False}
        s, colouring = self.surface, self._colouring
        for old in ("colour", "value"):  # the normals stay
            if old in part.point_data:
                part.point_data.remove(old)
        if colouring == "photo" and hatched:  # no frame has seen it: it has no photo
            look |= {"color": GREY}
        elif colouring == "photo":
            part.point_data["colour"] = s.colors
            look |= {"scalars": "colour", "rgb": True}
        elif colouring == "plain":
            look |= {"color": GREY if hatched else PLAIN, "lighting": True}
        elif colouring == "status":
            paint = [OBSERVED_COLOR, WEAK_COLOR, GUESSED_COLOR]
            table = np.array([hex_color(c) for c in paint], np.uint8)
            part.point_data["colour"] = table[np.minimum(s.status, 2)]
            look |= {"scalars": "colour", "rgb": True, "lighting": True}
        else:
            values = s.sigma if colouring == "sigma" or self._values is None else self._values
            part.point_data["value"] = np.asarray(values, np.float32)
            look |= {
                "scalars": "value", "cmap": colormap(colouring == "depth"),
                "clim": self._limits or limits(values), "nan_color": GREY,
                "show_scalar_bar": False, "lighting": colouring != "depth",
            }  # fmt: skip
        if look["lighting"]:
            _with_normals(part)
            look |= {"ambient": 0.25, "diffuse": 0.8, "specular": 0.1, "smooth_shading": False}
        actor = self.plotter.add_mesh(
            part, name=name, reset_camera=False, render=False, pickable=False, copy_mesh=False,
            **look,
        )  # fmt: skip
        if look["lighting"]:
            actor.prop.interpolation = "Phong"
        if hatched:
            actor.GetShaderProperty().AddFragmentShaderReplacement(
                "//VTK::Light::Impl", True, HATCH, False
            )
        self.actors = [a for a in self.actors if a.name != name] + [actor]

    def twin(self) -> SurfaceLayer:
        """The light twin in the same colours, made at the first call and hidden."""
        if self._twin is None:
            light = thinned(self.surface)
            self._twin = SurfaceLayer(self.plotter, light, f"{self.key}-twin", self.unit)
            values = self._values
            if values is not None:  # the twin's vertices are some of ours: nearest is itself
                from scipy.spatial import cKDTree

                values = values[cKDTree(self.surface.vertices).query(light.vertices)[1]]
            limit = self._limits
            if limit is None and self._colouring == "sigma":
                limit = limits(self.surface.sigma)
            self._twin.colour(self._colouring, values, limit)
        return self._twin

    @property
    def has_twin(self) -> bool:
        return self._twin is not None

    def remove(self) -> None:
        """Take everything out of the renderer."""
        for actor in self.actors:
            self.plotter.remove_actor(actor, reset_camera=False, render=False)
        self.actors = []
        if self._twin is not None:
            self._twin.remove()
            self._twin = None


def limits(values: Array) -> tuple[float, float]:
    """Colour limits: round numbers about the 2nd to the 98th percentile of what is finite.

    A long tail (sigma, distances) takes no colours from the rest: the top is at most four medians.
    """
    finite = np.asarray(values)[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, middle, high = (float(v) for v in np.percentile(finite, [2, 50, 98]))
    if middle > 0:
        high = min(high, 4 * middle)
    if not high > low:
        return low, low + 1e-6
    step = min(s for s in round_numbers(high - low) if (high - low) / s <= 5)
    return step * float(np.floor(low / step)), step * float(np.ceil(high / step))


def round_numbers(size: float) -> list[float]:
    """1, 2 and 5 times the powers of ten about a size, rising."""
    power = 10.0 ** np.floor(np.log10(size))
    return [float(m * power * p) for p in (0.01, 0.1, 1) for m in (1, 2, 5)]


def ticks(low: float, high: float) -> int:
    """How many labels a colour bar from `limits` bears, so that each is a round number."""
    steps = [(high - low) / s for s in round_numbers(high - low)]
    fit = [round(n) for n in steps if abs(n - round(n)) < 1e-6 and 2 <= round(n) <= 7]
    return max(fit, default=4) + 1


def colormap(backwards: bool = False) -> Any:
    """The colour map without its darkest part, which a dark background would swallow."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps[COLORMAP](np.linspace(0.18, 1, 256))
    return ListedColormap(table[::-1] if backwards else table)


def depth_in(surface: Surface, world_from_camera: Array) -> Array:
    """z-depth (v,) of the vertices in one camera, NaN behind it."""
    z = geometry.apply(geometry.invert(world_from_camera), surface.vertices)[:, 2]
    return np.where(z > 0, z, np.nan)


def _with_normals(part: Any) -> None:
    """Vertex normals, once: area-weighted sums of the face normals."""
    if part.GetPointData().GetNormals() is None:
        from vtkmodules.vtkFiltersCore import vtkPolyDataNormals

        f = vtkPolyDataNormals()
        f.SetInputData(part)
        f.SplittingOff()
        f.ConsistencyOff()
        f.AutoOrientNormalsOff()
        f.ComputePointNormalsOn()
        f.ComputeCellNormalsOff()
        f.Update()
        part.GetPointData().SetNormals(f.GetOutput().GetPointData().GetNormals())
