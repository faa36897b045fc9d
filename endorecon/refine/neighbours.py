"""Which real frames each frame is compared with.

A near wall leaves the view within a few frames, a far one needs frames far apart: frames that suit
the median depth of a view leave its near walls with no partner at all (on phantoms a tenth to a
quarter of the pictures at the start of a path, a third too deep for that reason). So the choice
is made per place: a grid of pixels, each at its depth of round 0, wants to be seen with parallax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.geometry import apply, invert, rays
from endorecon.scene import Camera

Array = NDArray[Any]

GRID = (20, 15)  # places across and down at which a frame's neighbours are judged
PARALLAX_DEG = 5.0  # from here on parallax is plenty ...
WIDE_DEG = 14.0  # ... and beyond this, windows no longer look alike
SCALE = 0.3  # log ratio of the distances at which they look different, too
HIDDEN = 1.15  # a place this much behind what a frame sees there is hidden from it
CROWD = 0.04  # a frame so near to a chosen one (share of the median distance) tells little new
WORTH = 0.002  # mean gain below which another frame is not worth its time


def choose_neighbours(
    z: Array, camera: Camera, world_from_camera: Array, count: int
) -> list[list[int]]:
    """For each of the n frames up to `count` others, the most telling first.

    z: (n, h, w) rough depths at the pixels of `camera`, NaN = unknown; world_from_camera (n, 4, 4).
    Greedy maximum of the places' log(1 + 2 x sum of worths), a submodular cover (Nemhauser et al.,
    Math. Programming 14, 1978): the first frames that see a place count most.
    """
    return [_of_one(i, z, camera, world_from_camera, count) for i in range(len(z))]


def _of_one(i: int, z: Array, camera: Camera, world_from_camera: Array, count: int) -> list[int]:
    n, (columns, rows) = len(z), GRID
    x = ((np.arange(columns) + 0.5) * camera.width / columns).astype(int)
    y = ((np.arange(rows) + 0.5) * camera.height / rows).astype(int)
    x, y = (a.ravel() for a in np.meshgrid(x, y))
    depth = z[i][y, x]
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        return []
    pixels = np.stack([x, y], -1)[known] + 0.5
    points = apply(world_from_camera[i], rays(pixels, camera.K) * depth[known, None])
    worth = _worth(i, points, z, camera, world_from_camera)

    centres = world_from_camera[:, :3, 3]
    reach = CROWD * float(np.median(np.linalg.norm(points - centres[i], axis=1)))
    seen, fresh = np.zeros(len(points)), np.ones(n)
    chosen: list[int] = []
    while len(chosen) < min(count, n - 1):
        gain = (np.log1p(2 * (seen + worth)) - np.log1p(2 * seen)).mean(1) * fresh
        gain[[i, *chosen]] = 0
        j = int(gain.argmax())
        if gain[j] < WORTH:
            break
        chosen.append(j)
        seen += worth[j]
        apart = np.linalg.norm(centres - centres[j], axis=1) / reach
        fresh *= 1 - 0.6 * np.exp(-(apart**2))
    return chosen


def _worth(i: int, points: Array, z: Array, camera: Camera, world_from_camera: Array) -> Array:
    """(n, m): what each frame can tell frame i of its points (m, 3), 0 (nothing) to 1."""
    n, h, w = z.shape
    there = np.stack([apply(invert(T), points) for T in world_from_camera])
    ahead = there[..., 2] > 0
    ray = np.where(ahead[..., None], there / np.where(ahead, there[..., 2], 1)[..., None], 0)
    at = np.floor(np.clip(ray @ camera.K.T, -1, 1e6)[..., :2]).astype(int)
    inside = ahead & (at >= 0).all(-1) & (at < [w, h]).all(-1)
    column, row = np.clip(at[..., 0], 0, w - 1), np.clip(at[..., 1], 0, h - 1)
    surface = z[np.arange(n)[:, None], row, column]
    with np.errstate(invalid="ignore"):
        visible = inside & (there[..., 2] < HIDDEN * surface)

    to = points - world_from_camera[:, None, :3, 3]
    distance = np.linalg.norm(to, axis=-1)
    cosine = (to * to[i]).sum(-1) / np.maximum(distance * distance[i], 1e-12)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    parallax = np.minimum(angle / PARALLAX_DEG, 1)
    parallax *= np.minimum(1, (WIDE_DEG / np.maximum(angle, 1e-6)) ** 2)
    alike = np.exp(-((np.log(np.maximum(distance, 1e-12) / distance[i]) / SCALE) ** 2))
    return np.asarray(np.where(visible, parallax * alike, 0))


def linked(neighbours: list[list[int]]) -> list[list[int]]:
    """For each frame its neighbours, then the frames that chose it."""
    out: list[list[int]] = []
    for i, mine in enumerate(neighbours):
        back = [j for j, theirs in enumerate(neighbours) if i in theirs and j not in mine]
        out.append(mine + back)
    return out
