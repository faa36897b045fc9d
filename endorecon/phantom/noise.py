"""Smooth periodic 3D noise: the raw material of the phantom's bumps, blotches and glitter.

A tile is an (n, n, n) float32 lattice that repeats for ever, made by shaping white noise in the
Fourier domain between two wavelengths; it has zero mean and unit variance. `sample` reads it at
points in millimetres, rotated so that the repeats of two tiles never line up. With order 3 the
lattice is the coefficients of a cubic B-spline: twice continuously differentiable, which the
implicit surface needs; order 1 (trilinear) is for colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Tile:
    """One periodic lattice: `lattice` (n, n, n), `spacing` mm, `rotation` (3, 3)."""

    lattice: Array
    spacing: float
    rotation: Array

    def sample(self, points: Array, order: int = 1) -> Array:
        """Values (...) at points (..., 3) in mm."""
        from scipy.ndimage import map_coordinates

        p = (np.asarray(points) @ (self.rotation / self.spacing)).reshape(-1, 3)
        out = map_coordinates(
            self.lattice, p.T, order=order, mode="grid-wrap", prefilter=False, output=np.float32
        )
        return out.reshape(np.shape(points)[:-1])

    def slopes(self, points: Array) -> Array:
        """Gradient (..., 3) per mm at points (..., 3), by one forward cell (for bump mapping)."""
        from scipy.ndimage import map_coordinates

        p = (np.asarray(points) @ (self.rotation / self.spacing)).reshape(-1, 3).T
        lattice = self.lattice
        parts = [
            map_coordinates(
                np.roll(lattice, -1, axis) - lattice,
                p,
                order=1,
                mode="grid-wrap",
                prefilter=False,
                output=np.float32,
            )
            for axis in range(3)
        ]
        g = np.stack(parts, -1) @ (self.rotation.T / self.spacing).astype(np.float32)
        return g.reshape(np.shape(points))


def make_tile(
    rng: np.random.Generator,
    size: int,
    spacing: float,
    wavelengths: tuple[float, float],
    exponent: float = 1.0,
) -> Tile:
    """A tile of `size` cells of `spacing` mm; amplitude ~ wavelength^exponent between the
    two wavelengths in mm (exponent 0 = white inside the band, 1.5 = cloudy)."""
    from scipy.spatial.transform import Rotation

    f = np.fft.fftfreq(size)
    r = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + np.fft.rfftfreq(size) ** 2)
    r[0, 0, 0] = 1.0
    lam = spacing / r
    short, long = wavelengths
    # Half an octave of roll-off at either end, so that the band does not ring.
    gain = 1.0 / (1.0 + (short / lam) ** 6) / (1.0 + (lam / long) ** 6)
    # White noise in 3D has 3 octaves of power an octave of wavelength: divide it out first.
    gain *= lam ** (1.5 + exponent)
    gain[0, 0, 0] = 0.0
    white = rng.standard_normal((size, size, size))
    lattice = np.fft.irfftn(np.fft.rfftn(white) * gain, s=white.shape, axes=(0, 1, 2))
    lattice /= lattice.std()
    rotation = Rotation.random(random_state=rng).as_matrix()
    return Tile(lattice.astype(np.float32), spacing, rotation)


def unevenness(rng: np.random.Generator, roughness: float) -> Callable[[Array], Array]:
    """Smooth displacement of the wall in mm: swellings of 7-15 mm, dimples of 2-5 mm."""
    large = make_tile(rng, 48, 0.9, (7.0, 15.0), 0.5)
    small = make_tile(rng, 48, 0.35, (2.2, 5.0), 0.8)

    def displacement(p: Array) -> Array:
        return roughness * (0.42 * large.sample(p, 3) + 0.055 * small.sample(p, 3))

    return displacement
