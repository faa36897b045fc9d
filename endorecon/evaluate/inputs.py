"""What an evaluation starts from: run folder, CT surface, landmarks of both sides, own scale.

Everything is checked here: that CT landmarks lie on the CT (LPS/RAS, metres, wrong series), that
given 3D landmarks lie on the reconstruction, that the surface has no flipped normals. The CT side
is LPS mm; the reconstruction stays in its own space and unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from endorecon.config import EvaluateConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.evaluate import clicks as ck
from endorecon.evaluate import landmarks as lm
from endorecon.evaluate import lifting as lf
from endorecon.evaluate.drift import Drift, pose_drift
from endorecon.evaluate.icp import Target, vertex_normals
from endorecon.evaluate.observers import with_observers
from endorecon.evaluate.register import OwnScale, Paired
from endorecon.geometry import apply, scale_of
from endorecon.io.ct import CtVolume, ct_surface, edge_hu, read_ct, read_ct_surface, remove_islands
from endorecon.io.rundir import RunDir
from endorecon.io.slicer import read_landmarks
from endorecon.scene import Camera, CameraModel, Landmarks, Surface

Array = NDArray[Any]
_MESHES = (".ply", ".stl", ".obj", ".glb")


@dataclass(frozen=True)
class ReconLandmarks:
    """Landmarks on the reconstruction: single measures, and their mean a landmark."""

    lifted: tuple[lf.Lifted, ...]
    mean: Landmarks
    noise: lf.Noise | None
    source: str  # "clicks in frames" or "3D points"
    drift: Drift | None = None  # of the poses that carry them
    spread: float = 0.0  # along the surface, beyond click noise: how differently observers see it


def source_camera(info: dict[str, Any]) -> Camera:
    """The lens in pixels of the source video. Raises InputRefused when run.json has none.

    run.json holds the lens at working size and `source_from_working` (crop and scale, 3 x 3).
    """
    c = info.get("camera")
    try:
        c = cast(dict[str, Any], c)
        width, height = int(c["width"]), int(c["height"])
        S = np.array(info.get("source_from_working") or np.eye(3), float).reshape(3, 3)
        size = info.get("source_size") or (width, height)
        return Camera(
            int(size[0]),
            int(size[1]),
            float(c["fx"]) * S[0, 0],
            float(c["fy"]) * S[1, 1],
            float(c["cx"]) * S[0, 0] + S[0, 2],
            float(c["cy"]) * S[1, 1] + S[1, 2],
            cast(CameraModel, str(c.get("model", "PINHOLE"))),
            tuple(float(x) for x in c.get("distortion", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(
            "run.json does not hold the camera of the source video, so clicks have no place",
            "give landmarks as 3D points with --landmarks",
        ) from error


def clean_surface(surface: Surface, centres: Array) -> tuple[Surface, tuple[str, ...]]:
    """The surface without tiny islands, normals towards the cameras (k, 3)."""
    notes = []
    if len(surface.faces) == 0:
        raise NotEnoughInformation("The reconstruction has no surface", "see the run's warnings")
    _, faces, removed = remove_islands(surface.vertices, surface.faces, 0.002)
    if removed:
        # remove_islands renumbers; here the vertices and their values stay as they are
        faces = _faces_of_large_parts(surface, 0.002)
        notes.append(f"{removed} small islands of the reconstruction were left out")
        surface = replace(surface, faces=faces)
    if len(centres):
        from scipy.spatial import cKDTree

        used = np.unique(surface.faces)
        normals = vertex_normals(surface.vertices, surface.faces)[used]
        nearest = centres[cKDTree(centres).query(surface.vertices[used])[1]]
        facing = np.einsum("ni,ni->n", normals, nearest - surface.vertices[used]) > 0
        if facing.mean() < 0.5:
            surface = replace(surface, faces=surface.faces[:, ::-1])
            notes.append("the normals of the surface pointed away from the cameras: turned")
    return surface, tuple(notes)


def _faces_of_large_parts(surface: Surface, share: float) -> Array:
    kept, _, _ = remove_islands(surface.vertices, surface.faces, share)
    rows = np.ascontiguousarray(surface.vertices).view([("", surface.vertices.dtype)] * 3).ravel()
    keep = np.isin(rows, np.ascontiguousarray(kept).view(rows.dtype).ravel())
    return surface.faces[keep[surface.faces].all(1)]


def recon_landmarks(
    run: RunDir,
    surface: Surface,
    info: dict[str, Any],
    points_file: Path | None,
    clicks_file: Path | None,
    config: EvaluateConfig,
) -> ReconLandmarks | None:
    """Landmarks on the reconstruction from 3D points or from clicks; None when neither is given."""
    if clicks_file is not None:
        cameras = run.cameras()
        poses = dict(zip(cameras.frame_index.tolist(), cameras.world_from_camera, strict=True))
        clicks = ck.read_clicks(clicks_file)
        wanted = {c.frame for c in clicks} & set(run.depth_indices())
        depths = {k: run.depth(k) for k in sorted(wanted)}
        lifted, noise = lf.lift(clicks, source_camera(info), poses, depths, config.click_sigma_px)
        mean = lf.mean_landmarks(lifted, surface.unit, surface.space)
        normals = dict(zip(mean.names, _normals_at(surface, mean.xyz), strict=True))
        lifted, spread = with_observers(lifted, normals)
        mean = lf.mean_landmarks(lifted, surface.unit, surface.space)
        return ReconLandmarks(
            tuple(lifted), mean, noise, "clicks in frames", pose_drift(run), spread
        )
    if points_file is None:
        return None
    given = read_landmarks(points_file)
    target = Target(surface.vertices, surface.faces)
    extent = float(np.linalg.norm(np.ptp(surface.vertices, axis=0)))

    def distance(points: Array) -> Array:
        return np.linalg.norm(points - target.closest(points)[0], axis=1) / extent * 100

    # in percent of the surface's size, because a reconstruction may have no unit
    lm.check_on_surface(given, distance, "reconstruction's (in percent of its size)", 5.0)
    near = target.closest(given.xyz)[1]
    sigma = surface.sigma[surface.faces[near]].mean(1).astype(float)
    covariance = sigma[:, None, None] ** 2 * np.eye(3)
    mean = Landmarks(given.names, given.xyz, surface.unit, surface.space, covariance)
    lifted = [
        lf.Lifted("given", 0, n, x, c, 0, "ok")
        for n, x, c in zip(given.names, given.xyz, covariance, strict=True)
    ]
    return ReconLandmarks(tuple(lifted), mean, None, "3D points", pose_drift(run))


def _normals_at(surface: Surface, points: Array) -> Array:
    """Unit normals (n, 3) of the surface nearest to points, smoothed over 25 vertices."""
    from scipy.spatial import cKDTree

    used = np.unique(surface.faces)
    normals = vertex_normals(surface.vertices, surface.faces)[used]
    _, near = cKDTree(surface.vertices[used]).query(points, k=min(25, len(used)))
    mean = normals[near].reshape(len(points), -1, 3).mean(1)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class CtSide:
    """The CT: its surface near the reconstruction, the volume when there is one, landmarks."""

    surface: Surface
    volume: CtVolume | None
    air_hu: float  # iso-value of the surface; NaN of a ready mesh
    landmarks: Landmarks | None
    paired: Paired | None
    warnings: tuple[str, ...]


def ct_side(
    path: Path,
    ct_landmarks: Path | None,
    series: str | None,
    recon: ReconLandmarks | None,
    surface: Surface,
    own: OwnScale | None,
    config: EvaluateConfig,
) -> CtSide:
    """Read the CT, check its landmarks against it, cut out the surface round the reconstruction."""
    given = None if ct_landmarks is None else read_landmarks(ct_landmarks)
    ready = path.suffix.lower() in _MESHES or path.name.lower().endswith(".seg.nrrd")
    notes: tuple[str, ...] = ()
    volume = None
    iso = float("nan")
    if ready:
        whole, _, notes = read_ct_surface(path, 0.0, series, min_island=config.min_island)
        target = Target(whole.vertices, whole.faces)
    else:
        volume = read_ct(path, series)
        notes = volume.warnings
        iso = edge_hu(volume) if config.air_hu is None else config.air_hu

    def distance(points: Array) -> Array:
        if volume is not None:
            return np.array([_distance_in(volume, p, iso, config) for p in points])
        return np.linalg.norm(points - target.closest(points)[0], axis=1)

    paired = None
    if given is not None:
        lm.check_on_surface(given, distance, "CT", config.landmark_distance_mm)
        if recon is not None:
            names, a, b, unmatched = lm.match(recon.mean, given)
            notes, paired = (*notes, *unmatched), Paired(names, a, b)
    if ready:
        return CtSide(whole, None, iso, given, paired, notes)
    assert volume is not None
    roi = None
    if paired is not None and config.roi_margin_mm > 0:
        fitted = lm.fit(paired.names, paired.recon, paired.ct)
        lm.check_fit(fitted, paired.recon, paired.ct, config)
        from endorecon.evaluate.register import check_scale

        check_scale(scale_of(fitted.ct_from_recon), own, config)
        moved = apply(fitted.ct_from_recon, surface.vertices[np.unique(surface.faces)])
        both = np.vstack([moved, paired.ct])
        margin = config.roi_margin_mm
        roi = (both.min(0) - margin, both.max(0) + margin)
        if config.air_hu is None:
            iso = edge_hu(volume, roi)
    cut, removed = ct_surface(volume, iso, roi, config.min_island)
    if removed:
        notes = (*notes, f"{removed} small islands of the CT surface were left out")
    return CtSide(cut, volume, iso, given, paired, notes)


def _distance_in(volume: CtVolume, point: Array, iso: float, config: EvaluateConfig) -> float:
    """Distance of one point to the iso-surface, looked for in a small cube; inf when none."""
    reach = 3 * config.landmark_distance_mm
    try:
        part, _ = ct_surface(volume, iso, (point - reach, point + reach), 0.0)
    except InputRefused:
        return float("inf")
    if len(part.faces) == 0:
        return float("inf")
    closest, _ = Target(part.vertices, part.faces).closest(point[None])
    return float(np.linalg.norm(closest[0] - point))
