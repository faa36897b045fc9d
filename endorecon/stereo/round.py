"""The virtual binocular of a whole round: every view read in stereo inside the field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import StereoConfig
from endorecon.field.rendering import render
from endorecon.scene import Camera, DepthMap, Views
from endorecon.stereo import Matcher
from endorecon.stereo.depth import combine, to_depth, unroll
from endorecon.stereo.rig import baseline_share, content_hull, make_pairs, motion_direction

Array = NDArray[Any]


def read_field(field: Any, views: Views, camera: Camera) -> Iterator[tuple[Array, Array]]:
    """The field's own median depth and spread (h, w) of every view, at the size of `camera`."""
    for i in range(len(views)):
        out = render(
            field, camera.K, views.world_from_camera[i], camera.width, camera.height, frame=i
        )
        yield out.z, out.spread


def measure_views(
    field: Any,
    views: Views,
    neighbours: list[list[int]],
    camera: Camera,
    matcher: Matcher,
    config: StereoConfig,
    round_: int,
) -> Iterator[tuple[DepthMap, Array, Array]]:
    """For every view: its virtual-stereo depth, the field's own z and spread, at `camera`'s size.

    The baseline is a share of the median depth of the view, and grows with the rounds.
    """
    hull = content_hull(np.asarray(views.masks.any(0))) * [
        camera.width / views.camera.width,
        camera.height / views.camera.height,
    ]
    share = baseline_share(config, round_)
    usual = median_depths(views)
    for i in range(len(views)):
        pose = views.world_from_camera[i]

        spreads: list[Array] = []

        def eye(
            K: Array, at: Array, w: int, h: int, light: Array, i: int = i, kept: Any = spreads
        ) -> tuple[Array, Array]:
            out = render(field, K, at, w, h, frame=i, light_position=light)
            kept.append(out.spread)
            return out.rgb, out.z

        roll = motion_direction(views, i, neighbours[i])
        pairs = make_pairs(eye, camera, hull, pose, roll, share * usual[i])
        maps = []
        for rolled, pair in pairs:
            depth, sigma = to_depth(pair, matcher.match(pair), config)
            a, b = unroll(rolled, [depth, sigma], camera)
            maps.append((a, b))
        first = pairs[0]
        own, spread = unroll(first[0], [first[1].z_left.astype(np.float32), spreads[0]], camera)
        yield combine(maps, camera, pose, int(views.frame_index[i])), own, spread


def median_depths(views: Views) -> list[float]:
    """Median sparse depth of each view, or of all where a view has too few points."""
    z, of = views.points.depths(views.world_from_camera), views.points.view_of
    each = [z[(of == i) & (z > 0)] for i in range(len(views))]
    return [float(np.median(m if len(m) >= 10 else z[z > 0])) for m in each]


def agrees_with_field(depth: DepthMap, own: Array, tolerance: float) -> float:
    """Share of the field's known pixels where the matcher answers near the field's own depth.

    A matcher with its sign flipped, or rubbish, scores next to nothing (fault 15).
    """
    known = np.isfinite(own)
    with np.errstate(invalid="ignore"):
        near = known & (np.abs(depth.z - own) < tolerance * own)
    return float(near.sum() / max(1, known.sum()))
