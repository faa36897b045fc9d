"""Poses settled in the pictures themselves, once depths are known nearly everywhere.

Structure from motion sees the few places that SIFT finds, and finds them in a blurred picture. With
a depth map of every frame, small patches all over it can be looked for in the other frames where
they should be (patches.py), and poses and depths adjusted to what is found (bundle.py), twice: the
second time near the adjusted poses, so that few mismatches are left. On four phantoms the depth
errors that the poses make (exact correspondences triangulated with them) fell from 0.033, 0.040,
0.042, 0.089 mm to 0.019, 0.020, 0.021, 0.066. What it takes: small windows on sharp pictures (half
width 6 or a blur of 1 px lost most of it), weakly textured places, too, links along the path, no
prior of the depths. A part of the links is left out of the adjustment and judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import RefineConfig
from endorecon.geometry import (
    align_cameras,
    epipolar_distance,
    essential,
    invert,
    rays,
    transform_pose,
)
from endorecon.patches import Picture, picture, shift_patches
from endorecon.refine.bundle import Places, Seen, adjust
from endorecon.refine.photos import Photos
from endorecon.refine.sweep import in_parallel
from endorecon.refine.sweeping import Maps

Array = NDArray[Any]

REACH = 4  # pixels over which the slant of a place is taken
BEND = 0.05  # relative bend of inverse depth over that reach beyond which a place is no plane
ALIKE = 0.9  # NCC of a match
LEAST = 1e-4  # contrast (grey 0..1): weak patches are many, and leaving them out costs most
FURTHEST = (3.0, 1.0)  # pixels from where it should be, at first and at the adjusted poses
SCALES = (0.5, 2.0)  # of the warp's axes, beyond which windows look different
NOISE = 0.001  # of grey values (0..1)
BLUR = 0.6  # pixels: weak patches drown in noise without it, and no match is like enough
FLOOR = 0.03  # pixels: matches of two frames err together by so much
JUDGING = 8  # one in so many links judges ...
FEWEST = 30  # ... where it has so many matches ...
AGAINST = 1.2  # ... and the new poses are refused when it lies so much farther off


@dataclass(frozen=True)
class Settled:
    """Poses (n, 4, 4), and by how many pixels the links that judge lie off their epipolar lines
    (`_misses`): with the old poses and with the new (NaN: no such links)."""

    world_from_camera: Array
    before: float
    after: float

    @property
    def credible(self) -> bool:
        """Whether the links that took no part do not speak against the new poses.

        They are few, and err together by about as much as the poses do: on phantoms where the
        poses' part of the depth errors fell by 25 to 50 %, they told 2 to 15 %.
        """
        return self.after < AGAINST * self.before


def settle(photos: Photos, links: list[list[int]], maps: Maps, config: RefineConfig) -> Settled:
    """Poses of the photos that agree best with the pictures, near the old ones as a whole.

    links: for each of the n frames the others in which its places are looked for; maps: depths at
    the photos' size, sure to a few percent where sigma says so.
    """
    import cv2

    n = len(photos.grey)
    old = photos.world_from_camera
    pictures = [picture(cv2.GaussianBlur(a, (0, 0), BLUR)) for a in photos.grey]
    places = [_places(photos, maps, i, config) for i in range(n)]
    jobs = [(i, j) for i in range(n) for j in links[i]]
    K, new = photos.camera.K, old
    judges: list[Seen] = []
    for furthest in FURTHEST:
        look = partial(_look, photos, new, pictures, places, furthest, config)
        found = in_parallel(lambda k, look=look: look(*jobs[k]), len(jobs))
        # Matches that were looked for at the old poses: they cannot favour the new ones.
        judges = judges or found[JUDGING - 1 :: JUDGING]
        telling = [s for k, s in enumerate(found) if k % JUDGING != JUDGING - 1]
        new, places = adjust(K, new, places, telling)
    new = transform_pose(align_cameras(new, old), new)
    before, after = (_misses(K, T, places, judges) for T in (old, new))
    return Settled(new, before, after)


def _places(photos: Photos, maps: Maps, i: int, config: RefineConfig) -> Places:
    """A grid of pixels of frame i with a sure depth on a surface without a step."""
    h, w = maps.z.shape[1:]
    stride = max(2, round(config.settle_stride * w))
    rows, columns = (np.arange(max(stride, REACH), size - REACH, stride) for size in (h, w))
    y, x = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    z, sigma = maps.z[i], maps.sigma[i]
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = 1 / z.astype(float)
        good = (sigma < config.settle_sigma * z)[y, x] & (photos.weight[i][y, x] > 0)
        here, d = inverse[y, x], REACH
        left, right = inverse[y, x - d], inverse[y, x + d]
        above, below = inverse[y - d, x], inverse[y + d, x]
        bend = np.abs(left + right - 2 * here) + np.abs(above + below - 2 * here)
        good &= bend < BEND * here  # false where any is unknown
    slope = np.stack([right - left, below - above], -1) / (2 * d)
    return Places(np.stack([x, y], -1)[good] + 0.5, here[good], slope[good])


def _look(
    photos: Photos,
    T: Array,
    pictures: list[Picture],
    places: list[Places],
    furthest: float,
    c: RefineConfig,
    i: int,
    j: int,
) -> Seen:
    """The places of frame i found in frame j, within `furthest` pixels of where poses T say."""
    K, mine = photos.camera.K, places[i]
    there = invert(T[j]) @ T[i]
    A, b = K @ there[:3, :3] @ np.linalg.inv(K), K @ there[:3, 3]
    q = np.concatenate([mine.uv, np.ones((len(mine.uv), 1))], 1) @ A.T + mine.inverse[:, None] * b
    q[q[:, 2] <= 0] = np.nan
    uv = q[:, :2] / q[:, 2:]
    # how a pixel's step in i moves in j, on the plane through the place
    steps = A[:, :2] + mine.slope[:, None] * b[:, None]  # (m, 3, 2)
    warp = (steps[:, :2] - uv[:, :, None] * steps[:, 2:]) / q[:, 2:, None]
    h, w = photos.grey.shape[1:]
    rim = c.settle_radius + furthest
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero((uv > rim).all(1) & (uv < np.array([w, h]) - rim).all(1))
    at = uv[rows].astype(int)
    rows = rows[photos.weight[j][at[:, 1], at[:, 0]] > 0]
    axes = np.linalg.svd(warp[rows], compute_uv=False)
    rows = rows[(axes > SCALES[0]).all(1) & (axes < SCALES[1]).all(1)]
    found = shift_patches(
        pictures[i], pictures[j], mine.uv[rows], uv[rows], warp[rows], c.settle_radius, LEAST
    )
    near = np.linalg.norm(found.uv - uv[rows], axis=1) < furthest
    good = (found.ncc > ALIKE) & near
    covariance = found.covariance(NOISE)[good] + FLOOR**2 * np.eye(2)
    return Seen(i, j, rows[good], found.uv[good], covariance)


def _misses(K: Array, T: Array, places: list[Places], seen: list[Seen]) -> float:
    """RMS over the links of the weighted mean signed distance from the epipolar lines, in pixels.

    One match errs by far more than the poses do; the mean of a link does not.
    """
    out = []
    for s in seen:
        if len(s.place) < FEWEST:
            continue
        p, q = rays(places[s.host].uv[s.place], K), rays(s.uv, K)
        E = essential(T[s.host], T[s.frame])
        normal = (p @ E.T)[:, :2]
        normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-20)[:, None]
        weight = 1 / np.einsum("ka,kab,kb->k", normal, s.covariance, normal)
        out.append(K[0, 0] * (weight @ epipolar_distance(E, p, q)) / weight.sum())
    return float(np.sqrt(np.mean(np.square(out)))) if out else float("nan")
