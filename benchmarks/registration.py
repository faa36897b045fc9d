"""How surely registration finds a known similarity: from a far start, from landmarks, from nothing.

    python benchmarks/registration.py STORE [--trials 10] [--first 0] [--rows far landmarks none]

Each trial moves a part of an anatomy by a known similarity. 40 % of the moving surface lies on the
target, 30 % of its points are outliers (6 mm, random normals), the rest has 0.1 mm of noise along
its normals. Rows: `far`: the start is 30 degrees, 20 mm and 20 % of scale away; `landmarks`: six
with 0.5 mm of noise an axis, where the parts overlap; `none`: no start, any orientation, scale
unknown (off by 0.03), through `register`. The error is the mean distance of the true surface points
to where they belong, mm. Anatomies: phantoms, and surfaces of real CTs in $ENDORECON_DATA, left
out where it is not set. STORE (JSON lines) keeps finished trials; the same command goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from endorecon.config import EvaluateConfig
from endorecon.errors import EndoreconError
from endorecon.evaluate.icp import Points, Target, icp, sample_surface
from endorecon.evaluate.register import Paired, register
from endorecon.evaluate.search import search
from endorecon.geometry import apply, compose, invert
from endorecon.io.ct import ct_surface, read_ct
from endorecon.phantom.anatomy import make_anatomy
from endorecon.phantom.implicit import extract_mesh, sample_volume

Array = NDArray[Any]
CONFIG = EvaluateConfig()
GOOD_MM = 0.05
# Boxes in LPS mm round what an endoscope could see.
REAL = {
    "real CT, UNC head: nasal cavity": (
        "ct-unc-cthead/cthead_hu.nii.gz", (-22.0, -80.0, -40.0), (22.0, 10.0, 25.0),
    ),
    "real CT, skull phantom: nose": (
        "ct-skull-phantom/dicom", (-25.0, 10.0, 694.0), (25.0, 90.0, 743.0),
    ),
    "real CT, Visible Human: sphenoid, pharynx": (
        "ct-visible-human-head/dicom", (215.0, 150.0, 1590.0), (300.0, 260.0, 1655.0),
    ),
}  # fmt: skip
PHANTOMS = ("sinus 5", "sinus 6", "colon 5")


@functools.lru_cache(maxsize=1)
def surface(name: str) -> tuple[Array, Array]:
    """Vertices (v, 3) in LPS mm and faces of an anatomy."""
    if name in REAL:
        place, low, high = REAL[name]
        volume = read_ct(Path(os.environ["ENDORECON_DATA"]) / place)
        found, _ = ct_surface(volume, -400.0, (np.array(low), np.array(high)), 0.02)
        return found.vertices, found.faces
    family, seed = name.split()
    a = make_anatomy(family, int(seed))
    mesh = extract_mesh(a.distance, sample_volume(a.distance, a.low, a.high, 0.6))
    return mesh.vertices.astype(float), mesh.faces.astype(np.int64)


def part(vertices: Array, faces: Array, keep: Array) -> tuple[Array, Array]:
    """The faces whose corners are all kept, with their vertices only."""
    kept = faces[keep[faces].all(1)]
    used, renumbered = np.unique(kept, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3)


def hard_case(name: str, trial: int) -> tuple[Points, Target, Array, Array, Paired]:
    """Moving points, target, true target_from_moving, which points are true, six landmarks."""
    v, f = surface(name)
    rng = np.random.default_rng([trial, 77])
    axis, centre = rng.normal(size=3), v.mean(0)
    height = (v - centre) @ (axis / np.linalg.norm(axis))
    moving = height > np.quantile(height, 0.35)
    on_target = height < np.quantile(height[moving], 0.4)
    target = Target(*part(v, f, on_target))
    p = sample_surface(v, f[moving[f].all(1)], np.full(len(v), 0.1), 6000, trial)
    xyz, normals = p.xyz + p.normals * rng.normal(0, 0.1, (6000, 1)), p.normals.copy()
    wild = rng.random(6000) < 0.3
    xyz[wild] += rng.normal(0, 6, (int(wild.sum()), 3))
    normals[wild] = rng.normal(size=(int(wild.sum()), 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    turn, shift = rng.normal(size=3), rng.normal(size=3)
    R = Rotation.from_rotvec(np.radians(30) * turn / np.linalg.norm(turn)).as_matrix()
    s = 1.2 if trial % 2 else 1 / 1.2
    A = compose(R, centre + 20 * shift / np.linalg.norm(shift) - s * R @ centre, s)
    both = v[moving & on_target]
    marks = both[rng.choice(len(both), 6, replace=False)]
    seen = apply(A, marks + rng.normal(0, 0.5, marks.shape))
    paired = Paired(tuple("abcdef"), seen, marks)
    return Points(apply(A, xyz), normals @ R.T, p.sigma * s), target, invert(A), ~wild, paired


def run(name: str, trial: int, row: str) -> dict[str, Any]:
    """One trial: the error, or what was said instead of a place."""
    points, target, truth, true, paired = hard_case(name, trial)
    began, said = time.perf_counter(), ""
    found = None
    try:
        if row == "far":
            ladder = [0.82, 0.9, 1.0, 1.1, 1.22]
            places, ambiguous = search(
                points, target, ladder, True, CONFIG.search_trials, CONFIG.inlier_mm, trial,
                (np.eye(4),),
            )  # fmt: skip
            found = icp(points, target, places[0].b_from_a, True, width=0.6).b_from_a
            said = "ambiguous" if ambiguous else ""
        elif row == "landmarks":
            found = register(points, target, paired, None, (), CONFIG).similarity.ct_from_recon
        else:
            lost = compose(Rotation.random(random_state=trial).as_matrix(), np.ones(3), 0.03)
            turned = points.normals @ lost[:3, :3].T / 0.03
            away = Points(apply(lost, points.xyz), turned, points.sigma * 0.03)
            found = register(away, target, None, None, (), CONFIG).similarity.ct_from_recon @ lost
    except EndoreconError as error:
        said = str(error).splitlines()[0]
    there = apply(truth, points.xyz[true])
    error_mm = (
        None
        if found is None
        else float(np.linalg.norm(apply(found, points.xyz[true]) - there, axis=1).mean())
    )
    seconds = time.perf_counter() - began
    return {"row": row, "anatomy": name, "trial": trial, "error_mm": error_mm, "said": said,
            "seconds": seconds}  # fmt: skip


def table(trials: list[dict[str, Any]]) -> str:
    """Markdown, one line a row and anatomy."""
    out = [
        "| row | anatomy | trials | found (< 0.05 mm) | refused, and said so | wrong and sure "
        "| median error mm | largest of the found |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in dict.fromkeys(t["row"] for t in trials):
        mine = [t for t in trials if t["row"] == row]
        for name in [*dict.fromkeys(t["anatomy"] for t in mine), "**all**"]:
            some = [t for t in mine if name in (t["anatomy"], "**all**")]
            sure = [t for t in some if not t["said"]]
            good = [t["error_mm"] for t in sure if t["error_mm"] < GOOD_MM]
            median = f"{np.median(good):.3f}" if good else "–"
            worst = f"{max(good):.3f}" if good else "–"
            out.append(
                f"| {row} | {name} | {len(some)} | {len(good)} ({100 * len(good) / len(some):.0f} %) "
                f"| {len(some) - len(sure)} | {len(sure) - len(good)} | {median} | {worst} |"
            )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    parser.add_argument("--rows", nargs="+", default=["landmarks", "far", "none"])
    arguments = parser.parse_args()
    names = [*PHANTOMS, *(REAL if "ENDORECON_DATA" in os.environ else ())]
    store: Path = arguments.store
    text = store.read_text() if store.exists() else ""
    trials = [json.loads(line) for line in text.splitlines()]
    done = {(t["row"], t["anatomy"], t["trial"]) for t in trials}
    for name in names:
        for row in arguments.rows:
            for trial in range(arguments.first, arguments.first + arguments.trials):
                if (row, name, trial) in done:
                    continue
                trials.append(run(name, trial, row))
                with open(store, "a") as file:
                    file.write(json.dumps(trials[-1]) + "\n")
    order = [t for r in ("landmarks", "far", "none") for t in trials if t["row"] == r]
    print(table(order))


if __name__ == "__main__":
    main()
