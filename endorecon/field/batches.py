"""What a field is trained on: pixels of reduced images, sparse depths, dense depths; and batches.

Images are reduced by area to `FieldConfig.width`; a reduced pixel is used only if all of the pixels
under it are usable. Every batch is a function of (seed, step) alone, so that resume repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from endorecon.config import FieldConfig
from endorecon.errors import InputRefused
from endorecon.field.nerf import NerfField
from endorecon.field.twin import RayBatch
from endorecon.scene import Camera, Views

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DenseTargets:
    """Depths wanted, at the training size, in the unit of the poses."""

    z: NDArray[np.float32]  # (n, h, w), NaN = unknown
    weight: NDArray[np.float32]  # (n, h, w) trust in [0, 1]
    sigma: NDArray[np.float32]  # (n, h, w) one standard deviation


def training_camera(camera: Camera, width: int) -> Camera:
    """The camera of the reduced images: `width` pixels wide, never enlarged."""
    return camera if camera.width <= width else camera.scaled(width / camera.width)


@dataclass
class TrainingSet:
    """Reduced images and depths, ready to be drawn from."""

    K: Array
    poses: Array  # (n, 4, 4)
    images: NDArray[np.uint8]  # (n, h, w, 3)
    usable: NDArray[np.int64]  # flat indices of pixels that may be drawn
    mask: NDArray[np.bool_]
    sparse_view: NDArray[np.int64]
    sparse_uv: Array  # (k, 2) pixels of the reduced images
    sparse_z: Array
    sparse_weight: Array
    targets: DenseTargets | None


def make_training_set(
    views: Views, targets: DenseTargets | None, config: FieldConfig
) -> TrainingSet:
    """Reduce the views and collect their depths; InputRefused if nothing can be drawn."""
    camera = training_camera(views.camera, config.width)
    h, w, n = camera.height, camera.width, len(views)
    images, mask = np.zeros((n, h, w, 3), np.uint8), np.zeros((n, h, w), bool)
    for k in range(n):
        images[k], mask[k] = _reduce(views.images[k], views.masks[k], w, h)
    usable = np.flatnonzero(mask)
    if len(usable) == 0:
        raise InputRefused("every pixel of every frame is masked", "check the masks")
    if targets is not None and targets.z.shape != (n, h, w):
        raise ValueError(f"targets are {targets.z.shape}, the training images {(n, h, w)}")
    points = views.points
    z = points.depths(views.world_from_camera)
    uv = points.uv * np.array([w / views.camera.width, h / views.camera.height])
    inside = (uv > 0).all(1) & (uv[:, 0] < w) & (uv[:, 1] < h) & (z > 0) & np.isfinite(z)
    weight = 1.0 / (1.0 + (points.error_px[points.point_of] / 2.0) ** 2)
    return TrainingSet(
        camera.K, views.world_from_camera, images, usable, mask,
        points.view_of[inside], uv[inside], z[inside], weight[inside], targets,
    )  # fmt: skip


def _reduce(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], w: int, h: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image and its mask reduced by area to (h, w)."""
    import cv2

    if image.shape[:2] == (h, w):
        return image, mask
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), share > 0.999


def draw_batch(
    field: NerfField, data: TrainingSet, config: FieldConfig, uniform_share: float
) -> RayBatch:
    """The batch of the field's next step: pixels at random, and rays through sparse points."""
    rng = np.random.default_rng([field.seed, field.step, 2])
    n_sparse = 0
    if config.sparse_depth > 0 and len(data.sparse_z):
        n_sparse = round(config.sparse_share * config.rays)
    h, w = data.images.shape[1:3]
    pick = data.usable[rng.integers(0, len(data.usable), config.rays - n_sparse)]
    view, pixel = np.divmod(pick, h * w)
    row, column = np.divmod(pixel, w)
    chosen = rng.integers(0, max(len(data.sparse_z), 1), n_sparse)
    uv = np.concatenate([np.stack([column + 0.5, row + 0.5], 1), data.sparse_uv[chosen]])
    view = np.concatenate([view, data.sparse_view[chosen]])
    row = np.concatenate([row, data.sparse_uv[chosen, 1].astype(np.int64)])
    column = np.concatenate([column, data.sparse_uv[chosen, 0].astype(np.int64)])
    seen = data.mask[view, row, column]
    seen[len(pick) :] = False  # a sparse ray is off its pixel's centre: depth only

    R, scale = config.rays, field.depth
    target, weight = np.zeros(R), np.zeros(R)
    sigma = np.ones(R)
    if data.targets is not None and config.dense_depth > 0:
        z = data.targets.z[view, row, column].astype(float)
        trust = data.targets.weight[view, row, column].astype(float)
        known = np.isfinite(z) & (z > 0) & (trust > 0)
        known[len(pick) :] = False
        target[known], weight[known] = z[known], config.dense_depth * trust[known]
        sigma[known] = np.maximum(data.targets.sigma[view, row, column][known], 0.002 * z[known])
    s = slice(len(pick), R)
    target[s] = data.sparse_z[chosen]
    weight[s] = config.sparse_depth * data.sparse_weight[chosen] / max(config.sparse_share, 1e-6)
    sigma[s] = config.sparse_sigma * target[s]
    half = np.maximum(3.0 * sigma, config.band_least * target)
    band = np.where((weight > 0)[:, None], np.stack([target - half, target + half], 1), 0.0)

    origin, direction, view_dir, norm = field.rays(uv, data.K, data.poses[view])

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(field.device)

    jitter = tensor(rng.random(R))
    edges = field.edges(
        origin, direction, norm, tensor(band / scale), jitter, config.samples, uniform_share
    )
    return RayBatch(
        origin, direction, view_dir, norm,
        torch.from_numpy(view.astype(np.int32)).to(field.device),
        edges,
        tensor(data.images[view, row, column] / np.float32(255)),
        tensor(seen), tensor(target / scale), tensor(sigma / scale), tensor(weight),
        None, config.charbonnier, config.spread, config.white,
    )  # fmt: skip
