"""A run on one of the real nasal videos against the reference SfM of its data set.

    python benchmarks/real_nasal.py RUN DATA_FOLDER

No CT and no true depth exist for these videos: the reference is another SfM, at an arbitrary scale.
After a similarity (rotations averaged robustly, then centres): rotation errors, and relative depth
errors at the reference's sparse points in the frames that saw them. Points that the reference
triangulated badly count like all others.

With --psnr, a field is trained anew on the depths of the kept round without every eighth view, and
those are rendered: PSNR inside the masks, after one exposure gain a colour (light changes between
frames, and no training has told the held-out ones theirs).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from endorecon.cli import config_of
from endorecon.field import open_field
from endorecon.field.batches import make_training_set
from endorecon.field.fit import fit_field
from endorecon.field.rendering import render
from endorecon.geometry import align_cameras, rotation_angle_deg, scale_of, transform_pose
from endorecon.io import viewstore
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


def compare(
    run: RunDir, wanted: np.ndarray, seen: dict[int, list[np.ndarray]], part: np.ndarray
) -> None:
    """Rotation and depth of the views `part`, after a similarity of their own."""
    cameras = run.cameras()
    ours, theirs, frames = cameras.world_from_camera[part], wanted[part], cameras.frame_index[part]
    T = align_cameras(ours, theirs)
    moved = transform_pose(T, ours)
    turn = rotation_angle_deg(np.swapaxes(moved[:, :3, :3], 1, 2) @ theirs[:, :3, :3])
    print(f"frames {frames[0]}-{frames[-1]} ({len(frames)} views), scale {scale_of(T):.4f}")
    print(
        f"  rotation error: median {np.median(turn):.2f}, P95 {np.quantile(turn, 0.95):.2f} degrees"
    )
    # Each reference point in the frames that saw it: its depth there against ours, at its pixel.
    ratios, sigmas, total = [], [], 0
    have = set(run.depth_indices())
    for pose, index in zip(theirs, frames, strict=True):
        xyz = np.array(seen.get(int(index), [])).reshape(-1, 3)
        if not len(xyz) or int(index) not in have:
            continue
        d = run.depth(int(index))
        local = (xyz - pose[:3, 3]) @ pose[:3, :3]
        z = local[:, 2]
        uv = local[:, :2] / z[:, None] * [d.K[0, 0], d.K[1, 1]] + d.K[:2, 2]
        h, w = d.z.shape
        ok = (z > 0) & (uv >= 0).all(1) & (uv[:, 0] < w) & (uv[:, 1] < h)
        x, y = uv[ok].astype(int).T
        found = d.z[y, x] * scale_of(T)
        total += int(ok.sum())
        known = np.isfinite(found)
        ratios.append(found[known] / z[ok][known] - 1)
        sigmas.append((d.sigma[y, x] / d.z[y, x])[known])
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
    info, views = run.info(), viewstore.load(run.path)
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
    reference = json.loads((a.data / "cameras.json").read_text())
    poses = np.array([f["camera_to_world"] for f in reference["frames"]])
    file = a.data / "sfm_points.json"  # the short video has none
    points = json.loads(file.read_text()) if file.is_file() else []
    cameras, info = run.cameras(), run.info()
    wanted = poses[cameras.frame_index]
    seen: dict[int, list[np.ndarray]] = {}
    index_of = {int(Path(f["file"]).stem): k for k, f in enumerate(reference["frames"])}
    for p in points["points"] if isinstance(points, dict) else points:
        for f in p["frames"]:
            seen.setdefault(index_of[int(f)], []).append(np.array(p["xyz"]))
    print(
        f"{info['status']}; frames read {info['frames_read']}, kept {info['frames_kept']}, posed {info['frames_posed']}"
    )
    every = np.arange(len(wanted))
    compare(run, wanted, seen, every)
    at, angle = hinge(cameras.world_from_camera, wanted)
    print(
        f"the trajectories disagree most at frame {cameras.frame_index[at]}: {angle:.1f} degrees within three views"
    )
    if angle > 3.0:
        print("each side of it by itself:")
        compare(run, wanted, seen, every[:at])
        compare(run, wanted, seen, every[at + 1 :])


if __name__ == "__main__":
    main()
