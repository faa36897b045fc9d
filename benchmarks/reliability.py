"""Do the intervals of depth hold? Stated against seen coverage, and error against stated sigma.

    python benchmarks/reliability.py PICTURE.png STUDY_OR_STORE [...] [--preset cpu]

A STUDY is the folder of `endorecon validate` on phantoms, a STORE that of accuracy.py. Left: for
each stated share, the share of depths that lie within the interval of that width (Gaussian of the
stated sigma), a line a phantom, all together in black. Right: tenths of the pixels by stated sigma;
their errors' 95 % quantile over 1.96, which equals sigma where intervals of 95 % hold, and their
median over 0.674. The table below is printed; the bootstrap draws whole phantoms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from distances import of_store, of_study
from matplotlib.figure import Figure
from scipy.stats import norm

from endorecon.batch_scoring import score
from endorecon.io.rundir import RunDir

LEVELS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
Array = np.ndarray


def read(folder: Path, preset: str) -> dict[str, tuple[Array, Array]]:
    """|error| and sigma (mm) of every covered pixel, by phantom."""
    is_study = (folder / "study.json").is_file()
    runs = of_study(folder) if is_study else of_store(folder, preset)
    found = {}
    for run, world, label in sorted(runs):
        if (world / "truth").is_dir():
            e = score(RunDir(run), world)
            found[label] = np.abs(e.error), e.sigma
    return found


def coverage(error: Array, sigma: Array) -> Array:
    """Share of errors within the interval of each level."""
    ratio = np.sort(error / sigma)
    return np.searchsorted(ratio, norm.ppf(0.5 + LEVELS / 2), side="right") / len(ratio)


def pooled(parts: list[Array]) -> tuple[Array, Array, Array]:
    """Mean over phantoms, and its 95 % bootstrap interval (phantoms drawn whole)."""
    each = np.stack(parts)
    rng = np.random.default_rng(0)
    drawn = each[rng.integers(0, len(each), (2000, len(each)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return each.mean(0), low, high


def picture(found: dict[str, tuple[Array, Array]], curves: list[Array]) -> Figure:
    figure = Figure(figsize=(11, 5), dpi=110)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", lw=1)
    middle, low, high = pooled(curves)
    for name, curve in zip(found, curves, strict=True):
        left.plot(LEVELS, curve, lw=1, alpha=0.7, label=name)
    left.errorbar(
        LEVELS, middle, [middle - low, high - middle], color="k", lw=1.6, capsize=2, label="together"
    )  # fmt: skip
    left.set(xlabel="stated", ylabel="seen", title="share of depths inside the interval")
    left.set_aspect("equal")
    left.legend(fontsize=7)
    for error, sigma in found.values():
        order = np.array_split(np.argsort(sigma), 10)
        at = [np.median(sigma[k]) for k in order]
        right.plot(at, [np.quantile(error[k], 0.95) / 1.96 for k in order], "o-", lw=0.8, ms=3)
        right.plot(at, [np.median(error[k]) / 0.674 for k in order], "x:", lw=0.8, ms=4)
    limits = [0.02, 10]
    right.plot(limits, limits, color="0.6", lw=1)
    right.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    right.set(
        xlabel="stated sigma, mm", ylabel="mm", title="o: 95 % quantile / 1.96   x: median / 0.674"
    )
    figure.suptitle("endorecon: reliability of depth intervals on phantoms (not for clinical use)")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="STUDY_OR_STORE")
    parser.add_argument("--preset", default="cpu", help="of the runs in a STORE")
    a = parser.parse_args()
    found: dict[str, tuple[Array, Array]] = {}
    for folder in a.folders:
        found |= read(folder, a.preset)
    if not found:
        raise SystemExit("no finished run on a phantom in these folders")
    curves = [coverage(e, s) for e, s in found.values()]
    middle, low, high = pooled(curves)
    print("| phantom | " + " | ".join(f"{100 * level:.0f} %" for level in LEVELS) + " |")
    print("| --- |" + " --- |" * len(LEVELS))
    for name, curve in zip(found, curves, strict=True):
        print(f"| {name} | " + " | ".join(f"{100 * c:.1f}" for c in curve) + " |")
    print("| together | " + " | ".join(f"{100 * c:.1f}" for c in middle) + " |")
    print("| its 95 % interval | " + " | ".join(
        f"{100 * p:.1f}-{100 * q:.1f}" for p, q in zip(low, high, strict=True)) + " |")  # fmt: skip
    picture(found, curves).savefig(a.picture)


if __name__ == "__main__":
    main()
