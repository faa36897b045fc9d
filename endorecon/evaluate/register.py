"""Reconstruction to CT: landmarks or a search for the start, ICP for the rest, then the doubts.

Only the observed surface takes part. Rigid (the run's own millimetres) and similarity (scale from
the CT) are both fitted and reported. What can be wrong is asked for: scale against the run's own,
overlap, basin of convergence, a rival place, the fit's covariance, landmarks that ICP moved away
from. All poses are `ct_from_recon` (4, 4), LPS mm, determinant > 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.evaluate import landmarks as lm
from endorecon.evaluate.drift import left_over
from endorecon.evaluate.icp import (
    IcpResult,
    Points,
    Target,
    icp,
    sample_surface,
    scale_sigma,
)
from endorecon.evaluate.search import scale_ladder, search
from endorecon.geometry import apply, compose, scale_of, umeyama
from endorecon.scene import OBSERVED, Registration, Surface

Array = NDArray[Any]
_WEAK_MM = 0.5  # a motion looser than this is not fixed by the surface
_CONTRADICT_MM = 2.0  # beyond twice the FRE: the fit left the place that the landmarks mean
_HOME_MM = 0.3  # a perturbed start that ends nearer than this has come home


@dataclass(frozen=True)
class OwnScale:
    """Millimetres that the run has without the CT: mm per unit, relative sigma, where from."""

    factor: float
    log_sigma: float
    source: str


@dataclass(frozen=True)
class Paired:
    """Matched landmarks: names, points in the run's unit (n, 3), points on the CT in mm (n, 3)."""

    names: tuple[str, ...]
    recon: Array
    ct: Array

    def without(self, names: tuple[str, ...]) -> Paired:
        """All but some of them."""
        keep = [k for k, n in enumerate(self.names) if n not in names]
        return Paired(tuple(self.names[k] for k in keep), self.recon[keep], self.ct[keep])


@dataclass(frozen=True)
class Registered:
    """Both fits, the landmark fit, and what is doubtful about them."""

    primary: Registration
    similarity: Registration
    rigid: Registration | None
    landmark_fit: lm.LandmarkFit | None
    start: str
    basin: float  # share of perturbed starts that come home
    log_scale_sigma: float  # of the similarity fit
    deformation_mm: float  # left over systematically
    unexplained_mm: float  # the part of it that the points' own sigma does not explain
    points: Points
    result: IcpResult  # of the primary fit
    warnings: tuple[str, ...]
    lens_sigma: float = 0.0  # of a lens that nobody calibrated, relative; in log_scale_sigma, too


def observed_part(surface: Surface) -> tuple[Array, Array]:
    """Vertices and the faces whose corners are all observed."""
    return surface.vertices, surface.faces[(surface.status[surface.faces] == OBSERVED).all(1)]


def surface_points(surface: Surface, config: EvaluateConfig) -> Points:
    """Sample the observed surface. Raises NotEnoughInformation when there is hardly any."""
    vertices, faces = observed_part(surface)
    if len(faces) < 100:
        raise NotEnoughInformation(
            f"Only {len(faces)} triangles of the surface were observed",
            "film the region again, or look at the run's warnings",
        )
    return sample_surface(vertices, faces, surface.sigma, config.points, config.seed)


def register(
    points: Points,
    target: Target,
    paired: Paired | None,
    own: OwnScale | None,
    held_out: tuple[str, ...],
    config: EvaluateConfig,
) -> Registered:
    """Register observed surface points to the CT surface.

    Raises InputRefused (mirrored, swapped, wrong CT, wrong scale) and NotEnoughInformation (too
    few or collinear landmarks, little overlap, ambiguous place).
    """
    notes: list[str] = []
    fitted = None
    ambiguous = False
    if paired is not None:
        used = paired.without(held_out)
        fitted = lm.fit(used.names, used.recon, used.ct)
        lm.check_fit(fitted, used.recon, used.ct, config)
        check_scale(scale_of(fitted.ct_from_recon), own, config)
        start, how = fitted.ct_from_recon, "landmarks"
        width = float(np.clip(3 * fitted.fre, 1.0, 4.0))
    else:
        base = 1.0 if own is None else own.factor
        scales = scale_ladder(points, target, own is not None)
        found, ambiguous = search(
            points,
            target,
            [s * base for s in scales] if own else scales,
            True,
            config.search_trials,
            config.inlier_mm,
            config.seed,
        )
        start, how, width = found[0].b_from_a, "search without landmarks", 1.5
    similar = icp(points, target, start, True, width=width, inlier=config.inlier_mm)
    if ambiguous or (paired is None and similar.weakest_mm > _WEAK_MM):
        raise NotEnoughInformation(
            "The registration without landmarks is ambiguous: several places on the CT fit about "
            "equally well, or none fits closely",
            "give landmarks on both sides (--ct-landmarks with --clicks or --landmarks)",
        )
    check_scale(scale_of(similar.b_from_a), own, config)
    check_overlap(similar, target, config)
    rigid = None
    if own is not None:
        rigid = icp(
            Points(points.xyz * own.factor, points.normals, points.sigma * own.factor),
            target,
            _rigid_start(similar.b_from_a, points.xyz.mean(0), own.factor),
            False,
            width=max(width / 2, 1.0),
            inlier=config.inlier_mm,
        )
        rigid = _rescaled(rigid, own.factor)
        check_overlap(rigid, target, config)
    best = rigid if rigid is not None else similar
    basin = basin_share(points, target, best.b_from_a, rigid is None, config)
    if basin < 0.7:
        notes.append(
            f"the registration is not firm: {basin:.0%} of slightly moved starts end in the same "
            "place"
        )
    if best.weakest_mm > _WEAK_MM:
        notes.append(
            "the shape of the surface fixes its place poorly: along its loosest motion one "
            f"standard deviation is {best.weakest_mm:.1f} mm"
        )
    if fitted is not None and paired is not None:
        moved = np.linalg.norm(apply(best.b_from_a, paired.recon) - paired.ct, axis=1)
        if np.median(moved) > 2 * fitted.fre + _CONTRADICT_MM:
            raise InputRefused(
                f"Landmarks and surface contradict each other: where the surface fits the CT, the "
                f"landmarks lie {np.median(moved):.1f} mm off (median); where they fit, to "
                f"{fitted.fre:.1f} mm, it does not",
                "check that each name means the same place on both sides",
            )
        if np.median(moved) > 2 * fitted.fre + 0.5:
            notes.append(
                f"surface and landmarks disagree: after ICP the landmarks lie "
                f"{np.median(moved):.1f} mm off (median), before it {fitted.fre:.1f} mm"
            )
    seen = () if fitted is None else fitted.names

    def noun(r: IcpResult, kind: str) -> Registration:
        return Registration(
            r.b_from_a,
            kind,  # type: ignore[arg-type]
            scale_of(r.b_from_a),
            fitted.fre if fitted else float("nan"),
            fitted.tre if fitted else float("nan"),
            r.rms,
            r.overlap,
            r.covariance,
            seen,
            held_out,
            ambiguous,
        )

    as_similarity = noun(similar, "similarity")
    as_rigid = None if rigid is None else noun(rigid, "rigid")
    return Registered(
        as_rigid or as_similarity,
        as_similarity,
        as_rigid,
        fitted,
        how,
        basin,
        scale_sigma(points, target, similar),
        *left_over(points, target, best, config.inlier_mm),
        points,
        best,
        tuple(notes),
    )


def check_scale(scale: float, own: OwnScale | None, config: EvaluateConfig) -> None:
    """Refuse a fitted scale that contradicts the run's own millimetres."""
    if own is None:
        return
    ratio = scale / own.factor
    if abs(ratio - 1) <= config.max_scale_error:
        return
    guess = ""
    for factor, words in (
        (1000.0, "metres for millimetres"),
        (10.0, "centimetres for millimetres"),
    ):
        if abs(np.log(ratio / factor)) < 0.3 or abs(np.log(ratio * factor)) < 0.3:
            guess = f": one side took {words}"
    raise InputRefused(
        f"The CT asks for {ratio:.4g} times the size that the run's own scale gives{guess}",
        f"check the units of both sides and the scale source ({own.source})",
    )


def check_overlap(result: IcpResult, target: Target, config: EvaluateConfig) -> None:
    """Refuse when too little of the surface lies on the CT, or when it lies there badly."""
    if result.overlap < config.min_overlap:
        raise NotEnoughInformation(
            f"Only {result.overlap:.0%} of the observed surface lies on the CT (within "
            f"{config.inlier_mm:g} mm; at least {config.min_overlap:.0%} is needed)",
            "check that this is the right CT and that it covers the filmed region",
        )
    if result.width > 2.5 * config.inlier_mm:
        raise InputRefused(
            f"The surface does not fit the CT: residuals spread over {result.width:.1f} mm",
            "check that this is the right CT, series and side",
        )


def basin_share(
    points: Points, target: Target, T: Array, with_scale: bool, config: EvaluateConfig
) -> float:
    """Share of 8 starts, moved by about 5 degrees, 2 mm and 3 %, that end where T is."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(config.seed)
    few = points.subset(1500, config.seed)
    home = apply(T, few.xyz)
    centre = home.mean(0)
    back = 0
    for _ in range(8):
        axis, shift = rng.normal(size=3), rng.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(5) * axis / np.linalg.norm(axis)).as_matrix()
        scale = float(np.exp(rng.choice([-0.03, 0.03]))) if with_scale else 1.0
        move = compose(turn, np.zeros(3), scale)
        move[:3, 3] = centre - move[:3, :3] @ centre + 2.0 * shift / np.linalg.norm(shift)
        end = icp(few, target, move @ T, with_scale, width=2.0, iterations=40)
        back += np.linalg.norm(apply(end.b_from_a, few.xyz) - home, axis=1).mean() < _HOME_MM
    return back / 8


def scale_without(
    points: Points,
    target: Target,
    paired: Paired,
    names: tuple[str, ...],
    known: IcpResult,
    config: EvaluateConfig,
) -> tuple[float, float] | None:
    """Scale of the similarity fit that has not seen some landmarks, and its relative sigma.

    None when too few landmarks remain to start from.
    """
    rest = paired.without(names)
    try:
        start = umeyama(rest.recon, rest.ct)
    except ValueError:
        return None
    size = np.abs(apply(start, points.xyz) - apply(known.b_from_a, points.xyz)).max()
    few = points.subset(2500, config.seed)
    found = icp(
        few,
        target,
        start,
        True,
        iterations=30,
        width=float(np.clip(size, 0.5, 4.0)),
        inlier=config.inlier_mm,
    )
    return scale_of(found.b_from_a), scale_sigma(few, target, found)


def _rigid_start(similarity: Array, centre: Array, factor: float) -> Array:
    """Pose for points already scaled by `factor` that keeps their centre where it was."""
    R = similarity[:3, :3] / scale_of(similarity)
    return compose(R, apply(similarity, centre) - R @ (factor * centre))


def _rescaled(result: IcpResult, factor: float) -> IcpResult:
    """The pose of scaled points as a pose of the run's own points."""
    return IcpResult(
        result.b_from_a @ np.diag([factor] * 3 + [1.0]),
        result.inlier,
        result.residual,
        result.width,
        result.covariance,
        result.rms,
        result.overlap,
        result.weakest_mm,
    )
