"""Depth on the C3VD colon phantom (real colonoscope, true poses) against the depth of its model.

    python benchmarks/real_c3vd.py DATA OUT [--raw-lens]

DATA: the folder with cameras.json, images/ and depth_relative_8bit/ (19 frames, 338x270). Two things
about these files are not as their notes say. The frames are undistorted already (no black corners;
under the true poses the matches are 0.4 px off with a pinhole, 1.0 px with the fisheye lens of the
raw video), so a pinhole is found here from the true poses. And the 8-bit depths of a frame are
(z - offset) / scale with both unknown: each frame's depths are aligned by these two numbers, which
come out alike in all frames. --raw-lens reads the frames with the raw video's lens instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.optimize import least_squares

from endorecon.cli import config_of
from endorecon.evaluate.inputs import source_camera
from endorecon.geometry import epipolar_distance, essential, pixel_grid, rays
from endorecon.io.atomic import write_text
from endorecon.io.calibration import distort_pixels
from endorecon.io.rundir import RunDir, iterate_depths
from endorecon.pipeline import Job, fit

OFFSETS = np.arange(-4.0, 120.0, 2.0)  # in steps of the 8-bit depth


def pinhole_from_poses(data: Path, given: dict[str, Any]) -> tuple[float, float, float]:
    """Focal length and principal point that bring matches onto the epipolar lines of the poses."""
    frames = given["frames"]
    poses = [np.array(f["camera_to_world"]) for f in frames]
    sift = cv2.SIFT_create(3000, contrastThreshold=0.005)
    found = []
    for f in frames:
        grey = cv2.imread(str(data / f["file"]), cv2.IMREAD_GRAYSCALE)
        points, words = sift.detectAndCompute(cv2.resize(grey, None, fx=2, fy=2), None)
        found.append((np.array([p.pt for p in points]) / 2 + 0.25, words))
    pairs = []
    for a, b in [(k, k + s) for s in (1, 2) for k in range(len(frames) - s)]:
        best = cv2.BFMatcher().knnMatch(found[a][1], found[b][1], k=2)
        sure = [m for m, n in best if m.distance < 0.8 * n.distance]
        p = found[a][0][[m.queryIdx for m in sure]]
        q = found[b][0][[m.trainIdx for m in sure]]
        _, ok = cv2.findFundamentalMat(p, q, cv2.FM_RANSAC, 1.0, 0.999)
        if ok is not None and ok.sum() > 30:
            kept = ok[:, 0] > 0
            pairs.append((essential(poses[a], poses[b]), p[kept], q[kept]))

    def miss(lens: np.ndarray) -> np.ndarray:
        f, cx, cy = lens
        K = np.array([[f, 0, cx], [0, f, cy], [0, 0, 1.0]])
        return f * np.concatenate(
            [epipolar_distance(E, rays(p, K), rays(q, K)) for E, p, q in pairs]
        )

    start = np.array([given["fx"], given["cx"], given["cy"]])
    lens = least_squares(miss, start, loss="soft_l1", f_scale=0.5, x_scale=10.0).x
    print(
        f"pinhole found: f {lens[0]:.1f}, centre {lens[1]:.1f}, {lens[2]:.1f}; matches miss their"
    )
    print(f"epipolar lines by {np.median(np.abs(miss(lens))):.2f} px (calibrated f, c: "
          f"{np.median(np.abs(miss(start))):.2f} px)")  # fmt: skip
    return float(lens[0]), float(lens[1]), float(lens[2])


def aligned(z: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Relative errors of z against the best a (steps + offset), and offset and a."""
    best = (np.inf, 0.0, 0.0)
    for offset in OFFSETS:
        usable = steps + offset > 1
        a = float(np.median(z[usable] / (steps[usable] + offset)))
        best = min(best, (float(np.median(np.abs(a * (steps + offset) / z - 1))), offset, a))
    _, offset, a = best
    return z / (a * np.maximum(steps + offset, 1)) - 1, offset, a


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--raw-lens", action="store_true")
    parser.add_argument("--config", default="cpu")
    args = parser.parse_args()
    given = json.loads((args.data / "cameras.json").read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {"file_path": f["file"], "frame_index": k,
         "transform_matrix": (np.array(f["camera_to_world"]) @ flip).tolist()}
        for k, f in enumerate(given["frames"])
    ]  # fmt: skip
    if args.raw_lens:
        lens = {"camera_model": "OPENCV_FISHEYE", "fl_x": given["fx"], "fl_y": given["fy"],
                "cx": given["cx"], "cy": given["cy"]}  # fmt: skip
        lens |= {k: given[k] for k in ("k1", "k2", "k3", "k4")}
    else:
        f, cx, cy = pinhole_from_poses(args.data, given)
        lens = {"camera_model": "PINHOLE", "fl_x": f, "fl_y": f, "cx": cx, "cy": cy}
    told = {"w": given["width"], "h": given["height"], "unit": "mm", **lens, "frames": frames}
    write_text(args.out / "transforms.json", json.dumps(told))
    run = RunDir(args.out / "run")
    job = Job(
        args.data / "images", run.path, config_of(args.config), None, preset=args.config,
        poses=args.out / "transforms.json",
    )  # fmt: skip
    for _ in fit(job):
        pass
    for warning in run.info()["warnings"]:
        print("warning:", warning)
    source = source_camera(run.info())
    errors, ranks, offsets, scales, shown = [], [], [], [], 0
    for d in iterate_depths(run):
        h, w = d.z.shape
        steps = cv2.imread(str(args.data / given["frames"][d.frame_index]["depth"]))[..., 0]
        uv = distort_pixels(source, d.camera, pixel_grid(w, h))
        uv = (uv - 0.5).astype(np.float32)  # cv2 has its first pixel centre at (0, 0)
        seen = cv2.remap(steps.astype(np.float32), uv[..., 0], uv[..., 1], cv2.INTER_NEAREST)
        usable = (seen > 2) & (seen < 250)  # the ends are clipped
        known = usable & np.isfinite(d.z)
        e, offset, a = aligned(d.z[known].astype(float), seen[known].astype(float))
        errors.append(e)
        ranks.append((d.sigma / d.z)[known])
        offsets.append(offset)
        scales.append(a)
        shown += int(usable.sum())
    e, s = np.concatenate(errors), np.concatenate(ranks)
    sure = np.abs(e)[np.argsort(s)[: len(s) // 2]]
    print(f"{len(errors)} frames, {100 * len(e) / shown:.0f} % covered; relative depth error: median "
          f"{100 * np.median(np.abs(e)):.1f} %, mean {100 * np.abs(e).mean():.1f} %, P95 "
          f"{100 * np.quantile(np.abs(e), 0.95):.1f} %; surer half {100 * np.median(sure):.1f} %; "
          f"inside the 95 % interval {100 * (np.abs(e) < 1.96 * s).mean():.0f} %")  # fmt: skip
    print(f"offset {np.median(offsets):.0f} steps ({min(offsets):.0f} to {max(offsets):.0f}), "
          f"scale {np.median(scales):.3f} mm a step ({min(scales):.3f} to {max(scales):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
