"""3D Slicer's files at the door: landmarks, segmentations, transforms, and `SPACE=` headers.

Inside everything is LPS and millimetres; RAS and micrometres end here and nowhere else. Sources:
Slicer's markups JSON schema v1.0.3 (default space LPS), the legacy `.fcsv` text format, the
segmentation NRRD fields (`Segment0_Name`, `Segment0_LabelValue`, `Segment0_Layer`), and ITK's
transform text format, which stores the map from the parent: the inverse of what a viewer shows.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.io import atomic
from endorecon.scene import Landmarks

Array = NDArray[Any]
_MM = {"mm": 1.0, "um": 1e-3}
_SPACES = {"LPS": "LPS", "RAS": "RAS", "0": "RAS", "1": "LPS"}


def read_landmarks(path: Path) -> Landmarks:
    """Named points (n, 3) in LPS mm from `.mrk.json` or `.fcsv`.

    Raises InputRefused for damaged files, unset points, duplicate labels, an `.fcsv` that does
    not say its space, unknown spaces and units.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputRefused("The landmark file does not exist", "check the name", path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused("The landmark file cannot be read", "export it again", path) from error
    read = _points_of_fcsv if path.suffix.lower() == ".fcsv" else _points_of_json
    labels, points = read(text, path)
    unset = [name for name, p in zip(labels, points, strict=True) if not np.isfinite(p).all()]
    if unset:
        raise InputRefused(
            f"Landmarks without a position: {', '.join(unset)}", "place or delete them", path
        )
    seen: dict[str, str] = {}
    for name in labels:
        if not name:
            raise InputRefused("A landmark has no label", "name every point in 3D Slicer", path)
        if name.casefold() in seen:
            raise InputRefused(
                f"Two landmarks are called {seen[name.casefold()]!r}", "rename one of them", path
            )
        seen[name.casefold()] = name
    if not labels:
        raise InputRefused("The landmark file holds no points", "place some in 3D Slicer", path)
    return Landmarks(tuple(labels), np.array(points, float).reshape(-1, 3))


def _points_of_json(text: str, path: Path) -> tuple[list[str], list[Array]]:
    try:
        lists = json.loads(text)["markups"]
        labels: list[str] = []
        points: list[Array] = []
        for markup in lists:
            space = _space(str(markup.get("coordinateSystem", "LPS")), path)
            unit = markup.get("coordinateUnits", "mm")
            if unit not in _MM:
                raise InputRefused(
                    f"Landmarks are in {unit!r}", "I read millimetres and micrometres only", path
                )
            for point in markup.get("controlPoints", []):
                position = np.array(point.get("position") or [np.nan] * 3, float).reshape(3)
                if point.get("positionStatus", "defined") != "defined":
                    position = np.full(3, np.nan)
                labels.append(str(point.get("label", "")).strip())
                points.append(_to_lps(position * _MM[unit], space))
    except InputRefused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefused(
            "This is not a 3D Slicer markups file", "save the points as .mrk.json", path
        ) from error
    return labels, points


def _points_of_fcsv(text: str, path: Path) -> tuple[list[str], list[Array]]:
    found = re.search(r"^#\s*CoordinateSystem\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    if found is None:
        # Slicer's storage node starts at LPS, slicerio answers RAS for the same file: never guess.
        raise InputRefused(
            "The .fcsv does not say whether it is LPS or RAS",
            "save it as .mrk.json from 3D Slicer, or add the line '# CoordinateSystem = LPS'",
            path,
        )
    space = _space(found.group(1), path)
    head = re.search(r"^#\s*columns\s*=\s*(.+)$", text, re.MULTILINE | re.IGNORECASE)
    columns = (head.group(1) if head else "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label").split(",")
    columns = [c.strip() for c in columns]
    labels: list[str] = []
    points: list[Array] = []
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for row in csv.reader(lines):
        record = dict(zip(columns, row, strict=False))
        try:
            position = np.array([float(record[axis]) for axis in "xyz"])
            labels.append(record["label"].strip())
        except (KeyError, ValueError) as error:
            raise InputRefused(
                "A line of the .fcsv is damaged", "save it as .mrk.json from 3D Slicer", path
            ) from error
        points.append(_to_lps(position, space))
    return labels, points


def _space(word: str, path: Path) -> str:
    if word.upper() not in _SPACES:
        raise InputRefused(
            f"Unknown coordinate system {word!r}", "save the points as LPS or RAS", path
        )
    return _SPACES[word.upper()]


def _to_lps(point: Array, space: str) -> Array:
    return point * [-1.0, -1.0, 1.0] if space == "RAS" else point


def write_landmarks(path: Path, landmarks: Landmarks) -> None:
    """Write `.mrk.json` in LPS mm. Raises ValueError for points that are not in LPS mm."""
    if landmarks.space != "LPS" or landmarks.unit != "mm":
        raise ValueError("only landmarks in LPS mm go to 3D Slicer")
    points = [
        {
            "id": str(k + 1),
            "label": name,
            "position": [float(x) for x in xyz],
            "positionStatus": "defined",
            "selected": True,
            "visibility": True,
            "locked": False,
        }
        for k, (name, xyz) in enumerate(zip(landmarks.names, landmarks.xyz, strict=True))
    ]
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups"
    atomic.write_json(
        path,
        {
            "@schema": f"{schema}/Resources/Schema/markups-schema-v1.0.3.json#",
            "markups": [
                {
                    "type": "Fiducial",
                    "coordinateSystem": "LPS",
                    "coordinateUnits": "mm",
                    "controlPoints": points,
                }
            ],
        },
    )


def space_of_header(text: str) -> str | None:
    """ "LPS" or "RAS" when a mesh header holds `SPACE=...`, else None (Slicer then takes LPS)."""
    found = re.search(r"SPACE\s*=\s*([A-Za-z]+)", text)
    return found.group(1) if found else None


def unit_of_header(text: str) -> float | None:
    """Millimetres per unit from `unit=mm|cm|m|um` or Mimics' "1 unit = N mm"; None when unsaid."""
    mimics = re.search(r"1\s*unit\s*=\s*([0-9.eE+-]+)\s*mm", text)
    if mimics:
        return float(mimics.group(1))
    found = re.search(r"\bunit\s*=\s*(mm|cm|um|m)\b", text.lower())
    return {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}[found.group(1)] if found else None


def read_segment(path: Path, name: str | None = None) -> tuple[Array, Array]:
    """Mask (k, j, i) of one segment of a `.seg.nrrd` and its `lps_from_index` (4, 4) in mm.

    Raises InputRefused when `name` is missing or absent while the file holds several segments.
    """
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputRefused("The segmentation cannot be read", "export it again", path) from error
    keys = set(image.GetMetaDataKeys())
    segments: dict[str, tuple[int, int]] = {}
    k = 0
    while f"Segment{k}_Name" in keys or f"Segment{k}_LabelValue" in keys:
        meta = {
            part: image.GetMetaData(f"Segment{k}_{part}")
            for part in ("Name", "LabelValue", "Layer")
            if f"Segment{k}_{part}" in keys
        }
        label, layer = int(meta.get("LabelValue", k + 1)), int(meta.get("Layer", 0))
        segments[meta.get("Name", f"Segment{k}")] = (label, layer)
        k += 1
    if name is None and len(segments) == 1:
        name = next(iter(segments))
    if name not in segments:
        raise InputRefused(
            f"The segmentation holds {', '.join(segments) or 'no named segment'}",
            "name one of them",
            path,
        )
    values = sitk.GetArrayFromImage(image)
    label, layer = segments[name]
    plane = values[..., layer] if image.GetNumberOfComponentsPerPixel() > 1 else values
    return plane == label, affine_of_image(image)


def affine_of_image(image: Any) -> Array:
    """`lps_from_index` (4, 4) of a SimpleITK image; index order is (i, j, k)."""
    out = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    out[:3, :3] = direction * np.array(image.GetSpacing())
    out[:3, 3] = image.GetOrigin()
    return out


def write_transform(path: Path, ct_from_recon: Array) -> None:
    """Write `.tfm` that 3D Slicer applies as `ct_from_recon` (LPS) to the reconstruction."""
    inverse = np.linalg.inv(ct_from_recon)  # ITK stores the map from the parent space
    numbers = [*inverse[:3, :3].ravel(), *inverse[:3, 3]]
    text = "#Insight Transform File V1.0\n#Transform 0\n"
    text += "Transform: AffineTransform_double_3_3\n"
    text += "Parameters: " + " ".join(f"{x:.17g}" for x in numbers) + "\n"
    text += "FixedParameters: 0 0 0\n"
    atomic.write_text(path, text)
