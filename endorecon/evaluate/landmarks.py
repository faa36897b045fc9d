"""Landmarks on both sides: matched by name, fitted, and asked the questions that FRE cannot answer.

A flip of x and y (LPS read as RAS) and metres taken for millimetres leave the fiducial registration
error (FRE) unchanged, so the guards are others: distance of the CT landmarks to the CT surface, the
scale, a reflection that fits better, a swap of names that fits better, leave-one-out target error
(TRE). FRE, TRE after Fitzpatrick (2009). Points (n, 3); CT side in LPS mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.geometry import apply, compose, umeyama
from endorecon.scene import Landmarks

Array = NDArray[Any]
_FLIP = np.array([-1.0, -1.0, 1.0])  # RAS <-> LPS
_SUSPECT_MM = 1.0  # below this FRE nobody asks whether names are swapped


@dataclass(frozen=True)
class LandmarkFit:
    """A Procrustes fit with its errors in mm; `residuals` one a landmark."""

    ct_from_recon: Array
    names: tuple[str, ...]
    fre: float
    tre: float  # leave-one-out RMS, NaN below four landmarks
    residuals: Array  # (n,)
    left_out: Array  # (n,) error of each landmark when the fit has not seen it


def match(recon: Landmarks, ct: Landmarks) -> tuple[tuple[str, ...], Array, Array, tuple[str, ...]]:
    """Names present on both sides (case apart), their points, and a note on the unmatched.

    Raises NotEnoughInformation with both lists when fewer than three names match.
    """
    theirs = {name.casefold(): k for k, name in enumerate(ct.names)}
    pairs = [(k, theirs[n.casefold()]) for k, n in enumerate(recon.names) if n.casefold() in theirs]
    lost_a = [n for n in recon.names if n.casefold() not in theirs]
    ours = {n.casefold() for n in recon.names}
    lost_b = [n for n in ct.names if n.casefold() not in ours]
    notes = []
    if lost_a or lost_b:
        notes.append(
            f"landmarks without a partner: on the reconstruction {', '.join(lost_a) or 'none'}, "
            f"on the CT {', '.join(lost_b) or 'none'}"
        )
    if len(pairs) < 3:
        raise NotEnoughInformation(
            f"Only {len(pairs)} landmark names occur on both sides (reconstruction: "
            f"{', '.join(recon.names)}; CT: {', '.join(ct.names)})",
            "at least 3 are needed, 4 for a held-out error",
        )
    i, j = np.array(pairs).T
    return tuple(ct.names[k] for k in j), recon.xyz[i], ct.xyz[j], tuple(notes)


def check_on_surface(
    landmarks: Landmarks, distance: Callable[[Array], Array], what: str, limit: float
) -> None:
    """Refuse landmarks that do not lie on the surface; say so when the RAS reading of them does.

    `distance` gives unsigned distances (n,), inf where there is no surface at all near by.
    """
    there = float(np.median(distance(landmarks.xyz)))
    if there <= limit:
        return
    flipped = float(np.median(distance(landmarks.xyz * _FLIP)))
    far = f"{there:.1f} away from" if np.isfinite(there) else "nowhere near"
    if flipped <= limit:
        raise InputRefused(
            f"The {what} landmarks lie {far} the surface, but on it when x and y change sign: "
            "LPS and RAS are mixed up",
            "correct coordinateSystem in the landmark file",
        )
    for factor, name in ((1000.0, "metres"), (0.001, "micrometres"), (10.0, "centimetres")):
        if float(np.median(distance(landmarks.xyz * factor))) <= limit:
            raise InputRefused(
                f"The {what} landmarks are in {name}, not in millimetres",
                "export them in millimetres",
            )
    raise InputRefused(
        f"The {what} landmarks lie {far} the surface (median; at most {limit:g} is accepted)",
        "check that landmarks and surface belong to the same patient, series and space",
    )


def fit(names: tuple[str, ...], recon: Array, ct: Array, with_scale: bool = True) -> LandmarkFit:
    """Least-squares fit. Raises NotEnoughInformation for too few or collinear landmarks."""
    spread = np.linalg.svd(ct - ct.mean(0), compute_uv=False)
    other = np.linalg.svd(recon - recon.mean(0), compute_uv=False)
    if len(ct) < 3 or min(spread[1] / max(spread[0], 1e-9), other[1] / max(other[0], 1e-9)) < 0.05:
        why = "Fewer than 3 landmarks" if len(ct) < 3 else "The landmarks lie on one line"
        raise NotEnoughInformation(
            f"{why}, which does not fix the rotation", "add a landmark away from the line"
        )
    T = umeyama(recon, ct, with_scale=with_scale)
    residuals = np.linalg.norm(apply(T, recon) - ct, axis=1)
    left_out = np.full(len(ct), np.nan)
    if len(ct) >= 4:
        for k in range(len(ct)):
            rest = np.arange(len(ct)) != k
            try:
                without = umeyama(recon[rest], ct[rest], with_scale=with_scale)
            except ValueError:
                continue
            left_out[k] = np.linalg.norm(apply(without, recon[k]) - ct[k])
    known = left_out[np.isfinite(left_out)]
    return LandmarkFit(
        T,
        names,
        float(np.sqrt((residuals**2).mean())),
        float(np.sqrt((known**2).mean())) if len(known) else float("nan"),
        residuals,
        left_out,
    )


def check_fit(found: LandmarkFit, recon: Array, ct: Array, config: EvaluateConfig) -> None:
    """Refuse mirrored or swapped landmarks, and a fit too bad to be the same patient's."""
    if found.fre > _SUSPECT_MM and len(ct) >= 4:
        mirror = compose(np.diag([-1.0, 1.0, 1.0]), np.zeros(3))
        if _fre(apply(mirror, recon), ct) < 0.4 * found.fre:
            raise InputRefused(
                f"The landmarks look mirrored: they fit to {found.fre:.1f} mm as they are and to "
                f"{_fre(apply(mirror, recon), ct):.1f} mm in a mirror",
                "check left and right, and whether the video or the CT was flipped",
            )
        swapped = _swaps(found.names, recon, ct)
        if swapped is not None and swapped[1] < 0.5 * found.fre:
            raise InputRefused(
                f"The names {swapped[0]} look swapped: the fit improves from {found.fre:.1f} to "
                f"{swapped[1]:.1f} mm when they change places",
                "correct the names on one side",
            )
    if found.fre > config.max_fre_mm:
        worst = found.names[int(np.nanargmax(found.residuals))]
        raise InputRefused(
            f"The landmarks do not fit the CT: {found.fre:.1f} mm RMS, worst {worst}",
            "check that the CT is this patient's and that the landmarks mean the same places",
        )


def _fre(recon: Array, ct: Array) -> float:
    r = apply(umeyama(recon, ct), recon) - ct
    return float(np.sqrt((r**2).sum(1).mean()))


def _swaps(names: tuple[str, ...], recon: Array, ct: Array) -> tuple[str, float] | None:
    """The exchange of names that fits best: every pair, and all left/right pairs together."""
    options: list[tuple[str, Array]] = []
    sides = _sides(names)
    if len(sides) > 1:
        order = np.arange(len(names))
        for i, j in sides:
            order[i], order[j] = j, i
        options.append(("of left and right", order))
    for i, j in itertools.combinations(range(len(names)), 2):
        order = np.arange(len(names))
        order[i], order[j] = j, i
        options.append((f"{names[i]} and {names[j]}", order))
    if not options:
        return None
    text, fre = min(((text, _fre(recon[order], ct)) for text, order in options), key=lambda x: x[1])
    return text, fre


def _sides(names: tuple[str, ...]) -> list[tuple[int, int]]:
    index = {name.casefold(): k for k, name in enumerate(names)}
    out = []
    for name, k in index.items():
        for left, right in (("left", "right"), ("_l", "_r"), (" l", " r"), ("l_", "r_")):
            if left in name and name.replace(left, right) in index:
                out.append((k, index[name.replace(left, right)]))
                break
    return [(i, j) for i, j in out if i != j]
