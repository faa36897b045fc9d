"""What the wall looks like: mucosa with blotches, grain, vessel trees and a wet micro-relief.

Everything is a function of the 3D point (mm), so there are no seams. Colours are linear RGB
albedo in [0, 1]. Vessel trees are polylines grown on the surface: tips walk along the tangent
plane, wander, and branch by Murray's law (the cubes of the radii add up); each mesh vertex keeps
its nearest vessel segment, and a pixel takes the exact distance to the segments of the three
vertices round it, so vessels stay sharp at any magnification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.phantom.implicit import Distance, Mesh, gradient, project
from endorecon.phantom.noise import Tile, dot, make_tile

Array = NDArray[Any]

# Linear RGB of healthy mucosa, of pale (fibrous, septal) and of inflamed mucosa, and of blood.
PALETTES = {
    "sinus": {
        "base": (0.56, 0.22, 0.165),
        "pale": (0.66, 0.40, 0.33),
        "red": (0.46, 0.095, 0.065),
        "blood": (0.36, 0.030, 0.022),
    },
    "colon": {
        "base": (0.60, 0.27, 0.17),
        "pale": (0.68, 0.42, 0.29),
        "red": (0.52, 0.15, 0.09),
        "blood": (0.36, 0.045, 0.035),
    },
}


@dataclass(frozen=True)
class Vessels:
    """Segments a -> b (n, 3) with half width (n,) mm; nearest (v,) segment of a vertex or -1."""

    a: Array
    b: Array
    radius: Array
    nearest: Array

    @cached_property
    def columns(self) -> tuple[Array, Array, Array, Array]:
        """a (3, n), b - a (3, n), its squared length (n,) and the half width, in that order."""
        ab = np.ascontiguousarray((self.b - self.a).T)
        return np.ascontiguousarray(self.a.T), ab, np.maximum(dot(ab, ab), 1e-9), self.radius


@dataclass(frozen=True)
class Mucosa:
    """The look of one wall. `contrast` scales colour variation, `relief` the micro-bumps."""

    palette: dict[str, tuple[float, float, float]]
    patches: Tile  # 5-20 mm: pale and inflamed areas
    mottle: Tile  # 1-6 mm
    grain: Tile  # 0.2-1.6 mm
    bumps: Tile  # 0.5-2.6 mm: relief for normals and highlights
    vessels: Vessels
    contrast: float
    vessel_strength: float
    relief: float
    slope_variance: float  # of the whole relief, both axes of the wall

    def albedo(self, points: Array, corners: Array) -> Array:
        """Linear RGB (3, n) at points (3, n); corners (3, n): vertex indices of the face hit."""
        patch = self.patches.trilinear(points)
        mottle = self.mottle.trilinear(points)
        grain = self.grain.trilinear(points)
        c = self.contrast
        pale = _smoothstep(0.1, 1.7, patch + 0.55 * c * mottle)
        red = _smoothstep(0.1, 1.8, 0.7 * c * mottle - patch)
        # Capillaries: the zero crossings of the mottle, where they are not too steep.
        line = np.exp(-((mottle / 0.10) ** 2)) * _smoothstep(-0.2, 1.2, grain - 0.6 * patch)
        shade = np.exp(c * (0.085 * grain + 0.10 * mottle))
        stain = np.clip(self._vessel_stain(points, corners) + 0.22 * c * line, 0.0, 0.92)
        stain *= 0.8 * self.vessel_strength
        out = np.zeros((3, points.shape[1]), np.float32)
        p = {k: [np.float32(x) for x in rgb] for k, rgb in self.palette.items()}
        for k, channel in enumerate(out):
            channel += p["base"][k] + pale * (p["pale"][k] - p["base"][k])
            channel += red * (p["red"][k] - channel)
            channel *= shade
            channel += stain * (p["blood"][k] - channel)
        return np.clip(out, 0.01, 0.95, out=out)

    def _vessel_stain(self, points: Array, corners: Array) -> Array:
        """How much of a vessel's colour shows (n,) at points (3, n), 0..1."""
        v = self.vessels
        out = np.zeros(points.shape[1], np.float32)
        if len(v.a) == 0:
            return out
        a, ab, length2, radius = v.columns
        for corner in corners:
            near = v.nearest.take(corner)
            hit = np.flatnonzero(near >= 0)
            s = near.take(hit)
            p = [x.take(hit) for x in points]
            along = [x.take(s) for x in ab]
            away = [x - y.take(s) for x, y in zip(p, a, strict=True)]
            t = np.clip(dot(away, along) / length2.take(s), 0, 1)
            off = [x - t * y for x, y in zip(away, along, strict=True)]
            r = radius.take(s)
            d = np.sqrt(dot(off, off))
            # Soft rim: a vessel lies under the epithelium; thin ones are also fainter.
            depth = np.clip(0.25 + 2.4 * r, 0, 1) * _smoothstep(1.35, 0.45, d / r)
            out[hit] = np.maximum(out.take(hit), depth)
        return out

    def tilt(self, points: Array, normals: Array, footprint: Array) -> tuple[Array, Array]:
        """Unit normals (3, n) with the micro-relief of wet mucosa, and the relief left out (n,).

        footprint (n,): mm a pixel. Relief finer than that would sparkle, so it fades from the
        normals and comes back as roughness: a part of the slope variance that was taken away (a
        part only, for the film of mucus lies flatter than the wall under it).
        """
        g = self.bumps.slopes(points)
        g -= dot(g, normals) * normals
        fade = 1.0 / (1.0 + (footprint / 0.14) ** 2)
        n = normals - (self.relief * fade) * g
        lost = 0.5 * (1.0 - fade * fade) * self.slope_variance
        return n / np.sqrt(dot(n, n)), lost


def _smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def make_mucosa(
    rng: np.random.Generator,
    family: str,
    mesh: Mesh,
    distance: Distance,
    contrast: float = 1.0,
    vessel_strength: float = 1.0,
    relief: float = 1.0,
) -> Mucosa:
    """Mucosa for a wall. family: a word of PALETTES."""
    relief_mm = 0.055 * relief
    bumps = make_tile(rng, 96, 0.12, (0.55, 2.6), 0.5)
    slopes = relief_mm * bumps.slopes(mesh.vertices[:: max(1, len(mesh.vertices) // 2000)].T)
    return Mucosa(
        palette=PALETTES[family],
        patches=make_tile(rng, 64, 1.2, (5.0, 22.0), 0.5),
        mottle=make_tile(rng, 96, 0.22, (1.0, 6.0), 0.6),
        grain=make_tile(rng, 96, 0.055, (0.3, 1.8), 0.8),
        bumps=bumps,
        vessels=grow_vessels(rng, mesh, distance, *_VESSEL_HABIT[family]),
        contrast=contrast * _CONTRAST[family],
        vessel_strength=vessel_strength,
        relief=relief_mm,
        # Two of the three axes lie in the wall.
        slope_variance=float(2.0 / 3.0 * (slopes**2).sum(0).mean()),
    )


# (area of wall in mm2 a root, half width of a root in mm, mean length of an arm in mm, wander)
_VESSEL_HABIT = {"sinus": (26.0, 0.15, 5.0, 0.14), "colon": (140.0, 0.24, 10.0, 0.10)}
_CONTRAST = {"sinus": 0.26, "colon": 0.21}


def grow_vessels(
    rng: np.random.Generator,
    mesh: Mesh,
    distance: Distance,
    area_mm2: float,
    radius_mm: float,
    arm_mm: float,
    wander: float,
    step: float = 0.35,
) -> Vessels:
    """Vessel trees on the wall; see the module docstring."""
    from scipy.spatial import cKDTree

    v, f = mesh.vertices, mesh.faces
    corner = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    face_area = 0.5 * np.linalg.norm(corner, axis=1)
    roots = max(1, int(face_area.sum() / area_mm2))
    at = v[f[rng.choice(len(f), roots, p=face_area / face_area.sum()), 0]]
    heading = rng.standard_normal((roots, 3))
    radius = radius_mm * rng.uniform(0.4, 1.0, roots) ** 1.5
    turn, bend = np.zeros(roots), np.zeros(roots)
    segments: list[tuple[Array, Array, Array]] = []
    for _ in range(90):
        if len(at) == 0:
            break
        n = gradient(distance, at)
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        heading -= np.einsum("ij,ij->i", heading, n)[:, None] * n
        heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
        # Curvature itself wanders and comes back: tortuous, but neither zigzag nor circle.
        turn = 0.7 * turn + wander * rng.standard_normal(len(at)) - 0.07 * bend
        bend = bend + turn
        heading = heading * np.cos(turn)[:, None] + np.cross(n, heading) * np.sin(turn)[:, None]
        nxt = project(distance, at + step * heading, steps=2)
        segments.append((at, nxt, radius))
        branch = rng.random(len(at)) < step / arm_mm
        share = rng.uniform(0.25, 0.75, len(at))
        angle = rng.uniform(0.35, 1.0, len(at)) * rng.choice([-1, 1], len(at))
        side = heading * np.cos(angle)[:, None] + np.cross(n, heading) * np.sin(angle)[:, None]
        child_radius = radius * np.cbrt(1 - share)
        radius = np.where(branch, radius * np.cbrt(share), radius * 0.99)
        at = np.concatenate([nxt, nxt[branch]])
        heading = np.concatenate([nxt - segments[-1][0], side[branch]])
        radius = np.concatenate([radius, child_radius[branch]])
        turn = np.concatenate([turn, 0 * turn[branch]])
        bend = np.concatenate([bend, 0 * bend[branch]])
        alive = (radius > 0.035) & (rng.random(len(at)) > 0.012)
        at, heading, radius = at[alive], heading[alive], radius[alive]
        turn, bend = turn[alive], bend[alive]
    a = np.concatenate([s[0] for s in segments]).astype(np.float32)
    b = np.concatenate([s[1] for s in segments]).astype(np.float32)
    r = np.concatenate([s[2] for s in segments]).astype(np.float32)
    # Nearest by distance less half width, so that a thin twig does not hide its trunk.
    gap, index = cKDTree(0.5 * (a + b)).query(v, k=6, distance_upper_bound=1.0)
    reach = np.where(np.isfinite(gap), gap - 1.35 * r[np.minimum(index, len(r) - 1)], np.inf)
    pick = np.argmin(reach, 1)
    rows = np.arange(len(v))
    best = np.where(np.isfinite(reach[rows, pick]), index[rows, pick], 0)
    # What cannot stain any face round the vertex is not looked at again in every pixel.
    ab, av = b[best] - a[best], v - a[best]
    t = np.clip((av * ab).sum(1) / np.maximum((ab * ab).sum(1), 1e-9), 0, 1)
    gap = np.linalg.norm(av - t[:, None] * ab, axis=1)
    edge = np.sqrt(((v[f] - v[np.roll(f, 1, 1)]) ** 2).sum(2).max())
    stains = np.isfinite(reach[rows, pick]) & (gap < 1.35 * r[best] + edge)
    return Vessels(a, b, r, np.where(stains, best, -1).astype(np.int32))
