"""Measurements as 3D Slicer markups (`.mrk.json`, schema v1.0.3): written and read back.

Points are one Fiducial list, distances are Lines, angles Angles, outlines ClosedCurves; all in one
file, LPS and mm. Unregistered measurements carry `coordinateUnits: "unitless"`, which others
refuse, as they should. What Slicer has no field for (face, sigma, way along the surface) is not
stored: it is measured again on the surface at loading, so that a number never outlives its mesh.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from endorecon import geometry
from endorecon.errors import EndoreconError, InputRefused
from endorecon.io import atomic

from .case import Case
from .measure import Kind, Taken, take
from .mesh import SurfaceMesh

_TYPE = {"distance": "Line", "angle": "Angle", "area": "ClosedCurve"}
_KIND: dict[str, Kind] = {"Line": "distance", "Angle": "angle", "ClosedCurve": "area"}
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
FAR = 0.02  # of the surface's diagonal: a loaded point farther from it belongs to another run


def save(path: Path, taken: tuple[Taken, ...], case: Case) -> None:
    """Write the measurements. Raises OutOfResources when it cannot be written."""
    common = {
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm" if case.mm else "unitless",
        "locked": False,
    }
    # Without millimetres the run's own space is stored, so that a later registration finds it.
    out = np.eye(4) if case.mm else geometry.invert(case.display_from_run)
    points = [
        _point(k, t.name, geometry.apply(out, t.points[0]), t.text)
        for k, t in enumerate(t for t in taken if t.kind in ("point", "note"))
    ]
    markups: list[dict[str, Any]] = []
    if points or not taken:
        markups.append({"type": "Fiducial", "name": "points", **common, "controlPoints": points})
    for t in taken:
        if t.kind in _TYPE:
            labels = [f"{t.name}-{k + 1}" for k in range(len(t.spots))]
            placed = [
                _point(k, labels[k], p, "") for k, p in enumerate(geometry.apply(out, t.points))
            ]
            markups.append({
                "type": _TYPE[t.kind], "name": t.name, "description": t.text, **common,
                "controlPoints": placed,
            })  # fmt: skip
    atomic.write_json(path, {
        "@schema": _SCHEMA,
        "markups": markups,
        "endorecon": {
            "space": "LPS" if case.mm else "reconstruction", "state": case.state,
            "run_date": case.date, "version": case.version, "use": "not for clinical use",
            "frames": {t.name: t.frame for t in taken if t.frame is not None},
            "notes": [t.name for t in taken if t.kind == "note"],
        },
    })  # fmt: skip


def _point(k: int, label: str, xyz: np.ndarray, text: str) -> dict[str, Any]:
    return {
        "id": str(k + 1), "label": label, "description": text,
        "position": [float(v) for v in xyz], "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "selected": True, "locked": False, "visibility": True, "positionStatus": "defined",
    }  # fmt: skip


def load(path: Path, case: Case, mesh: SurfaceMesh) -> tuple[tuple[Taken, ...], list[str]]:
    """Measurements of a file, measured anew on this surface, and sentences on what was left out.

    Raises InputRefused for a damaged file, one without a usable space, or one of another place.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
        lists, own = data["markups"], data.get("endorecon", {})
        frames, notes = own.get("frames", {}), set(own.get("notes", ()))
        found: list[tuple[Kind, str, np.ndarray, str]] = []
        for m in lists:
            M = _to_display(m, case, path)
            places = [p for p in m.get("controlPoints", ())
                      if p.get("positionStatus", "defined") == "defined"]  # fmt: skip
            xyz = geometry.apply(M, np.array([p["position"] for p in places], float).reshape(-1, 3))
            if not np.isfinite(xyz).all():
                raise ValueError("a position is not finite")
            kind = _KIND.get(m["type"])
            if kind is not None:
                found.append((kind, str(m.get("name", "")), xyz, str(m.get("description", ""))))
                continue
            for p, at in zip(places, xyz):
                label = str(p.get("label", ""))
                what: Kind = "note" if label in notes else "point"
                found.append((what, label, at[None], str(p.get("description", ""))))
    except FileNotFoundError as error:
        raise InputRefused("The markups file does not exist", "check the name", path) from error
    except InputRefused:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefused(
            "This is not a 3D Slicer markups file", "save the points as .mrk.json", path
        ) from error
    v = mesh.surface.vertices
    far = FAR * float(np.linalg.norm(v.max(0) - v.min(0)))
    taken: list[Taken] = []
    left_out: list[str] = []
    for k, (kind, name, xyz, text) in enumerate(found):
        name = name or f"{kind} {k + 1}"
        spots = tuple(mesh.nearest(p) for p in xyz)
        off = max(float(np.linalg.norm(p - s.xyz)) for p, s in zip(xyz, spots)) if spots else 0.0
        if off > far:
            left_out.append(f"{name} lies {case.length(off)} off the surface and was left out")
            continue
        try:
            taken.append(take(kind, name, spots, mesh, text, frames.get(name)))
        except EndoreconError as error:
            left_out.append(f"{name} was left out: {error.what}")
    return tuple(taken), left_out


def _to_display(markup: dict[str, Any], case: Case, path: Path) -> np.ndarray:
    """The transform (4, 4) from the file's space to the screen's."""
    unit, space = markup.get("coordinateUnits", "mm"), markup.get("coordinateSystem", "LPS")
    if unit == "unitless":
        return case.display_from_run  # stored in the run's own space
    if unit not in ("mm", "um") or space not in ("LPS", "RAS", "0", "1", 0, 1):
        raise InputRefused(f"Unknown unit or space ({unit}, {space})", "use LPS and mm", path)
    if not case.mm:
        raise InputRefused(
            "These markups are in LPS millimetres, this run is not registered",
            "register it first (`endorecon evaluate`)",
            path,
        )
    scale = 1e-3 if unit == "um" else 1.0
    flip = np.diag([-1.0, -1.0, 1.0]) if str(space) in ("RAS", "0") else np.eye(3)
    return geometry.compose(flip, np.zeros(3), scale)
