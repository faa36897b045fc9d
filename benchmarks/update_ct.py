"""The CT updated by a run after surgery, against the CT truly taken then.

    python benchmarks/update_ct.py [--seeds 1 2 3]

The made cavity of tests/synthetic_run.py: two places opened by 6 mm between CT (0.5 mm voxels) and
film (20 frames, depth noise 0.08 mm); its registration is exact, so that carving alone is judged.
Surface distances both ways at the opened site (within 1 mm of a voxel that was opened), whole and
only where a camera saw the wall: what no camera saw stays as the CT had it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening
from scipy.spatial import cKDTree

from endorecon.config import EvaluateConfig
from endorecon.evaluate.icp import Target
from endorecon.evaluate.run import place
from endorecon.evaluate.update_ct import dice, update_ct
from endorecon.geometry import apply, invert, project
from endorecon.io.ct import ct_surface, read_ct
from endorecon.io.rundir import RunDir, iterate_depths
from endorecon.scene import DepthMap

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from synthetic_run import make_ct, make_run

Array = NDArray[Any]
SITE_MM, SEEN_MM = 1.0, 0.5


def seen(points: Array, depths: list[DepthMap], ct_from_recon: Array) -> Array:
    """Which points (n, 3) in LPS mm lie on a depth map of the run."""
    here = apply(invert(ct_from_recon), points)
    limit = SEEN_MM * np.cbrt(np.linalg.det(invert(ct_from_recon)[:3, :3]))
    out = np.zeros(len(points), bool)
    for depth in depths:
        uv, z = project(here, depth.world_from_camera, depth.K)
        h, w = depth.z.shape
        inside = (z > 0) & (uv >= 0).all(-1) & (uv < [w, h]).all(-1)
        column, row = np.where(inside[:, None], uv, 0).astype(int).T
        out |= inside & (np.abs(depth.z[row, column] - z) < limit)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    seeds = parser.parse_args().seeds
    print("| seed | Dice | site: mean, HD95 mm | seen by a camera | there: mean, HD95 mm |")
    print("| --- | --- | --- | --- | --- |")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            made = make_run(Path(folder), seed, frames=20, opened=6.0, ct_format="nii")
            run, before = RunDir(made.run), read_ct(made.ct)
            placed = place(run.surface(), made.ct_from_recon)
            depths = list(iterate_depths(run))
        after = make_ct(0.5, seed, 6.0)
        found = update_ct(before, depths, placed, made.ct_from_recon, -400.0, EvaluateConfig())
        truth = binary_opening((before.hu > -400) & (after.hu <= -400))
        centres = apply(before.lps_from_index, np.argwhere(truth)[:, ::-1].astype(float))
        meshes = [ct_surface(v, -400.0, None, 0.02)[0] for v in (found.volume, after)]
        whole, there, share = [], [], 0.0
        for mesh, other in (meshes, meshes[::-1]):
            v = mesh.vertices[cKDTree(centres).query(mesh.vertices)[0] < SITE_MM]
            d = np.linalg.norm(v - Target(other.vertices, other.faces).closest(v)[0], axis=1)
            looked = seen(v, depths, made.ct_from_recon)
            share = float(looked.mean())  # the last is of the true wall
            whole.append((d.mean(), np.percentile(d, 95)))
            there.append((d[looked].mean(), np.percentile(d[looked], 95)))
        a, b = np.mean(whole, 0)[0], np.max(whole, 0)[1]
        c, e = np.mean(there, 0)[0], np.max(there, 0)[1]
        print(
            f"| {seed} | {dice(found.opened, truth):.3f} | {a:.3f}, {b:.2f} | {share:.0%} "
            f"| {c:.3f}, {e:.2f} |"
        )


if __name__ == "__main__":
    main()
