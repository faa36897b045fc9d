"""A run on one of the real nasal videos against the reference SfM of its data set.

    python benchmarks/real_nasal.py RUN DATA_FOLDER

No CT and no true depth exist for these videos: the reference is another SfM, at an arbitrary scale.
After a similarity (rotations averaged robustly, then centres): rotation errors, and relative depth
errors at the reference's sparse points in the frames that saw them. Points that the reference
triangulated badly count like all others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from endorecon.geometry import align_cameras, invert, rotation_angle_deg, scale_of, transform_pose
from endorecon.io.rundir import RunDir


def main(run_folder: str, data: str) -> None:
    run = RunDir(Path(run_folder))
    reference = json.loads((Path(data) / "cameras.json").read_text())
    poses = np.array([f["camera_to_world"] for f in reference["frames"]])
    points = json.loads((Path(data) / "sfm_points.json").read_text())
    cameras, info = run.cameras(), run.info()
    wanted = poses[cameras.frame_index]
    T = align_cameras(cameras.world_from_camera, wanted)
    moved = transform_pose(T, cameras.world_from_camera)
    turn = rotation_angle_deg(np.swapaxes(moved[:, :3, :3], 1, 2) @ wanted[:, :3, :3])
    print(
        f"{info['status']}; frames read {info['frames_read']}, kept {info['frames_kept']}, posed {info['frames_posed']}"
    )
    print(
        f"rotation error: median {np.median(turn):.2f}, P95 {np.quantile(turn, 0.95):.2f} degrees"
    )
    # Each reference point in the frames that saw it: its depth there against ours, on our ray.
    seen: dict[int, list[np.ndarray]] = {}
    index_of = {int(Path(f["file"]).stem): k for k, f in enumerate(reference["frames"])}
    for p in points["points"] if isinstance(points, dict) else points:
        for f in p["frames"]:
            seen.setdefault(index_of[int(f)], []).append(np.array(p["xyz"]))
    ratios, sigmas, total = [], [], 0
    have = set(run.depth_indices())
    for pose, index in zip(wanted, cameras.frame_index, strict=True):
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
        ours = d.z[y, x] * scale_of(T)
        total += int(ok.sum())
        known = np.isfinite(ours)
        ratios.append(ours[known] / z[ok][known] - 1)
        sigmas.append((d.sigma[y, x] / d.z[y, x])[known])
    r, s = np.concatenate(ratios), np.concatenate(sigmas)
    # One scale from the depths themselves: that of the centres is weak when the path is short.
    free = (1 + r) / np.median(1 + r) - 1
    print(
        f"relative depth at {total} observations ({100 * len(r) / total:.0f} % covered): median |.| {100 * np.median(np.abs(r)):.2f} %, "
        f"bias {100 * np.median(r):+.2f} %; with the scale of the depths: median |.| {100 * np.median(np.abs(free)):.2f} %"
    )
    q = np.argsort(s)[: len(s) // 2]
    print(
        f"the half with least sigma: median |.| {100 * np.median(np.abs(r[q])):.2f} %, with the scale of the depths {100 * np.median(np.abs(free[q])):.2f} %"
    )
    assert np.isfinite(invert(T)).all()


if __name__ == "__main__":
    main(*sys.argv[1:3])
