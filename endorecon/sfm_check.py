"""Checks of a pycolmap model against all verified matches (part of the SfM child process).

The mapper places a frame once and then drops what does not fit, so that a wrong pose with some
support stays. Here each frame is placed again from all its matches to points that other frames
have made; frames that the mapper gave up get the same chance. The parallax of a pair of frames is
what its matches move after the best turn of the camera has been taken out: a camera that stands or
only turns has none, whatever model the mapper has made of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from endorecon import geometry

_INLIER_PX = 4.0
_LEAST = 15  # correspondences that a pose has to explain
_LEAST_SHARE = 0.3
_EPIPOLAR_PX = 2.0
_FEWEST = 100  # matches that are needed to judge given poses
_LINK = 30  # matches across a place of the path that are needed to judge it


class Matches:
    """Verified matches of a database, by image id."""

    def __init__(self, database: Any) -> None:
        import pycolmap as pc

        self.names: dict[int, str] = {}
        self.keypoints: dict[int, np.ndarray] = {}
        self.pairs: dict[tuple[int, int], np.ndarray] = {}
        self.essential: dict[tuple[int, int], np.ndarray] = {}  # b from a, where a pair has one
        with pc.Database.open(database) as db:
            self.camera = next(iter(db.read_all_cameras()))
            for image in db.read_all_images():
                self.names[image.image_id] = image.name
                points = np.asarray(db.read_keypoints(image.image_id), float)
                uv = points[:, :2] if points.ndim == 2 and len(points) else np.zeros((0, 2))
                self.keypoints[image.image_id] = uv
            for a in self.names:
                for b in self.names:
                    if a < b and db.exists_two_view_geometry(a, b):
                        found = db.read_two_view_geometry(a, b)
                        rows = np.asarray(found.inlier_matches, int)
                        if len(rows):
                            self.pairs[a, b] = rows.reshape(-1, 2)
                            if found.E is not None:
                                self.essential[a, b] = np.asarray(found.E, float)


def parallax(matches: Matches, camera: Any) -> tuple[float, float, int]:
    """Parallax of the video in pixels and degrees, and how many pairs of frames speak for it.

    95th percentile over the pairs of the median movement that no turn of the camera explains.
    """
    found = []
    rays = {}
    for k, uv in matches.keypoints.items():
        xy = np.asarray(camera.cam_from_img(uv)) if len(uv) else np.zeros((0, 2))
        full = np.concatenate([xy, np.ones((len(xy), 1))], 1)
        rays[k] = full / np.linalg.norm(full, axis=1, keepdims=True)
    for (a, b), rows in matches.pairs.items():
        if len(rows) < 20:
            continue
        p, q = rays[a][rows[:, 0]], rays[b][rows[:, 1]]
        good = np.isfinite(p).all(1) & np.isfinite(q).all(1)
        p, q = p[good], q[good]
        if len(p) < 20:
            continue
        weight = np.ones(len(p))
        for _ in range(5):  # towards the least absolute error: most matches decide
            turn = geometry.nearest_rotation((q * weight[:, None]).T @ p)
            left = np.linalg.norm(p @ turn.T - q, axis=1)
            weight = 1.0 / np.maximum(left, 1e-4)
        found.append(float(np.median(left)))
    if not found:
        return 0.0, 0.0, 0
    angle = float(np.percentile(found, 95))
    return angle * float(camera.mean_focal_length()), float(np.degrees(angle)), len(found)


def fit_of_matches(
    matches: Matches, camera: Any, poses: dict[str, np.ndarray]
) -> dict[tuple[int, int], np.ndarray]:
    """How well poses explain every verified match, 1 (exactly) to 0 (not at all), by pair.

    1 - (d / 2 px)^2 of the epipolar distance d (Sampson): the score of MSAC. Pairs of which a
    frame has no pose are not explained. No point is asked: a wrong pose keeps only the points that
    agree with it, but the matches that contradict it stay.
    """
    rays, focal = _rays(matches, camera), float(camera.mean_focal_length())
    out = {}
    for (a, b), rows in matches.pairs.items():
        names = matches.names[a], matches.names[b]
        if names[0] not in poses or names[1] not in poses:
            out[a, b] = np.zeros(len(rows))
            continue
        E = geometry.essential(poses[names[0]], poses[names[1]])
        miss = focal * geometry.epipolar_distance(E, rays[a][rows[:, 0]], rays[b][rows[:, 1]])
        out[a, b] = np.nan_to_num(np.maximum(1.0 - (miss / _EPIPOLAR_PX) ** 2, 0.0))
    return out


def misses(
    matches: Matches, camera: Any, poses: dict[str, np.ndarray]
) -> tuple[float, float] | None:
    """Median epipolar distance (Sampson, px) of the verified matches, by poses that were given and
    by the best pose of each pair for itself. None where too few matches can be asked.

    A wrong lens or a wrong hand-eye calibration leaves matches off their epipolar lines.
    """
    rays, focal = _rays(matches, camera), float(camera.mean_focal_length())
    given, own = [], []
    for (a, b), rows in matches.pairs.items():
        names = matches.names[a], matches.names[b]
        if (a, b) not in matches.essential or not all(n in poses for n in names):
            continue
        p, q = rays[a][rows[:, 0]], rays[b][rows[:, 1]]
        E = geometry.essential(poses[names[0]], poses[names[1]])
        given.append(np.abs(geometry.epipolar_distance(E, p, q)))
        own.append(np.abs(geometry.epipolar_distance(matches.essential[a, b], p, q)))
    if sum(len(x) for x in given) < _FEWEST:
        return None
    by_given, alone = (focal * float(np.nanmedian(np.concatenate(x))) for x in (given, own))
    return by_given, alone


def _rays(matches: Matches, camera: Any) -> dict[int, np.ndarray]:
    """The keypoints of each image as (x / z, y / z, 1)."""
    rays = {}
    for k, uv in matches.keypoints.items():
        xy = np.asarray(camera.cam_from_img(uv)) if len(uv) else np.zeros((0, 2))
        rays[k] = np.concatenate([xy, np.ones((len(xy), 1))], 1)
    return rays


def weakest_link(
    matches: Matches, camera: Any, poses: dict[str, np.ndarray]
) -> tuple[str, float] | None:
    """The frame after which the path is tied worst, and how well against the path's median.

    1 is as good as elsewhere. A hinge of 20 degrees left 0.58 there, a real video has 0.69, the
    phantoms have 0.95. None when no place has enough matches to be judged.
    """
    order = sorted((name, k) for k, name in matches.names.items() if name in poses)
    place = {k: i for i, (_, k) in enumerate(order)}
    total, fitting = np.zeros(len(order)), np.zeros(len(order))
    for (a, b), fit in fit_of_matches(matches, camera, poses).items():
        if a in place and b in place:
            i, j = sorted((place[a], place[b]))
            total[i:j] += len(fit)
            fitting[i:j] += fit.sum()
    judged = np.flatnonzero(total >= _LINK)
    if not len(judged):
        return None
    share = fitting[judged] / total[judged]
    worst = int(np.argmin(share))
    return order[judged[worst]][0], float(share[worst] / max(float(np.median(share)), 1e-9))


def _points_of(model: Any) -> dict[int, np.ndarray]:
    """Point id (or -1) of every keypoint, by image id."""
    out = {}
    for k in model.reg_image_ids():
        points = model.image(k).points2D
        out[k] = np.array([p.point3D_id if p.has_point3D() else -1 for p in points], np.int64)
    return out


def _correspondences(
    image: int, matches: Matches, points_of: dict[int, np.ndarray], model: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (k, 2) of one image and the points (k, 3) that other frames have made of them."""
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for (a, b), rows in matches.pairs.items():
        if image not in (a, b):
            continue
        other, mine, theirs = (b, 0, 1) if image == a else (a, 1, 0)
        if other not in points_of:
            continue
        ids = points_of[other][rows[:, theirs]]
        for keypoint, point in zip(rows[ids >= 0, mine].tolist(), ids[ids >= 0].tolist()):
            votes[keypoint][point] += 1
    uv, xyz = [], []
    for keypoint, counts in votes.items():
        point = model.point3D(counts.most_common(1)[0][0])
        others = sum(e.image_id != image for e in point.track.elements)
        if others >= 2:
            uv.append(matches.keypoints[image][keypoint])
            xyz.append(point.xyz)
    return np.array(uv).reshape(-1, 2), np.array(xyz).reshape(-1, 3)


def _explained(pose: np.ndarray, uv: np.ndarray, xyz: np.ndarray, camera: Any) -> int:
    inside = geometry.apply(geometry.invert(pose), xyz)
    seen = np.asarray(camera.img_from_cam(inside))
    with np.errstate(invalid="ignore"):
        near = np.linalg.norm(seen - uv, axis=1) < _INLIER_PX
    return int((near & (inside[:, 2] > 0)).sum())


def place_again(
    model: Any, matches: Matches, poses: dict[str, np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Poses by name after every frame was placed again; how many moved, came or went.

    A new pose is taken only when it explains a tenth more matches than the old one; a frame that
    no pose explains is given up.
    """
    import pycolmap as pc

    points_of = _points_of(model)
    camera = next(iter(model.cameras.values()))
    estimation = pc.AbsolutePoseEstimationOptions()
    estimation.ransac.max_error = _INLIER_PX
    estimation.ransac.min_inlier_ratio = 0.1
    estimation.ransac.max_num_trials = 3000
    estimation.ransac.random_seed = seed
    out, changes = dict(poses), 0
    for image, name in sorted(matches.names.items(), key=lambda item: item[1]):
        uv, xyz = _correspondences(image, matches, points_of, model)
        if len(uv) < _LEAST:
            continue  # nothing to judge by
        old = _explained(poses[name], uv, xyz, camera) if name in poses else 0
        if old > 0.8 * len(uv):
            continue
        answer = pc.estimate_and_refine_absolute_pose(uv, xyz, camera, estimation)
        new, pose = 0, None
        if answer is not None:
            pose = np.eye(4)
            pose[:3] = answer["cam_from_world"].matrix()
            pose = geometry.invert(pose)
            new = _explained(pose, uv, xyz, camera)
        enough = max(_LEAST, _LEAST_SHARE * len(uv))
        if pose is not None and new >= enough and new > 1.1 * old:
            out[name] = pose
            changes += 1
        elif name in poses and max(old, new) < _LEAST_SHARE * len(uv):
            del out[name]
            changes += 1
    return out, changes
