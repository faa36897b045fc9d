"""CT slices at a point: sampled in LPS, windowed, with cross-hair and orientation letters.

Radiological display as in 3D Slicer: axial from below (the patient's right on the left, anterior
on top), coronal from the front (right on the left, superior on top), sagittal with anterior on
the left. An oblique CT grid is resampled, so the pictures are always square to LPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.io.ct import CtVolume

from .style import FONT, YELLOW, hex_color

Array = NDArray[Any]
WINDOWS = {  # level, width in HU
    "sinus": (200.0, 2000.0),
    "bone": (500.0, 2500.0),
    "soft tissue": (40.0, 400.0),
    "mucosa": (-300.0, 1400.0),
}


@dataclass(frozen=True)
class Plane:
    """How a slice lies on the screen: axes of LPS (0, 1, 2) and the sign of the way down."""

    name: str
    normal: int
    right: int
    down: int
    down_sign: int
    letters: tuple[str, str, str, str]  # left, right, top, bottom


PLANES = {
    "axial": Plane("axial", 2, 0, 1, 1, ("R", "L", "A", "P")),
    "coronal": Plane("coronal", 1, 0, 2, -1, ("R", "L", "S", "I")),
    "sagittal": Plane("sagittal", 0, 1, 2, -1, ("A", "P", "S", "I")),
}


def bounds(ct: CtVolume) -> tuple[Array, Array]:
    """Lowest and highest corner (3,) of the CT in LPS mm (voxel centres)."""
    size = np.array(ct.hu.shape[::-1]) - 1.0
    corners = np.array(np.meshgrid(*[(0.0, s) for s in size])).reshape(3, -1).T
    points = geometry.apply(ct.lps_from_index, corners)
    return points.min(0), points.max(0)


def grey(hu: Array, window: str) -> Array:
    """HU to 0..255 by a preset of WINDOWS."""
    level, width = WINDOWS[window]
    return np.clip(255 * ((hu - level) / width + 0.5), 0, 255).astype(np.uint8)


def sample(ct: CtVolume, plane: Plane, at: float, step: float) -> tuple[Array, Array, Array]:
    """HU (h, w) of the slice at `at` mm, and LPS of the centres of its first and last pixel."""
    from scipy.ndimage import map_coordinates

    low, high = bounds(ct)
    right = np.arange(low[plane.right], high[plane.right] + 1e-6, step)
    down = np.arange(low[plane.down], high[plane.down] + 1e-6, step)[:: plane.down_sign]
    p = np.zeros((len(down), len(right), 3))
    p[..., plane.normal] = at
    p[..., plane.right] = right[None]
    p[..., plane.down] = down[:, None]
    index = geometry.apply(geometry.invert(ct.lps_from_index), p)
    # Rounding must not push the outermost pixels out of the grid.
    top = np.array(ct.hu.shape[::-1]) - 1.0
    index = np.where((index > -0.01) & (index < top + 0.01), np.clip(index, 0, top), index)
    hu = map_coordinates(ct.hu, np.moveaxis(index[..., ::-1], -1, 0), order=1, cval=-1024.0)
    return hu, p[0, 0], p[-1, -1]


def picture(ct: CtVolume, name: str, point: Array, window: str, size: int = 300) -> Array:
    """The slice through `point` as RGB (size, size, 3) uint8, letters and cross-hair drawn."""
    from PIL import Image, ImageDraw, ImageFont

    plane = PLANES[name]
    low, high = bounds(ct)
    extent = max(high[plane.right] - low[plane.right], high[plane.down] - low[plane.down])
    hu, first, _ = sample(ct, plane, float(point[plane.normal]), float(extent) / size)
    image = Image.new("L", (size, size))
    h, w = hu.shape
    left, top = (size - w) // 2, (size - h) // 2
    image.paste(Image.fromarray(grey(hu, window)), (left, top))
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    step = extent / size
    x = left + 0.5 + (point[plane.right] - first[plane.right]) / step
    y = top + 0.5 + (point[plane.down] - first[plane.down]) / (step * plane.down_sign)
    gap, colour = 7, hex_color(YELLOW)
    for line in (
        (0, y, x - gap, y),
        (x + gap, y, size, y),
        (x, 0, x, y - gap),
        (x, y + gap, x, size),
    ):
        draw.line(line, fill=colour, width=1)
    font = ImageFont.truetype(FONT, max(14, size // 14))
    a, b, c, d = plane.letters
    m = size // 40
    half = size / 2
    for text, xy, anchor in (
        (a, (m, half), "lm"), (b, (size - m, half), "rm"), (c, (half, m), "ma"),
        (d, (half, size - m), "md"),
    ):  # fmt: skip
        draw.text(xy, text, fill=(255, 255, 255), font=font, anchor=anchor,
                  stroke_width=2, stroke_fill=(0, 0, 0))  # fmt: skip
    small = ImageFont.truetype(FONT, max(12, size // 20))
    draw.text((m, size - m), f"{name} {point[plane.normal]:.1f}", fill=colour, font=small,
              anchor="ld", stroke_width=2, stroke_fill=(0, 0, 0))  # fmt: skip
    return np.asarray(canvas)


def point_in(ct: CtVolume, name: str, point: Array, u: float, v: float, size: int) -> Array:
    """The LPS point (3,) at pixel (u, v) of `picture(..., point, size)`."""
    plane = PLANES[name]
    low, high = bounds(ct)
    step = max(high[plane.right] - low[plane.right], high[plane.down] - low[plane.down]) / size
    hu, first, _ = sample(ct, plane, float(point[plane.normal]), float(step))
    out = np.array(point, float)
    out[plane.right] = first[plane.right] + step * (u - 0.5 - (size - hu.shape[1]) // 2)
    down = step * (v - 0.5 - (size - hu.shape[0]) // 2)
    out[plane.down] = first[plane.down] + plane.down_sign * down
    return np.clip(out, low, high)
