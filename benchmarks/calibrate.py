"""Coefficients of CertaintyConfig from runs on phantoms: quantile regression on the evidence.

    python benchmarks/calibrate.py RUN:PHANTOM ... [--test RUN:PHANTOM ...] [--config cpu]

Runs on phantoms, as benchmarks/accuracy.py and `endorecon validate` leave them. The refinement of
rounds 1 and 2 is done again from the maps of the round before, and the truth tells the errors.
Prints the lines for config/reconstruction.py, and coverage and errors by rank on every world.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from scipy.optimize import minimize
from scoring import lens_of, similarity

from endorecon import refine
from endorecon.batch_scoring import sample
from endorecon.cli import config_of
from endorecon.geometry import pixel_grid, scale_of
from endorecon.io import viewstore
from endorecon.io.calibration import distort_pixels
from endorecon.io.rundir import RunDir
from endorecon.loop import Bench
from endorecon.phantom.truth import load_truth
from endorecon.refine.certainty import bent, features

SAMPLES = 150_000
QUANTILE = 0.95

Array = np.ndarray


def evidence_of(pair: str, preset: str) -> tuple[Array, list[str], Array, Array]:
    """Features (m, k) with names, relative error (m,) and depth in mm (m,) of random pixels."""
    folder, phantom = pair.split(":")
    run, truth = RunDir(Path(folder)), load_truth(Path(phantom))
    views, config = viewstore.load(run.path), config_of(preset)
    bench = Bench(views, config)
    untaught = bench.maps(run.round_depths(0))
    passes = []
    for before in run.rounds()[:-1][:2]:
        passes.append(
            refine.refine_depths(
                bench.passes, bench.neighbours, bench.maps(run.round_depths(before)),
                bench.bands(before + 1), config.refine, untaught,
            )
        )  # fmt: skip
    T, _ = similarity(run, truth)
    lens, camera = lens_of(run.info()), bench.camera
    uv = distort_pixels(lens, camera, pixel_grid(camera.width, camera.height))
    uv = (
        uv @ np.array(run.info()["source_from_working"])[:2, :2].T
        + np.array(run.info()["source_from_working"])[:2, 2]
    )
    true = []
    for frame in views.frame_index:
        z, valid = truth.depth(int(frame))
        true.append(sample(np.where(valid, z, np.nan), uv))
    depth = np.stack(true)
    rng, X, error, where = np.random.default_rng(0), [], [], []
    for maps, evidence in passes:
        e = np.abs(scale_of(T) * maps.z / depth - 1)
        known = np.flatnonzero(np.isfinite(e))
        pick = rng.choice(known, min(SAMPLES, len(known)), replace=False)
        f = features(evidence)
        X.append(np.stack([a.ravel()[pick] for a in f.values()], 1).astype(float))
        error.append(e.ravel()[pick])
        where.append(depth.ravel()[pick])
    return np.concatenate(X), list(f), np.concatenate(error), np.concatenate(where)


# Evidence may not speak the wrong way: no scatter, step or contradiction makes a depth surer.
SIGNS = {"edge": 1, "wide": 1, "support": 1, "residual": 1, "prior": 1, "against": 1, "agree": -1}


def fit(X: Array, names: list[str], error: Array) -> Array:
    """Coefficients (k + 1,), the constant first, of the smoothed quantile regression of log error."""
    y = np.log(np.maximum(error, 1e-5))
    mean, scale = X.mean(0), np.maximum(X.std(0), 1e-9)
    A = np.concatenate([np.ones((len(X), 1)), (X - mean) / scale], 1)
    soft = 0.05

    def loss(b: Array) -> tuple[float, Array]:
        r = y - A @ b
        value = QUANTILE * r + soft * np.logaddexp(0, -r / soft)
        slope = QUANTILE - 1 / (1 + np.exp(np.clip(r / soft, -50, 50)))
        return float(value.mean()), -(A * slope[:, None]).mean(0)

    start = np.r_[np.quantile(y, QUANTILE), np.zeros(X.shape[1])]
    least = {1: (0.0, None), -1: (None, 0.0), 0: (None, None)}
    bounds = [(None, None), *(least[SIGNS.get(name, 0)] for name in names)]
    b = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000}
    ).x
    slopes = b[1:] / scale
    return np.r_[b[0] - slopes @ mean, slopes]


def fit_bend(total: Array, error: Array) -> tuple[float, float]:
    """Knee and bend (certainty.bent) with the least quantile loss of log error."""
    y = np.log(np.maximum(error, 1e-5))

    def loss(knee: float, bend: float) -> float:
        r = y - bent(total, knee, bend)
        return float(np.mean(np.maximum(QUANTILE * r, (QUANTILE - 1) * r)))

    knees, bends = np.arange(-4.0, -1.4, 0.1), np.arange(0.0, 4.0, 0.1)
    return min(((k, b) for k in knees for b in bends), key=lambda p: loss(*p))


def tenths(limit: Array, error: Array) -> str:
    """Where 95 % of the errors lie against their limit, by tenths of the pixels, surest first."""
    parts = np.array_split(np.argsort(limit), 10)
    return " ".join(f"{np.quantile(error[k] / limit[k], QUANTILE):.2f}" for k in parts)


def judge(
    name: str, X: Array, error: Array, depth: Array, b: Array, bend: tuple[float, float]
) -> None:
    limit = np.exp(bent(b[0] + X @ b[1:], *bend))
    rank = np.argsort(limit)
    miss = (error * depth)[rank]
    parts = [
        f"{p} %: {m.mean():.3f} / {np.quantile(m, 0.95):.3f}"
        for p in (50, 75, 85, 92, 96)
        for m in [miss[: p * len(miss) // 100]]
    ]
    print(
        f"{name}: inside {100 * (error < limit).mean():.1f} %; MAE / P95 mm of the surest", *parts
    )
    print(f"    95 % quantile of error / limit by tenths: {tenths(limit, error)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+", metavar="RUN:PHANTOM")
    parser.add_argument("--test", nargs="*", default=[], metavar="RUN:PHANTOM")
    parser.add_argument("--config", default="cpu")
    a = parser.parse_args()
    found = {w: evidence_of(w, a.config) for w in [*a.worlds, *a.test]}
    names = found[a.worlds[0]][1]
    evidence, _, errors, _ = zip(*(found[w] for w in a.worlds), strict=True)
    X, error = np.concatenate(evidence), np.concatenate(errors)
    b = fit(X, names, error)
    bend = fit_bend(b[0] + X @ b[1:], error)
    for name, value in zip(["constant", *names, "knee", "bend"], [*b, *bend], strict=True):
        print(f"    {name}: float = {value:.3f}")
    for world, (features_of, _, miss, depth) in found.items():
        judge(f"{world}{' (test)' if world in a.test else ''}", features_of, miss, depth, b, bend)


if __name__ == "__main__":
    main()
