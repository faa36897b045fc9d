"""Triangle meshes from and to other programs: PLY, STL, OBJ, GLB with their space and unit.

Every file we write says `SPACE=` and `unit=` in its header (3D Slicer reads the former, and takes
LPS without it). Reading gives a `Surface`; RAS is flipped and centimetres, metres and Mimics'
"1 unit = N mm" become millimetres here. glTF is in metres by its standard, so a GLB of ours holds
a root node of scale 0.001 over vertices in mm; one without unit has scale 1 and says so in
`asset.extras`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused, UsageError
from endorecon.io import atomic
from endorecon.io.plyfile import read_surface, write_surface
from endorecon.io.slicer import space_of_header, unit_of_header
from endorecon.scene import Space, Surface, Unit

Array = NDArray[Any]
FORMATS = ("ply", "stl", "obj", "glb")
_TITLE = "endorecon, not for clinical use"
_PLAUSIBLE_MM = (5.0, 500.0)  # an anatomy's longest side


def read_mesh(path: Path, check_size: bool = True) -> Surface:
    """A mesh file as a Surface in LPS mm (or our own unitless reconstruction as it is).

    Raises InputRefused when the file is damaged, empty, holds NaN, or is of implausible size.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise UsageError(f"I read meshes as {', '.join(FORMATS)}", "convert the file", path)
    if not path.is_file():
        raise InputRefused("The mesh file does not exist", "check the name", path)
    header = _header(path, kind)
    space: str | None = space_of_header(header)
    scale = unit_of_header(header)
    if kind == "ply" and "property uchar status" in header and "property float sigma" in header:
        surface = read_surface(path)
        if surface.unit == "unitless" or surface.space == "reconstruction":
            return surface
        colors, status, sigma = surface.colors, surface.status, surface.sigma
        vertices, faces = surface.vertices, surface.faces
    else:
        vertices, faces, colors = _load(path)
        status = np.zeros(len(vertices), np.uint8)
        sigma = np.zeros(len(vertices), np.float32)
        if kind == "glb":
            vertices, space, scale = _from_gltf(vertices, header)
    if space not in (None, "LPS", "RAS", "reconstruction"):
        raise InputRefused(f"The mesh is in the space {space}", "export it as LPS or RAS", path)
    vertices = vertices * (scale or 1.0)
    if space == "RAS":
        vertices = vertices * np.array([-1.0, -1.0, 1.0])
    if "unit=unitless" in header or space == "reconstruction":
        unit: Unit = "mm" if scale else "unitless"
        return Surface(vertices, faces, colors, status, sigma, unit, "reconstruction")
    size = float(np.ptp(vertices, axis=0).max())
    if check_size and not _PLAUSIBLE_MM[0] <= size <= _PLAUSIBLE_MM[1]:
        guess = "metres" if size < 1 else "micrometres" if size > 5000 else "another unit"
        raise InputRefused(
            f"The mesh is {size:.4g} mm long, which no head is; it looks like {guess}",
            "export it in millimetres, or write unit=m (or cm, um) into its header",
            path,
        )
    return Surface(vertices, faces, colors, status, sigma, "mm", "LPS")


def _header(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        if kind == "stl":
            return file.read(80).decode("latin-1")
        if kind == "obj":
            lines = file.read(1 << 16).decode("utf-8", "replace").splitlines()
            return "\n".join(line for line in lines if line.startswith("#"))
        data = file.read(1 << 16)
    if kind == "ply":
        return data.split(b"end_header")[0].decode("latin-1")
    if len(data) < 20 or data[:4] != b"glTF":
        raise InputRefused("The GLB file is damaged", "export it again", path)
    length = struct.unpack("<I", data[12:16])[0]
    return data[20 : 20 + length].decode("utf-8", "replace")


def _load(path: Path) -> tuple[Array, Array, Array]:
    import trimesh

    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
        vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh has no exception of its own for damaged files
        raise InputRefused("The mesh file is damaged", "export it again", path) from error
    if len(faces) == 0:
        raise InputRefused("The mesh has no triangles", "export the surface, not the points", path)
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices).all(1)).sum())
        raise InputRefused(f"{bad} vertices of the mesh are not numbers", "export it again", path)
    if path.suffix.lower() == ".stl":  # three vertices a triangle: weld equal ones
        vertices, inverse = np.unique(vertices, axis=0, return_inverse=True)
        faces = inverse.reshape(-1)[faces]
    colors = np.full((len(vertices), 3), 200, np.uint8)
    visual: Any = getattr(mesh, "visual", None)
    if getattr(visual, "kind", None) == "vertex" and len(visual.vertex_colors) == len(vertices):
        colors = np.asarray(visual.vertex_colors)[:, :3].astype(np.uint8)
    return vertices, faces, colors


def _from_gltf(vertices: Array, header: str) -> tuple[Array, str | None, float | None]:
    try:
        extras = json.loads(header).get("asset", {}).get("extras", {})
    except (ValueError, AttributeError):
        extras = {}
    space = extras.get("SPACE") if isinstance(extras, dict) else None
    if isinstance(extras, dict) and extras.get("unit") == "unitless":
        return vertices, space, None
    return vertices, space, 1000.0  # metres, by the standard


def write_mesh(path: Path, surface: Surface) -> None:
    """Write ply, stl, obj or glb by suffix, with space and unit in the header."""
    kind = Path(path).suffix.lower().lstrip(".")
    note = f"SPACE={surface.space} unit={surface.unit}"
    if kind == "ply":
        write_surface(Path(path), surface)
    elif kind == "stl":
        atomic.write_bytes(Path(path), _stl(surface, f"{note} {_TITLE}"))
    elif kind == "obj":
        atomic.write_text(Path(path), _obj(surface, note))
    elif kind == "glb":
        atomic.write_bytes(Path(path), _glb(surface))
    else:
        raise UsageError(f"I write meshes as {', '.join(FORMATS)}", "choose one of them", path)


def _stl(surface: Surface, note: str) -> bytes:
    record = np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    out = np.zeros(len(surface.faces), record)
    corners = surface.vertices[surface.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out["v"] = corners
    out["n"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    head = note.encode("ascii", "replace")[:80].ljust(80)
    return head + struct.pack("<I", len(out)) + out.tobytes()


def _obj(surface: Surface, note: str) -> str:
    lines = [f"# {_TITLE}", *(f"# {part}" for part in note.split())]
    colors = surface.colors / 255.0
    lines += [
        f"v {p[0]:.9g} {p[1]:.9g} {p[2]:.9g} {c[0]:.4f} {c[1]:.4f} {c[2]:.4f}"
        for p, c in zip(surface.vertices, colors, strict=True)
    ]
    lines += [f"f {a} {b} {c}" for a, b, c in surface.faces + 1]
    return "\n".join(lines) + "\n"


def _glb(surface: Surface) -> bytes:
    positions = surface.vertices.astype("<f4")
    colors = np.concatenate([surface.colors, np.full((len(positions), 1), 255)], 1).astype("u1")
    indices = surface.faces.astype("<u4")
    parts = [indices.tobytes(), positions.tobytes(), colors.tobytes()]
    offsets = np.cumsum([0] + [len(p) for p in parts])
    scale = 0.001 if surface.unit == "mm" else 1.0
    tree = {
        "asset": {
            "version": "2.0",
            "generator": _TITLE,
            "extras": {"SPACE": surface.space, "unit": surface.unit},
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [scale] * 3, "name": "surface"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1, "COLOR_0": 2}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5125, "count": indices.size, "type": "SCALAR"},
            {
                "bufferView": 1,
                "componentType": 5126,
                "count": len(positions),
                "type": "VEC3",
                "min": [float(x) for x in positions.min(0)],
                "max": [float(x) for x in positions.max(0)],
            },
            {
                "bufferView": 2,
                "componentType": 5121,
                "normalized": True,
                "count": len(positions),
                "type": "VEC4",
            },
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": int(offsets[k]), "byteLength": len(parts[k])}
            for k in range(3)
        ],
        "buffers": [{"byteLength": int(offsets[-1])}],
    }
    text = json.dumps(tree).encode("ascii")
    text += b" " * (-len(text) % 4)
    body = b"".join(parts)
    body += b"\0" * (-len(body) % 4)
    out = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(body))
    out += struct.pack("<I4s", len(text), b"JSON") + text
    return out + struct.pack("<I4s", len(body), b"BIN\0") + body


def as_surface(vertices: Array, faces: Array, space: str = "LPS", unit: str = "mm") -> Surface:
    """A plain mesh (v, 3), (f, 3) as an observed Surface without colour and sigma."""
    count = len(vertices)
    return Surface(
        np.asarray(vertices, float),
        np.asarray(faces, np.int64),
        np.full((count, 3), 200, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros(count, np.float32),
        cast(Unit, unit),
        cast(Space, space),
    )
