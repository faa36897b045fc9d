"""The table: every planned measure, by every observer and repeat, on CT and reconstruction.

A row's scale has not seen the row's landmarks: either it is the run's own, or it comes from a
similarity fit whose start left them out. The interval holds clicks and observers, depth maps,
scale, and the drift of the poses between the end points (drift.py), no smaller than what the
registered surface shows of it. The depth maps' local bias, which that surface shows too, is
already in the lifted points' covariance, so the surface's residual is not added once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.evaluate import measure
from endorecon.evaluate.icp import Target
from endorecon.evaluate.inputs import ReconLandmarks
from endorecon.evaluate.lifting import Lifted
from endorecon.evaluate.measure import LENGTH_POWER, Plan
from endorecon.evaluate.register import OwnScale, Paired, Registered, scale_without
from endorecon.geometry import apply, scale_of
from endorecon.scene import GUESSED, Landmarks, Measurement, Surface

Array = NDArray[Any]
CT_SCALE = "@ct-scale"  # suffix of the second row of a run that has its own millimetres


@dataclass(frozen=True)
class Scale:
    """What turns the run's unit into mm for one measure."""

    factor: float
    log_sigma: float
    held_out: bool


def table(
    plans: list[Plan],
    recon: ReconLandmarks,
    ct_landmarks: Landmarks,
    registered: Registered,
    surface: Surface,
    ct_surface: Surface,
    target: Target,
    paired: Paired,
    own: OwnScale | None,
    hold_out: str,
    config: EvaluateConfig,
) -> list[Measurement]:
    """All rows. `surface` is the reconstruction registered to LPS mm by the primary fit."""
    rows: list[Measurement] = []
    ct_names = {n.casefold(): k for k, n in enumerate(ct_landmarks.names)}
    T = registered.primary.ct_from_recon
    cache: dict[frozenset[str], Scale] = {}
    for plan in (p for p in plans if p.known_mm is None):
        missing = [n for n in plan.points if n.casefold() not in ct_names]
        if missing:
            why = f"refused: {', '.join(missing)} is not on the CT"
            rows.append(_refused(plan, "", 0, float("nan"), why))
            continue
        there = ct_landmarks.xyz[[ct_names[n.casefold()] for n in plan.points]]
        on_ct = measure.value(plan.kind, there, ct_surface)
        from_ct = _ct_scale(plan, registered, target, paired, hold_out, cache, config)
        scales = [("", from_ct)]
        if own is not None:
            scales = [("", Scale(own.factor, own.log_sigma, True)), (CT_SCALE, from_ct)]
        for observer, repeat in _sessions(recon):
            mine = {
                x.landmark.casefold(): x
                for x in recon.lifted
                if (x.observer, x.repeat) == (observer, repeat)
            }
            lost = [n for n in plan.points if n.casefold() not in mine]
            bad = [
                f"{n}: {mine[n.casefold()].status}"
                for n in plan.points
                if n.casefold() in mine and mine[n.casefold()].status != "ok"
            ]
            if lost or bad:
                why = "refused: " + "; ".join([*(f"{n}: not clicked" for n in lost), *bad])
                rows.append(_refused(plan, observer, repeat, on_ct, why))
                continue
            items = [mine[n.casefold()] for n in plan.points]
            here = apply(T, np.array([x.xyz for x in items]))
            guessed = _guessed(surface, here)
            if guessed.any():
                names = ", ".join(n for n, g in zip(plan.points, guessed, strict=True) if g)
                why = f"refused: {names} lies on guessed surface"
                rows.append(_refused(plan, observer, repeat, on_ct, why))
                continue
            covariance = np.einsum(
                "ij,njk,lk->nil", T[:3, :3], np.array([x.covariance for x in items]), T[:3, :3]
            )
            joint = _drift(recon, registered, items)
            for suffix, scale in scales:
                # the surface stands in the primary fit's millimetres; bring it to this scale
                change = (scale.factor / scale_of(T)) ** LENGTH_POWER[plan.kind]
                length, sigma = measure.interval(
                    plan.kind, here, covariance, surface, scale.log_sigma, joint
                )
                if not np.isfinite([length, sigma, on_ct]).all():
                    why = "refused: no closed contour or no path on the surface"
                    rows.append(_refused(plan, observer, repeat, on_ct, why, suffix))
                    continue
                low, high = measure.bounds(length * change, sigma * change)
                half = (high - low) / 2
                if LENGTH_POWER[plan.kind] == 1 and half > config.max_half_width_mm:
                    why = (
                        f"refused: known to +/- {half:.1f} mm only: {_remedy(half, length, scale)}"
                    )
                    rows.append(_refused(plan, observer, repeat, on_ct, why, suffix))
                    continue
                rows.append(
                    Measurement(
                        plan.name,
                        plan.kind + suffix,
                        observer,
                        repeat,
                        on_ct,
                        length * change,
                        low,
                        high,
                        "ok",
                        scale.held_out,
                        _unit(plan.kind),
                    )
                )
    return rows


def _remedy(half: float, length: float, scale: Scale) -> str:
    """What would make a length surer: its scale (with the lens), or its ends."""
    if 1.96 * scale.log_sigma * length > 0.7 * half:
        return "its scale is unsure: calibrate the endoscope, or give metric poses"
    return "film it from nearer"


def _drift(recon: ReconLandmarks, registered: Registered, items: list[Lifted]) -> Array:
    """Covariance (3 n, 3 n) in mm of end points by the poses, as large as the CT shows it."""
    shown, drift = registered.unexplained_mm, recon.drift
    if drift is None:  # nothing is known of its shape: each end on its own
        return np.asarray(shown**2 * np.eye(3 * len(items)))
    T = registered.primary.ct_from_recon
    factor = max(shown / max(drift.surface * scale_of(T), 1e-9), 1.0)
    turn = np.kron(np.eye(len(items)), T[:3, :3])
    joint = drift.joint(np.array([x.xyz for x in items]))
    return np.asarray(factor**2 * turn @ joint @ turn.T)


def _unit(kind: str) -> str:
    return kind.rsplit("_", 1)[1] if "_" in kind else "mm"


def _refused(
    plan: Plan, observer: str, repeat: int, on_ct: float, why: str, suffix: str = ""
) -> Measurement:
    nan = float("nan")
    return Measurement(
        plan.name,
        plan.kind + suffix,
        observer,
        repeat,
        on_ct,
        nan,
        nan,
        nan,
        why,
        False,
        _unit(plan.kind),
    )


def _sessions(recon: ReconLandmarks) -> list[tuple[str, int]]:
    return sorted({(x.observer, x.repeat) for x in recon.lifted})


def _ct_scale(
    plan: Plan,
    registered: Registered,
    target: Target,
    paired: Paired,
    hold_out: str,
    cache: dict[frozenset[str], Scale],
    config: EvaluateConfig,
) -> Scale:
    similarity = registered.similarity
    key = frozenset(n.casefold() for n in plan.points)
    if hold_out != "pairs":
        unseen = not key & {n.casefold() for n in similarity.used}
        return Scale(similarity.scale, registered.log_scale_sigma, unseen)
    if key not in cache:
        names = tuple(n for n in paired.names if n.casefold() in key)
        found = scale_without(registered.points, target, paired, names, registered.result, config)
        if found is None:
            cache[key] = Scale(similarity.scale, registered.log_scale_sigma, False)
        else:
            sigma = float(np.hypot(found[1], registered.lens_sigma))
            cache[key] = Scale(found[0], sigma, True)
    return cache[key]


def _guessed(surface: Surface, points: Array) -> Array:
    if not (surface.status == GUESSED).any():
        return np.zeros(len(points), bool)
    from scipy.spatial import cKDTree

    nearest = cKDTree(surface.vertices).query(points)[1]
    return np.asarray(surface.status[nearest] == GUESSED)
