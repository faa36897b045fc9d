"""A surface to look at from the depth maps of one round: gridded, coloured by the frames.

For the eye alone (--follow, playing rounds, comparing them), coarse on purpose: each depth map
becomes a grid of quads, torn where the depth jumps. Trusted pixels are "observed", others "weak".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.errors import EndoreconError
from endorecon.io.rundir import RunDir
from endorecon.scene import OBSERVED, WEAK, DepthMap, Surface

Array = NDArray[Any]
FACES = 150_000  # of the whole preview
JUMP = 0.08  # relative depth step that tears the grid
LONG = 5.0  # times the side of a quad that faces the camera
TRUST = 0.25  # below: weak


def round_surface(run: RunDir, round_: int) -> Surface:
    """The preview (in the run's own space) of one round; it may be empty."""
    depths = run.round_depths(round_)
    if len(depths) > 24:  # the frames overlap: two dozen show the whole cavity
        depths = [depths[k] for k in np.linspace(0, len(depths) - 1, 24).astype(int)]
    per_map = FACES // (2 * max(len(depths), 1))
    parts = [_grid(run, d, per_map) for d in depths]
    offset, faces = 0, []
    for vertices, f, *_ in parts:
        faces.append(f + offset)
        offset += len(vertices)
    if not parts:
        return _surface(*_nothing())
    return _surface(
        np.concatenate([p[0] for p in parts]), np.concatenate(faces),
        np.concatenate([p[2] for p in parts]), np.concatenate([p[3] for p in parts]),
        np.concatenate([p[4] for p in parts]),
    )  # fmt: skip


def _nothing() -> tuple[Array, ...]:
    return (np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


def _surface(vertices: Array, faces: Array, colors: Array, status: Array, sigma: Array) -> Surface:
    return Surface(
        vertices, faces, colors.astype(np.uint8), status.astype(np.uint8),
        sigma.astype(np.float32),
    )  # fmt: skip


def _grid(run: RunDir, d: DepthMap, quads: int) -> tuple[Array, ...]:
    h, w = d.z.shape
    stride = max(1, int(np.ceil(np.sqrt(h * w / max(quads, 1)))))
    rows, cols = np.arange(stride // 2, h, stride), np.arange(stride // 2, w, stride)
    pick = np.ix_(rows, cols)
    z = d.z[pick].astype(float)
    if min(z.shape) < 2:
        return _nothing()
    points = geometry.unproject(d.z.astype(float), d.world_from_camera, d.K)[pick].reshape(-1, 3)
    i = np.arange(z.size).reshape(z.shape)
    quad = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
    zq = z.ravel()[quad]
    # A step is steeper where the grid is coarser, hence the root of the stride.
    whole = np.isfinite(zq).all(1)
    whole &= np.ptp(np.where(whole[:, None], zq, 0), 1) < JUMP * np.sqrt(stride) * zq[:, 0]
    # A strip across an edge is long in space for its size in the picture: it is torn, too.
    corners = points[quad]
    longest = np.linalg.norm(np.diff(corners, axis=1, append=corners[:, :1]), axis=2).max(1)
    whole &= longest < LONG * stride * zq[:, 0] / d.K[0, 0]
    quad = quad[whole]
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    used = np.unique(faces)
    new = np.zeros(z.size, int)
    new[used] = np.arange(len(used))
    status = np.where(d.trust[pick].ravel() < TRUST, WEAK, OBSERVED)
    colors = _colors(run, d, rows, cols)
    return (
        points[used], new[faces], colors[used], status[used], d.sigma[pick].ravel()[used]
    )  # fmt: skip


def _colors(run: RunDir, d: DepthMap, rows: Array, cols: Array) -> Array:
    """The frame's colours at the picked pixels; grey when there is no frame."""
    from PIL import Image

    h, w = d.z.shape
    try:
        with Image.open(run.frame_image(d.frame_index)) as image:
            small = np.asarray(image.convert("RGB").resize((w, h), Image.Resampling.BILINEAR))
    except (EndoreconError, OSError):
        return np.full((len(rows) * len(cols), 3), 170)
    return small[np.ix_(rows, cols)].reshape(-1, 3).astype(int)
