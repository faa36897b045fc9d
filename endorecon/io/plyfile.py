"""surface.ply: binary PLY with colour, `status` (uchar) and `sigma` (float) a vertex.

The header says unit and space: `comment unit=mm`, `comment SPACE=LPS` (3D Slicer reads the
latter; `SPACE=reconstruction` until registered). Vertices are written as float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from endorecon.errors import InputRefused
from endorecon.io import atomic
from endorecon.scene import Space, Surface, Unit

_VERTEX = np.dtype(
    [(n, "<f8") for n in "xyz"]
    + [(n, "u1") for n in ("red", "green", "blue", "status")]
    + [("sigma", "<f4")]
)
_FACE = np.dtype([("n", "u1"), ("v", "<i4", 3)])
_PLY = {"<f8": "double", "u1": "uchar", "<f4": "float"}


def write_surface(path: Path, surface: Surface, comments: tuple[str, ...] = ()) -> None:
    """Write a surface; `comments` go into the header, one line each."""
    vertices = np.zeros(len(surface.vertices), _VERTEX)
    for k, name in enumerate("xyz"):
        vertices[name] = surface.vertices[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        vertices[name] = surface.colors[:, k]
    vertices["status"], vertices["sigma"] = surface.status, surface.sigma
    faces = np.zeros(len(surface.faces), _FACE)
    faces["n"], faces["v"] = 3, surface.faces
    head = ["ply", "format binary_little_endian 1.0", "comment endorecon, not for clinical use"]
    head += [f"comment unit={surface.unit}", f"comment SPACE={surface.space}"]
    head += [f"comment {c}" for c in comments] + [f"element vertex {len(vertices)}"]
    head += [f"property {_PLY[_VERTEX[n].str.lstrip('|')]} {n}" for n in _VERTEX.names or ()]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    text = ("\n".join(head) + "\n").encode("ascii", "replace")
    atomic.write_bytes(path, text + vertices.tobytes() + faces.tobytes())


def read_surface(path: Path) -> Surface:
    """Read a surface.ply of ours. Raises InputRefused when absent, foreign or cut short."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputRefused(
            "The run has no surface yet", "let `endorecon fit` finish", path
        ) from error
    end = data.find(b"end_header\n")
    if not data.startswith(b"ply\n") or end < 0:
        raise InputRefused("This is not a surface that endorecon wrote", "", path)
    head = data[:end].decode("ascii", "replace").splitlines()
    fields = dict(h[8:].split("=", 1) for h in head if h.startswith("comment ") and "=" in h)
    counts = {h.split()[1]: int(h.split()[2]) for h in head if h.startswith("element ")}
    names = [h.split()[-1] for h in head if h.startswith("property ")]
    body = data[end + len(b"end_header\n") :]
    nv, nf = counts.get("vertex", 0), counts.get("face", 0)
    size = nv * _VERTEX.itemsize + nf * _FACE.itemsize
    if names != [*(_VERTEX.names or ()), "vertex_indices"]:
        raise InputRefused("This is not a surface that endorecon wrote", "", path)
    if len(body) != size:
        raise InputRefused(
            f"The surface file is cut short ({len(body)} of {size} bytes)",
            "run `endorecon fit` again, it resumes",
            path,
        )
    v = np.frombuffer(body, _VERTEX, nv)
    f = np.frombuffer(body, _FACE, nf, nv * _VERTEX.itemsize)
    try:
        return Surface(
            np.stack([v["x"], v["y"], v["z"]], -1),
            f["v"].astype(np.int64),
            np.stack([v["red"], v["green"], v["blue"]], -1),
            v["status"].copy(),
            v["sigma"].copy(),
            cast(Unit, fields.get("unit", "unitless")),
            cast(Space, fields.get("SPACE", "reconstruction")),
        )
    except ValueError as error:
        raise InputRefused(f"The surface is damaged ({error})", "", path) from error
