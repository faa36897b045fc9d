"""Agreement statistics of repeated measures, and distances between surfaces.

Bland-Altman (Lancet 1986; repeated measures after Stat Methods Med Res 1999, 8:135) and the
intraclass correlation (Shrout & Fleiss 1979, intervals after McGraw & Wong 1996) are written here,
because their only library is under the GPL; tests hold them to the published tables. TOST and
variance components come from statsmodels, the bootstrap from scipy. Words as in ISO 5725:
trueness is the bias, precision the spread (repeatability within, reproducibility between
observers). Differences are reconstruction minus CT, in mm.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.evaluate.icp import Target

Array = NDArray[Any]
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement, each with its 95 % interval."""

    n: int
    subjects: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_ci: tuple[float, float]
    lower_ci: tuple[float, float]
    upper_ci: tuple[float, float]


def bland_altman(differences: Array, subjects: Array | None = None) -> BlandAltman:
    """Limits of agreement of differences (n,); `subjects` (n,) marks repeats of one distance.

    With repeats the variance is between plus within subjects (one-way analysis), and the
    degrees of freedom of the intervals are those of the subjects: repeats are no new patients.
    """
    from scipy.stats import t

    d = np.asarray(differences, float)
    n = len(d)
    if n < 2:
        raise ValueError("limits of agreement need at least 2 differences")
    if subjects is None or len(np.unique(subjects)) in (1, n):
        m, bias, sd = n, float(d.mean()), float(d.std(ddof=1))
        se_bias = sd / np.sqrt(n)
    else:
        _, which = np.unique(subjects, return_inverse=True)
        count = np.bincount(which)
        mean = np.bincount(which, d) / count
        m = len(count)
        within = float(((d - mean[which]) ** 2).sum() / max(n - m, 1))
        bias = float(mean.mean())
        spread = float(mean.var(ddof=1))
        between = max(spread - within * float((1.0 / count).mean()), 0.0)
        sd = float(np.sqrt(between + within))
        se_bias = float(np.sqrt(spread / m))
    q = float(t.ppf(0.975, m - 1))
    se_limit = sd * np.sqrt(1.0 / m + _Z95**2 / (2 * (m - 1)))
    low, high = bias - _Z95 * sd, bias + _Z95 * sd
    return BlandAltman(
        n, m, bias, sd, low, high,
        (bias - q * se_bias, bias + q * se_bias),
        (low - q * se_limit, low + q * se_limit),
        (high - q * se_limit, high + q * se_limit),
    )  # fmt: skip


@dataclass(frozen=True)
class Icc:
    """Intraclass correlations of single ratings with 95 % intervals."""

    one_way: float  # ICC(1,1)
    agreement: float  # ICC(2,1): observers are a random sample, absolute agreement
    consistency: float  # ICC(3,1)
    one_way_ci: tuple[float, float]
    agreement_ci: tuple[float, float]
    consistency_ci: tuple[float, float]


def icc(ratings: Array) -> Icc:
    """ICC of ratings (n targets, k judges), complete table, n >= 2 and k >= 2."""
    from scipy.stats import f

    x = np.asarray(ratings, float)
    n, k = x.shape
    if n < 2 or k < 2:
        raise ValueError("the intraclass correlation needs 2 targets and 2 judges")
    grand, rows, columns = x.mean(), x.mean(1), x.mean(0)
    ms_rows = k * ((rows - grand) ** 2).sum() / (n - 1)
    ms_judges = n * ((columns - grand) ** 2).sum() / (k - 1)
    ms_within = ((x - rows[:, None]) ** 2).sum() / (n * (k - 1))
    residual = x - rows[:, None] - columns[None] + grand
    ms_error = max((residual**2).sum() / ((n - 1) * (k - 1)), 1e-300)
    ms_within = max(ms_within, 1e-300)
    one = (ms_rows - ms_within) / (ms_rows + (k - 1) * ms_within)
    agreement = (ms_rows - ms_error) / (
        ms_rows + (k - 1) * ms_error + k * (ms_judges - ms_error) / n
    )
    consistency = (ms_rows - ms_error) / (ms_rows + (k - 1) * ms_error)

    def ratio(F: float, df1: float, df2: float) -> tuple[float, float]:
        low = F / f.ppf(0.975, df1, df2)
        high = F * f.ppf(0.975, df2, df1)
        return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))

    a = k * agreement / (n * (1 - agreement)) if agreement < 1 else np.inf
    b = 1 + k * agreement * (n - 1) / (n * (1 - agreement)) if agreement < 1 else np.inf
    if np.isfinite(a) and np.isfinite(b):
        v = (a * ms_judges + b * ms_error) ** 2 / (
            (a * ms_judges) ** 2 / (k - 1) + (b * ms_error) ** 2 / ((n - 1) * (k - 1))
        )
        fl, fu = f.ppf(0.975, n - 1, v), f.ppf(0.975, v, n - 1)
        low = (
            n
            * (ms_rows - fl * ms_error)
            / (fl * (k * ms_judges + (k * n - k - n) * ms_error) + n * ms_rows)
        )
        high = (
            n
            * (fu * ms_rows - ms_error)
            / (k * ms_judges + (k * n - k - n) * ms_error + n * fu * ms_rows)
        )
    else:
        low = high = 1.0
    return Icc(
        float(one), float(agreement), float(consistency),
        ratio(ms_rows / ms_within, n - 1, n * (k - 1)),
        (float(low), float(high)),
        ratio(ms_rows / ms_error, n - 1, (n - 1) * (k - 1)),
    )  # fmt: skip


def tost(differences: Array, margin: float) -> float:
    """p-value of equivalence within +/- margin (two one-sided t tests; statsmodels).

    Give one difference a subject: repeats of one distance are not independent.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    d = np.asarray(differences, float)
    if len(d) < 2:
        return float("nan")
    if np.ptp(d) == 0:
        return 0.0 if abs(d[0]) < margin else 1.0
    return float(DescrStatsW(d).ttost_mean(-margin, margin)[0])


@dataclass(frozen=True)
class Precision:
    """ISO 5725 words: trueness = bias; standard deviations in mm. NaN where not estimable."""

    bias: float
    repeatability: float  # within observer
    between_observer: float
    reproducibility: float  # sqrt of the sum of both squares
    between_distance: float  # how much the bias differs from distance to distance
    method: str


def precision(differences: Array, subjects: Array, observers: Array) -> Precision:
    """Variance components of differences by distance and observer (mixed model, REML)."""
    d = np.asarray(differences, float)
    nan = float("nan")
    cells = len(set(zip(subjects, observers, strict=True)))
    if len(d) < 4 or cells >= len(d):
        return Precision(float(d.mean()), nan, nan, nan, nan, "too few repeats")
    many = len(np.unique(observers)) > 1
    try:
        import pandas as pd
        from statsmodels.regression.mixed_linear_model import MixedLM

        spread = float(d.std()) or 1.0  # the optimiser likes numbers near one
        table = pd.DataFrame({"d": d / spread, "s": subjects, "o": observers})
        formula = {"observer": "0 + C(o)"} if many else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MixedLM.from_formula(
                "d ~ 1", table, groups="s", re_formula="1", vc_formula=formula
            ).fit(reml=True, method="lbfgs")
        within = float(model.scale) * spread**2
        between = float(model.vcomp[0]) * spread**2 if many else 0.0
        distance = float(np.asarray(model.cov_re)[0, 0]) * spread**2
        bias, method = float(model.fe_params.iloc[0]) * spread, "mixed model, REML"
        if not np.isfinite([within, between, distance, bias]).all():
            raise ValueError("not finite")
    except (ValueError, np.linalg.LinAlgError, ImportError):
        return Precision(float(d.mean()), _within(d, subjects, observers), nan, nan, nan, "cells")
    r = np.sqrt([within, between, within + between, distance]).tolist()
    return Precision(bias, r[0], r[1], r[2], r[3], method)


def _within(d: Array, subjects: Array, observers: Array) -> float:
    keys = [f"{s}\0{o}" for s, o in zip(subjects, observers, strict=True)]
    _, cell = np.unique(keys, return_inverse=True)
    mean = np.bincount(cell, d) / np.bincount(cell)
    free = len(d) - len(mean)
    return float(np.sqrt(((d - mean[cell]) ** 2).sum() / free)) if free > 0 else float("nan")


def excess_variance(squares: Array, free: Array, known: Array) -> float:
    """The variance that cells have in common beyond their own known one; at least 0.

    squares (n,): sums of squares, free (n,): their degrees of freedom, known (n,): variances.
    Weighted moments (Paule & Mandel, J Res NBS 1982, 87:377): each cell counts by how much it can
    tell, so that the ill-known do not drown the well-known. 0 without cells.
    """
    excess = 0.0
    for _ in range(50):
        weights = free / np.maximum(known + excess, 1e-300) ** 2
        if not len(weights) or not weights.sum() > 0:
            return 0.0
        excess = max(float(weights @ (squares / free - known) / weights.sum()), 0.0)
    return excess


def share_with_interval(hits: Array, clusters: Array | None = None, seed: int = 0) -> Array:
    """A share of True and its 95 % bootstrap interval (3,): share, low, high.

    `clusters` (n,): whole clusters are drawn, for hits that are not independent. One cluster (or
    one hit) tells nothing of its own spread: NaN.
    """
    from scipy.stats import bootstrap

    h = np.asarray(hits, float)
    if clusters is None:
        total, count = h, np.ones_like(h)
    else:
        _, which = np.unique(clusters, return_inverse=True)
        total, count = np.bincount(which, h), np.bincount(which).astype(float)

    if len(total) < 2:
        return np.array([h.mean() if len(h) else np.nan, np.nan, np.nan])

    def ratio(a: Array, b: Array, axis: int = -1) -> Array:
        return a.sum(axis) / b.sum(axis)

    if h.min() == h.max():  # all hit or all missed: rule of three
        n = len(total)
        share = float(h.mean())
        return np.array([share, max(share - 3 / n, 0), share]) if share else np.array([0, 0, 3 / n])
    found = bootstrap(
        (total, count), ratio, paired=True, method="percentile", vectorized=True,
        rng=np.random.default_rng(seed), n_resamples=2000,
    )  # fmt: skip
    low, high = found.confidence_interval
    return np.array([h.mean(), float(low), float(high)])


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances of one surface to another in mm, over what overlaps."""

    n: int
    coverage: float  # share of the points that overlap
    mean: float
    median: float
    rms: float
    p95: float  # one-sided 95 % Hausdorff
    signed: float  # mean, positive on the side the normals point to (air)
    within_1mm: float  # of all points: accuracy / completeness at 1 mm


def surface_distance(points: Array, target: Target, reach: float) -> tuple[SurfaceDistance, Array]:
    """Distances of points (n, 3) to the target, and the signed ones (n,), NaN off the overlap.

    A point overlaps when its closest place is not on the target's rim and nearer than `reach`.
    """
    closest, face = target.closest(points)
    offset = points - closest
    distance = np.linalg.norm(offset, axis=1)
    sign = np.where(np.einsum("ni,ni->n", offset, target.normals[face]) >= 0, 1.0, -1.0)
    over = (distance < reach) & ~target.rim[face]
    d, s = distance[over], (sign * distance)[over]
    signed = np.where(over, sign * distance, np.nan)
    if len(d) == 0:
        nan = float("nan")
        return SurfaceDistance(len(points), 0.0, nan, nan, nan, nan, nan, 0.0), signed
    return SurfaceDistance(
        len(points), float(over.mean()), float(d.mean()), float(np.median(d)),
        float(np.sqrt((d**2).mean())), float(np.percentile(d, 95)), float(s.mean()),
        float((over & (distance < 1.0)).mean()),
    ), signed  # fmt: skip
