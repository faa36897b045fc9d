"""Observations sharpened against each other in the pictures (part of the SfM child process).

SIFT finds a place on smooth mucosa to about a pixel only, and each picture on its own. Here the
patch round one observation of a point (the one of middle depth) is matched into the pictures of
its other observations: turned and scaled as the poses and depths say, shifted until the grey
values agree (Lucas-Kanade with gain and offset, Gaussian window). Measured on phantoms with truth,
40 and 12 frames: median residual 0.45 -> 0.28 px and 0.29 -> 0.16 px, 90th percentile of the depth
error of the points 2.6 -> 1.5 mm and 3.9 -> 2.0 mm, camera centres 15-35 % nearer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_STEPS = 8
_LEAST_NCC = 0.85
_FURTHEST_PX = 3.0
_FEW = 40  # a frame keeps unsharpened observations rather than having fewer


def _pictures(model: Any, folder: Path) -> dict[int, list[np.ndarray]]:
    """Smoothed picture and its two derivatives, by image id."""
    import pycolmap as pc
    from scipy.ndimage import correlate1d, gaussian_filter

    out = {}
    slope = np.array([-0.5, 0.0, 0.5], np.float32)
    for k in model.reg_image_ids():
        bitmap = pc.Bitmap.read(str(folder / model.image(k).name), as_rgb=False)
        assert bitmap is not None, "the parent has written every picture"
        grey = bitmap.to_array()
        smooth = gaussian_filter(grey.reshape(grey.shape[:2]).astype(np.float32), 1.0)
        out[k] = [smooth, correlate1d(smooth, slope, 1), correlate1d(smooth, slope, 0)]
    return out


def _sample(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values (...) at pixels (..., 2), centres at .5, bilinear."""
    h, w = picture.shape
    x = np.clip(uv[..., 0] - 0.5, 0, w - 1.001)
    y = np.clip(uv[..., 1] - 0.5, 0, h - 1.001)
    i, j = y.astype(np.int32), x.astype(np.int32)
    fy, fx = (y - i).astype(np.float32), (x - j).astype(np.float32)
    flat, at = picture.ravel(), i * w + j
    upper = flat[at] * (1 - fx) + flat[at + 1] * fx
    lower = flat[at + w] * (1 - fx) + flat[at + w + 1] * fx
    return upper * (1 - fy) + lower * fy


def _jobs(model: Any, seen_from: dict[int, np.ndarray]) -> dict[tuple[int, int], list[Any]]:
    """(reference image, image) -> rows (reference keypoint, keypoint, scale)."""
    out: dict[tuple[int, int], list[Any]] = {}
    for key in sorted(model.points3D):
        point = model.points3D[key]
        track = sorted((e.image_id, e.point2D_idx) for e in point.track.elements)
        depths = [float(seen_from[i][2] @ np.append(point.xyz, 1.0)) for i, _ in track]
        middle = int(np.argsort(depths)[len(depths) // 2])
        reference, keypoint = track[middle]
        for (image, other), depth in zip(track, depths):
            if image != reference and depth > 0:
                row = (keypoint, other, depths[middle] / depth)
                out.setdefault((reference, image), []).append(row)
    return out


def shift_patches(
    reference: list[np.ndarray],
    picture: list[np.ndarray],
    uv_reference: np.ndarray,
    uv: np.ndarray,
    turn_scale: np.ndarray,
    radius: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) where the patches agree best, started at `uv`, and their NCC (n,).

    turn_scale: (n, 2, 2), from offsets in the reference to offsets in the picture.
    """
    span = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(span, span), -1).reshape(-1, 2).astype(float)
    weight = np.exp(-(offsets**2).sum(1) / (2 * (radius / 1.8) ** 2)).astype(np.float32)
    weight /= weight.sum()

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (values * weight).sum(1, keepdims=True)

    template = centred(_sample(reference[0], uv_reference[:, None] + offsets))
    contrast = np.sqrt((template**2 * weight).sum(1, keepdims=True))
    moved = np.einsum("nij,kj->nki", turn_scale, offsets)
    now = uv.copy()
    ncc = np.zeros(len(uv))
    for step in range(_STEPS + 1):
        at = now[:, None] + moved
        values = centred(_sample(picture[0], at))
        own = np.sqrt((values**2 * weight).sum(1, keepdims=True))
        ncc = (template * values * weight).sum(1) / np.maximum((contrast * own)[:, 0], 1e-6)
        if step == _STEPS:
            break
        gain = contrast / np.maximum(own, 1e-3)
        gx = centred(_sample(picture[1], at)) * gain
        gy = centred(_sample(picture[2], at)) * gain
        left = template - values * gain
        a, b, c = (gx * gx * weight).sum(1), (gx * gy * weight).sum(1), (gy * gy * weight).sum(1)
        damp = 1e-3 * (a + c) + 1e-6
        a, c = a + damp, c + damp
        u, v = (gx * left * weight).sum(1), (gy * left * weight).sum(1)
        move = np.stack([c * u - b * v, a * v - b * u], 1) / (a * c - b * b)[:, None]
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        now = now + move * np.minimum(1.0, 1.0 / length)
    return now, ncc


def sharpen(model: Any, folder: Path) -> float:
    """Move the model's observations to where the pictures agree; the share that could be.

    What cannot be matched is taken out of its track, unless its frame would be left with few.
    Bundle adjustment has to follow.
    """
    pictures = _pictures(model, folder)
    seen_from = {k: np.asarray(model.image(k).cam_from_world().matrix()) for k in pictures}
    width = next(iter(pictures.values()))[0].shape[1]
    radius = int(np.clip(round(width / 85), 5, 10))
    good: list[tuple[int, int, np.ndarray]] = []
    bad: dict[int, list[int]] = {}
    for (a, b), rows in _jobs(model, seen_from).items():
        points_a, points_b = model.image(a).points2D, model.image(b).points2D
        uv_a = np.array([points_a[r[0]].xy for r in rows])
        uv_b = np.array([points_b[r[1]].xy for r in rows])
        rotation = seen_from[b][:, :3] @ seen_from[a][:, :3].T
        roll = np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        turn_scale = np.array([r[2] for r in rows])[:, None, None] * turn
        now, ncc = shift_patches(pictures[a], pictures[b], uv_a, uv_b, turn_scale, radius)
        fine = (ncc > _LEAST_NCC) & (np.linalg.norm(now - uv_b, axis=1) < _FURTHEST_PX)
        for row, ok, uv in zip(rows, fine, now):
            if ok:
                good.append((b, row[1], uv))
            else:
                bad.setdefault(b, []).append(row[1])
    for image, keypoint, uv in good:
        model.image(image).points2D[keypoint].xy = uv
    for image, keypoints in bad.items():
        if model.image(image).num_points3D - len(keypoints) < _FEW:
            continue
        for keypoint in keypoints:
            if model.image(image).points2D[keypoint].has_point3D():
                model.delete_observation(image, keypoint)
    total = len(good) + sum(map(len, bad.values()))
    return len(good) / max(total, 1)


def drop_narrow(model: Any, angles: np.ndarray, keys: list[int]) -> None:
    """Remove points seen under so narrow an angle that their depth says nothing."""
    limit = min(1.0, 0.3 * float(np.median(angles))) if len(angles) else 0.0
    for key, angle in zip(keys, angles):
        if angle < limit:
            model.delete_point3D(key)
