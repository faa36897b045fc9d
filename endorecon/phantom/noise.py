"""Smooth periodic 3D noise: the raw material of the phantom's bumps, blotches and glitter.

A tile is an (n, n, n) float32 lattice that repeats for ever, made by shaping white noise in the
Fourier domain between two wavelengths; it has zero mean and unit variance. `sample` reads it at
points in millimetres, rotated so that the repeats of two tiles never line up, and takes the lattice
for the coefficients of a cubic B-spline: twice continuously differentiable, which the implicit
surface needs. `trilinear` and `slopes` are for colour and relief: float32, and points as (3, n), so
that every step runs along contiguous memory (a picture asks for a million of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def dot(a: Any, b: Any) -> Array:
    """Scalar products (n,) of vectors given as three columns (3, n) each."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@dataclass(frozen=True)
class Tile:
    """One periodic lattice: `lattice` (n, n, n), `spacing` mm, `rotation` (3, 3)."""

    lattice: Array
    spacing: float
    rotation: Array

    def sample(self, points: Array) -> Array:
        """Values (...) at points (..., 3) in mm: the cubic B-spline."""
        from scipy.ndimage import map_coordinates

        p = (np.asarray(points) @ (self.rotation / self.spacing)).reshape(-1, 3)
        out = map_coordinates(
            self.lattice, p.T, order=3, mode="grid-wrap", prefilter=False, output=np.float32
        )
        return out.reshape(np.shape(points)[:-1])

    def trilinear(self, points: Array) -> Array:
        """Values (n,) float32 at points (3, n) in mm, linear between the lattice's nodes."""
        return _between(self._wrapped, *self._cells(points))

    def slopes(self, points: Array) -> Array:
        """Gradient (3, n) per mm at points (3, n), by one forward cell (for bump mapping)."""
        cells = self._cells(points)
        steps = [_between(forward, *cells) for forward in self._forward]
        turn = (self.rotation / self.spacing).astype(np.float32)
        return np.stack([dot(row, steps) for row in turn])

    def _cells(self, points: Array) -> tuple[Array, list[Array]]:
        """Flat index (n,) of the lower corner of each point's cell in a wrapped lattice, and where
        in the cell it lies: three fractions (n,)."""
        n = len(self.lattice)
        turn = (self.rotation / self.spacing).astype(np.float32)
        index: Array = np.zeros((), np.intp)
        shares = []
        for towards in turn.T:
            q = dot(towards, points)
            whole = np.floor(q)
            shares.append(q - whole)
            index = index * (n + 1) + np.mod(whole.astype(np.int32), np.int32(n))
        return index.astype(np.intp), shares

    @cached_property
    def _wrapped(self) -> Array:
        """The lattice with its first planes repeated behind its last, so that no cell wraps."""
        return np.pad(self.lattice, (0, 1), mode="wrap")

    @cached_property
    def _forward(self) -> list[Array]:
        """Forward differences of the lattice along its three axes, wrapped as well."""
        lattice = self.lattice
        steps = [np.roll(lattice, -1, axis) - lattice for axis in range(3)]
        return [np.pad(step, (0, 1), mode="wrap") for step in steps]


def _between(wrapped: Array, index: Array, shares: list[Array]) -> Array:
    """Trilinear interpolation (n,) in a wrapped lattice; see Tile._cells."""
    flat, side = wrapped.ravel(), wrapped.shape[0]
    x, y, z = shares

    def edge(offset: int) -> Array:
        """Along z, from the node `offset` beyond the cell's corner."""
        low = flat[offset:].take(index)
        high = flat[offset + 1 :].take(index)
        high -= low
        high *= z
        high += low
        return high

    def face(offset: int) -> Array:
        low, high = edge(offset), edge(offset + side)
        high -= low
        high *= y
        high += low
        return high

    low, high = face(0), face(side * side)
    high -= low
    high *= x
    high += low
    return high


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
        return roughness * (0.42 * large.sample(p) + 0.055 * small.sample(p))

    return displacement
