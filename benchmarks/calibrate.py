"""How sure depths are, from runs on phantoms: quantile regression on the evidence.

    python benchmarks/calibrate.py RUN:PHANTOM ... [--test RUN:PHANTOM ...] [--config cpu]
        [--evidence FOLDER] [--write]

Runs on phantoms, as benchmarks/accuracy.py and `endorecon validate` leave them. The refinement of
rounds 1 and 2 is done again from the maps of the round before, and the truth tells the errors.
Prints the lines for CertaintyConfig, and coverage and errors by rank on every world: for the worlds
fitted on by a net that has not seen them (each left out in turn), for the others by the net that
--write stores in refine/certainty.json: its limits are shifted until they hold on the worlds left
out. --evidence keeps what the refinements gave: they take minutes each. When the lines of
CertaintyConfig change, the net is to be fitted again on the new.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from scipy.optimize import minimize

from endorecon.batch_scoring import sample
from endorecon.cli import config_of
from endorecon.evaluate.inputs import source_camera
from endorecon.geometry import align_cameras, pixel_grid, scale_of
from endorecon.io import viewstore
from endorecon.io.calibration import distort_pixels
from endorecon.io.rundir import RunDir
from endorecon.loop import Bench
from endorecon.phantom.truth import load_truth
from endorecon.refine import certainty
from endorecon.refine.certainty import AGREED, FIRST, Net, features

SAMPLES = 150_000
QUANTILE = 0.95
UNITS, STEPS, BATCH, RATE = 16, 4000, 8192, 2e-2  # of the net

Array = np.ndarray


def evidence_of(pair: str, preset: str) -> tuple[Array, Array, Array]:
    """Features (m, k) by AGREED, relative error (m,) and depth in mm (m,) of random pixels."""
    folder, phantom = pair.split(":")
    run, truth = RunDir(Path(folder)), load_truth(Path(phantom))
    views, config = viewstore.load(run.path), config_of(preset)
    bench = Bench(views, config)
    untaught = bench.maps(run.round_depths(0))
    bench.choose_neighbours(untaught)
    passes = []
    for before in run.rounds()[:-1][:2]:
        prior = bench.maps(run.round_depths(before))
        passes.append(bench.refined(before + 1, prior, untaught))
    # The refinement done again has settled the poses again.
    known = truth.world_from_camera[views.frame_index]
    scale = scale_of(align_cameras(bench.views.world_from_camera, known))
    camera, source = bench.camera, source_camera(run.info())
    uv = distort_pixels(source, camera, pixel_grid(camera.width, camera.height))
    true = []
    for frame in views.frame_index:
        z, valid = truth.depth(int(frame))
        true.append(sample(np.where(valid, z, np.nan), uv))
    depth = np.stack(true)
    rng, X, error, where = np.random.default_rng(0), [], [], []
    for maps, evidence in passes:
        e = np.abs(scale * maps.z / depth - 1)
        known = np.flatnonzero(np.isfinite(e))
        pick = rng.choice(known, min(SAMPLES, len(known)), replace=False)
        f = features(evidence)
        X.append(np.stack([f[name].ravel()[pick] for name in AGREED], 1).astype(np.float32))
        error.append(e.ravel()[pick])
        where.append(depth.ravel()[pick])
    return np.concatenate(X), np.concatenate(error), np.concatenate(where)


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


def logged(error: Array) -> Array:
    """Log of relative errors (m,) float32; what is below 1e-5 is that."""
    return np.asarray(np.log(np.maximum(error, 1e-5)), np.float32)


def fit_net(X: Array, error: Array, seed: int = 0) -> Net:
    """The net with the least quantile loss of log error; X: (m, k) in the order of AGREED."""
    torch.manual_seed(seed)
    mean, scale = X.mean(0), np.maximum(X.std(0), 1e-6)
    x = torch.tensor((X - mean) / scale, dtype=torch.float32)
    y = torch.tensor(logged(error), dtype=torch.float32)
    hidden, out = torch.nn.Linear(x.shape[1], UNITS), torch.nn.Linear(UNITS, 1)
    out.bias.data.fill_(float(np.quantile(y.numpy(), QUANTILE)))
    weights = [*hidden.parameters(), *out.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        pick = torch.randint(len(x), (BATCH,))
        miss = y[pick] - out(torch.tanh(hidden(x[pick])))[:, 0]
        loss = torch.maximum(QUANTILE * miss, (QUANTILE - 1) * miss).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    parts = (hidden.weight.T, hidden.bias, out.weight[0])
    arrays = (p.detach().numpy().copy() for p in parts)
    return Net(mean.astype(np.float32), scale.astype(np.float32), *arrays, float(out.bias.detach()))


def widened(fitted: Net, misses: list[Array]) -> Net:
    """The net with limits that hold on worlds it has not seen.

    misses: for each world log error less log limit by a net that was fitted without it. A net is
    a little too sure of itself elsewhere; cross-conformal prediction (Vovk, Ann. Math. Artif.
    Intell. 74, 2015) shifts its limits until they hold on the worlds left out, which weigh alike.
    """
    weights = np.concatenate([np.full(len(m), 1 / len(m)) for m in misses])
    pooled = np.concatenate(misses)
    order = np.argsort(pooled)
    below = np.cumsum(weights[order]) / weights.sum()
    return replace(
        fitted, out_bias=fitted.out_bias + float(pooled[order][np.searchsorted(below, QUANTILE)])
    )


def write_net(fitted: Net, worlds: list[str]) -> None:
    """refine/certainty.json."""
    told = {
        "what": "log of the limit that 95 of 100 relative errors of depth stay below",
        "made by": f"benchmarks/calibrate.py on {', '.join(worlds)}",
        "features": AGREED,
    }
    for part in ("mean", "scale", "hidden", "hidden_bias", "out"):
        told[part] = np.round(getattr(fitted, part).astype(float), 5).tolist()
    told["out_bias"] = round(fitted.out_bias, 5)
    file = Path(certainty.__file__).with_name("certainty.json")
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in told.items())
    file.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def tenths(limit: Array, error: Array) -> str:
    """Where 95 % of the errors lie against their limit, by tenths of the pixels, surest first."""
    parts = np.array_split(np.argsort(limit), 10)
    return " ".join(f"{np.quantile(error[k] / limit[k], QUANTILE):.2f}" for k in parts)


def judge(name: str, X: Array, error: Array, depth: Array, fitted: Net) -> None:
    limit = np.exp(fitted.limit(X))
    rank = np.argsort(limit * depth)
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


def kept_evidence(world: str, preset: str, folder: Path | None) -> tuple[Array, Array, Array]:
    """`evidence_of`, from `folder` where it lies there."""
    name = hashlib.sha256(f"{world} {preset}".encode()).hexdigest()[:16]
    file = None if folder is None else folder / f"{name}.npz"
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return kept["X"], kept["error"], kept["depth"]
    X, error, depth = evidence_of(world, preset)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, X=X, error=error, depth=depth, world=world)
    return X, error, depth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+", metavar="RUN:PHANTOM")
    parser.add_argument("--test", nargs="*", default=[], metavar="RUN:PHANTOM")
    parser.add_argument("--config", default="cpu")
    parser.add_argument("--evidence", type=Path)
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    found = {w: kept_evidence(w, a.config, a.evidence) for w in [*a.worlds, *a.test]}
    X, error = (np.concatenate([found[w][k] for w in a.worlds]) for k in (0, 1))
    b = fit(X[:, : len(FIRST)], list(FIRST), error)
    for name, value in zip(["constant", *FIRST], b, strict=True):
        print(f"    {name}: float = {value:.3f}")
    whole = fit_net(X, error)
    misses = []
    for world in a.worlds if len(a.worlds) > 1 else []:
        own, miss, depth = found[world]
        rest = [found[w] for w in a.worlds if w != world]
        fitted = fit_net(*(np.concatenate([r[k] for r in rest]) for k in (0, 1)))
        judge(world + " (left out)", own, miss, depth, fitted)
        misses.append(logged(miss) - fitted.limit(own))
    if misses:
        whole = widened(whole, misses)
    for world in a.test:
        judge(world + " (test)", *found[world], whole)
    if a.write:
        write_net(whole, [w.split(":")[0] for w in a.worlds])


if __name__ == "__main__":
    main()
