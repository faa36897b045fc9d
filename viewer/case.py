"""What is on show: one run folder (or one round of it), and what may honestly be said of it.

A `Case` is in display space: LPS millimetres when the run is registered, else the run's own
space without unit. Millimetres need both: a registration and a scale. `why_no_mm` says in one
sentence which is missing; every number on the screen goes through `length` and its kin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.errors import EndoreconError, InputRefused
from endorecon.io.rundir import Cameras, RunDir
from endorecon.scene import DepthMap, Surface

from .preview import round_surface

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One run, opened for looking at; `display_from_run` (4, 4) maps its files to the screen."""

    run: RunDir
    info: dict[str, Any]
    surface: Surface | None  # in display space
    cameras: Cameras | None  # in display space
    registration: dict[str, Any]
    display_from_run: Array
    mm: bool  # registered and scaled
    why_no_mm: str  # "" when mm
    source: str  # "surface", "round 2", "nothing yet"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @property
    def state(self) -> str:
        """Space, registration and its error, in a few words."""
        if not self.mm:
            return self.why_no_mm
        tre = self.registration.get("tre_mm")
        known = isinstance(tre, int | float) and np.isfinite(tre)
        return f"LPS, registered, TRE {tre:.1f} mm" if known else "LPS, registered, TRE unknown"

    @property
    def scale_sigma(self) -> float:
        """One standard deviation of the logarithm of the registered scale, 0 when it has none."""
        s = self.registration.get("log_scale_sigma")
        known = self.mm and self.registration.get("kind") == "similarity"
        return float(s) if known and isinstance(s, int | float) and np.isfinite(s) else 0.0

    @property
    def date(self) -> str:
        """Date of the run, YYYY-MM-DD, from run.json or else from its file's time (UTC)."""
        import datetime

        for key in ("finished", "ended", "updated", "started", "date", "created"):
            text = self.info.get(key)
            if isinstance(text, str) and len(text) >= 10:
                return text[:10]
        stamp = (self.run.path / "run.json").stat().st_mtime
        return datetime.datetime.fromtimestamp(stamp, datetime.UTC).strftime("%Y-%m-%d")

    @property
    def version(self) -> str:
        versions = self.info.get("versions")
        own = versions.get("endorecon") if isinstance(versions, dict) else None
        return f"endorecon {own or self.info.get('version', '?')}"

    @property
    def title(self) -> str:
        status = self.info.get("status", "?")
        return f"{self.name} · {self.date} · {self.version} · {status} · NOT FOR CLINICAL USE"

    def length(self, value: float, half: float = float("nan"), power: int = 1) -> str:
        """A length (power 1) or area (power 2) with its half interval, never "mm" without right."""
        unit = ("mm" if self.mm else "u") + ("²" if power == 2 else "")
        digits = 2 if abs(value) < 100 else 1
        interval = f" ± {half:.{digits}f}" if np.isfinite(half) else ""
        return f"{value:.{digits}f}{interval} {unit}"

    def depth(self, frame_index: int) -> DepthMap | None:
        """The depth map of one frame in display space, None when there is none."""
        try:
            return _depth_to(self.display_from_run, self.run.depth(frame_index))
        except InputRefused:
            return None


def open_case(path: Path, round_: int | None = None, waiting: bool = False) -> Case:
    """Open a run folder: its surface, or a round's preview where there is no surface yet.

    Raises InputRefused, in one sentence, when it is no run folder, is damaged, or has nothing to
    show; with `waiting` (--follow) a run without anything to show is opened empty.
    """
    run = RunDir(path)
    info = run.info()
    notes: list[str] = []
    registration, notes_r = _registration(run, info)
    notes += notes_r
    surface, source = _surface(run, round_, waiting, notes)
    lps = surface is not None and surface.space == "LPS"
    ct_from_recon = registration.get("ct_from_recon")
    M = np.eye(4) if lps or ct_from_recon is None else np.array(ct_from_recon, float)
    registered = lps or ct_from_recon is not None
    scaled = (
        registration.get("kind") == "similarity"
        or (surface.unit if surface is not None else info.get("unit")) == "mm"
    )
    why = ""
    if not registered:
        why = "not registered: no millimetres"
        if registration.get("ambiguous"):
            why = "registration ambiguous: no millimetres"
    elif not scaled:
        why = "no source of scale: no millimetres"
    if surface is not None and not lps:
        surface = replace(
            surface,
            vertices=geometry.apply(M, surface.vertices),
            sigma=(surface.sigma * geometry.scale_of(M)).astype(np.float32),
            unit="mm" if not why else "unitless",
            space="LPS" if not why else "reconstruction",
        )
    cameras: Cameras | None = None
    try:
        own = run.cameras()
        cameras = replace(own, world_from_camera=geometry.transform_pose(M, own.world_from_camera))
    except InputRefused as error:
        notes.append(error.what)
    return Case(run, info, surface, cameras, registration, M, not why, why, source, tuple(notes))


def _registration(run: RunDir, info: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """registration.json, without its transform when that may not be used."""
    file = run.path / "evaluation" / "registration.json"
    if not file.is_file():
        return {}, []
    try:
        whole = json.loads(file.read_text("utf-8"))
        r = whole[whole["primary"]]  # "rigid" or "similarity": both may be in the file
        if r is None:
            raise ValueError("its fit is absent")
        r["log_scale_sigma"] = whole.get("log_scale_sigma")
        M = np.array(r["ct_from_recon"], float)
        if M.shape != (4, 4) or not np.isfinite(M).all() or np.linalg.det(M[:3, :3]) <= 0:
            raise ValueError("the transform is no similarity")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        return {}, [f"The registration is damaged ({error}) and was left out"]
    if r.get("ambiguous"):
        del r["ct_from_recon"]
        return r, ["The registration is ambiguous and was left out"]
    return r, []


def _surface(
    run: RunDir, round_: int | None, waiting: bool, notes: list[str]
) -> tuple[Surface | None, str]:
    if round_ is not None:
        return _round(run, round_), f"round {round_}"
    try:
        surface = run.surface()
        if len(surface.faces):
            return surface, "surface"
        absent = InputRefused("The surface has no faces", "run `endorecon fit` again", run.path)
    except InputRefused as error:
        absent = error
    for k in reversed(run.rounds()):
        try:
            surface = _round(run, k)
        except EndoreconError:
            continue
        notes.append(f"{absent.what}: shown is round {k}, drawn from its depth maps")
        return surface, f"round {k}"
    if waiting:
        notes.append("Waiting for the first round")
        return None, "nothing yet"
    raise absent


def _round(run: RunDir, round_: int) -> Surface:
    if round_ not in run.rounds():
        raise InputRefused(f"The run has no round {round_}", "", run.path)
    surface = round_surface(run, round_)
    if not len(surface.faces):
        raise InputRefused(f"Round {round_} has no depth to show", "", run.path)
    return surface


def _depth_to(M: Array, d: DepthMap) -> DepthMap:
    s = geometry.scale_of(M)
    return replace(
        d,
        z=d.z * s,
        sigma=d.sigma * s,
        world_from_camera=geometry.transform_pose(M, d.world_from_camera),
    )
