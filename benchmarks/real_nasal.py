"""A run on one of the real nasal videos against the reference SfM of its data set.

    python benchmarks/real_nasal.py RUN DATA_FOLDER

No CT and no true depth exist for these videos: the reference is another SfM, at an arbitrary scale.
After a similarity (rotations averaged robustly, then centres): rotation errors, and relative depth
errors at the reference's sparse points in the frames that saw them, where the reference's own lens
shows them in the picture. Points that the reference triangulated badly count like all others; the
same by their angle of triangulation tells how much of the difference is theirs.

With --psnr, a field is trained anew on the depths of the kept round without every eighth view, and
those are rendered: PSNR inside the masks, after one exposure gain a colour (light changes between
frames, and no training has told the held-out ones theirs).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from endorecon.cli import config_of
from endorecon.evaluate.inputs import source_camera
from endorecon.field import open_field
from endorecon.field.batches import make_training_set
from endorecon.field.fit import fit_field
from endorecon.field.rendering import render
from endorecon.geometry import (
    align_cameras,
    project,
    rotation_angle_deg,
    scale_of,
    transform_pose,
)
from endorecon.io import viewstore
from endorecon.io.calibration import undistort_pixels
from endorecon.io.rundir import RunDir
from endorecon.loop import Bench
from endorecon.refine.rounds import Maps
from endorecon.scene import Views

HELD_OUT = 8  # every so many views


def hinge(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, float]:
    """Where the two trajectories disagree most over three frames, and by how many degrees."""
    worst, at = 0.0, 0
    for k in range(len(ours) - 3):
        a = ours[k, :3, :3].T @ ours[k + 3, :3, :3]
        b = theirs[k, :3, :3].T @ theirs[k + 3, :3, :3]
        angle = float(rotation_angle_deg(a.T @ b))
        if angle > worst:
            worst, at = angle, k + 2
    return at, worst


@dataclass(frozen=True)
class Reference:
    """Another structure from motion of the same video."""

    K: np.ndarray  # of the pictures as they are in the video
    poses: np.ndarray  # (frames, 4, 4) world_from_camera
    seen: dict[int, np.ndarray]  # frame -> (n, 4): points it saw, with their angle in degrees


def read_reference(data: Path) -> Reference:
    """cameras.json and, where the data set has them, sfm_points.json."""
    told = json.loads((data / "cameras.json").read_text())
    poses = np.array([f["camera_to_world"] for f in told["frames"]])
    K = np.array([[told["fx"], 0, told["cx"]], [0, told["fy"], told["cy"]], [0, 0, 1.0]])
    file = data / "sfm_points.json"  # the short video has none
    points = json.loads(file.read_text()) if file.is_file() else []
    index_of = {int(Path(f["file"]).stem): k for k, f in enumerate(told["frames"])}
    seen: dict[int, list[np.ndarray]] = {}
    for p in points["points"] if isinstance(points, dict) else points:
        frames = [index_of[int(f)] for f in p["frames"]]
        rays = np.array(p["xyz"]) - poses[frames, :3, 3]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angle = np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1, 1)))
        for f in frames:
            seen.setdefault(f, []).append(np.array([*p["xyz"], angle]))
    return Reference(K, poses, {k: np.array(v) for k, v in seen.items()})


def compare(run: RunDir, reference: Reference, part: np.ndarray) -> None:
    """Rotation and depth of the views `part`, after a similarity of their own."""
    cameras, lens = run.cameras(), source_camera(run.info())
    ours, frames = cameras.world_from_camera[part], cameras.frame_index[part]
    theirs = reference.poses[frames]
    T = align_cameras(ours, theirs)
    moved = transform_pose(T, ours)
    turn = rotation_angle_deg(np.swapaxes(moved[:, :3, :3], 1, 2) @ theirs[:, :3, :3])
    print(f"frames {frames[0]}-{frames[-1]} ({len(frames)} views), scale {scale_of(T):.4f}")
    print(
        f"  rotation error: median {np.median(turn):.2f}, P95 {np.quantile(turn, 0.95):.2f} degrees"
    )
    # Each reference point in the frames that saw it: its depth there against ours, at its pixel in
    # the picture. With our lens in place of theirs it would be another pixel.
    ratios, sigmas, angles, total = [], [], [], 0
    have = set(run.depth_indices())
    for index in map(int, frames):
        if index not in reference.seen or index not in have:
            continue
        d = run.depth(index)
        uv, z = project(reference.seen[index][:, :3], reference.poses[index], reference.K)
        h, w = d.z.shape
        uv = undistort_pixels(lens, d.camera, uv)
        ok = (z > 0) & (uv >= 0).all(1) & (uv[:, 0] < w) & (uv[:, 1] < h)
        x, y = uv[ok].astype(int).T
        found = d.z[y, x] * scale_of(T)
        total += int(ok.sum())
        known = np.isfinite(found)
        ratios.append(found[known] / z[ok][known] - 1)
        sigmas.append((d.sigma[y, x] / d.z[y, x])[known])
        angles.append(reference.seen[index][ok, 3][known])
    if not total:
        print("  no reference points: depths are not compared")
        return
    r, s = np.concatenate(ratios), np.concatenate(sigmas)
    # The scale of the centres is weak when the path is short: the depths' own beside it.
    free = np.abs((1 + r) / np.median(1 + r) - 1)
    sure = np.argsort(s)[: len(s) // 2]
    print(
        f"  relative depth at {total} observations, {100 * len(r) / total:.0f} % covered: median {100 * np.median(np.abs(r)):.2f} %, bias {100 * np.median(r):+.2f} %"
    )
    print(
        f"  with the scale of the depths: {100 * np.median(free):.2f} %, the surer half {100 * np.median(free[sure]):.2f} %"
    )
    angle = np.concatenate(angles)
    for low, high in ((0, 2), (2, 4), (4, 8), (8, 180)):
        those = (angle >= low) & (angle < high)
        if those.any():
            share, miss = 100 * those.mean(), 100 * np.median(free[those])
            print(f"    points of {low}-{high} degrees ({share:.0f} %): {miss:.2f} %")


def part_of(views: Views, kept: np.ndarray) -> Views:
    """The views at these indices, and what they saw of the sparse points."""
    row = np.full(len(views), -1)
    row[kept] = np.arange(len(kept))
    p = views.points
    mine = row[p.view_of] >= 0
    points = replace(
        p, point_of=p.point_of[mine], view_of=row[p.view_of[mine]], uv=p.uv[mine]
    )  # fmt: skip
    return replace(
        views, images=views.images[kept], masks=views.masks[kept], points=points,
        world_from_camera=views.world_from_camera[kept], frame_index=views.frame_index[kept],
        time_s=views.time_s[kept],
    )  # fmt: skip


def held_out_psnr(run: RunDir) -> np.ndarray:
    """PSNR in dB of views that a field of the run's own depths was not trained on."""
    info, views = run.info(), viewstore.final(run.path)
    config = config_of(info["preset"])
    held = np.arange(HELD_OUT // 2, len(views), HELD_OUT)
    kept = np.setdiff1d(np.arange(len(views)), held)
    bench = Bench(views, config)
    maps = bench.maps(run.round_depths(info["best_round"]))
    targets = bench.targets(Maps(maps.z[kept], maps.sigma[kept], maps.trust[kept]))
    rest = part_of(views, kept)
    field = open_field(config.field, rest, 0, "cpu")
    for _ in fit_field(field, rest, targets, config.field, config.field.steps_first):
        pass
    camera, found = bench.train, []
    photos = make_training_set(views, None, config.field)
    for i in held:
        pose = views.world_from_camera[i]
        shown = render(field, camera.K, pose, camera.width, camera.height).rgb
        a, b = shown[photos.mask[i]], photos.images[i][photos.mask[i]] / 255.0
        miss = a * (a * b).sum(0) / np.maximum((a * a).sum(0), 1e-9) - b
        found.append(-10 * np.log10((miss**2).mean()))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--psnr", action="store_true")
    a = parser.parse_args()
    run = RunDir(a.run)
    if a.psnr:
        db = held_out_psnr(run)
        print(
            f"PSNR of {len(db)} held-out views: mean {db.mean():.1f}, {db.min():.1f} to {db.max():.1f} dB"
        )
    reference, cameras, info = read_reference(a.data), run.cameras(), run.info()
    wanted = reference.poses[cameras.frame_index]
    print(
        f"{info['status']}; frames read {info['frames_read']}, kept {info['frames_kept']}, posed {info['frames_posed']}"
    )
    every = np.arange(len(wanted))
    compare(run, reference, every)
    at, angle = hinge(cameras.world_from_camera, wanted)
    print(
        f"the trajectories disagree most at frame {cameras.frame_index[at]}: {angle:.1f} degrees within three views"
    )
    if angle > 3.0:
        print("each side of it by itself:")
        compare(run, reference, every[:at])
        compare(run, reference, every[at + 1 :])


if __name__ == "__main__":
    main()
