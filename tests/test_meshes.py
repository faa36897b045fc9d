"""Mesh files: nothing moves, spaces and units are honoured, damage is refused in words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from endorecon.errors import InputRefused
from endorecon.io.meshes import as_surface, read_mesh, write_mesh
from endorecon.scene import Surface


def tetrahedron(size: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]) * size + [100, -20, 1500]
    return v, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def ordered(v: np.ndarray) -> np.ndarray:
    return v[np.lexsort(v.T)]


@pytest.mark.parametrize("kind", ["ply", "stl", "obj", "glb"])
def test_a_written_mesh_comes_back_where_it_was(tmp_path: Path, kind: str) -> None:
    v, f = tetrahedron()
    file = tmp_path / f"a.{kind}"
    write_mesh(file, as_surface(v, f))
    back = read_mesh(file)
    assert back.space == "LPS" and back.unit == "mm"
    assert np.abs(ordered(back.vertices) - ordered(v)).max() < 2e-4  # float32 at 1500 mm
    corners = back.vertices[back.faces]  # winding kept: the normals point outwards
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ni,ni->n", normal, corners.mean(1) - v.mean(0)) > 0).all()


@pytest.mark.parametrize(("kind", "factor"), [("ply", 1), ("stl", 1), ("obj", 1), ("glb", 1e-3)])
def test_trimesh_sees_the_same_points_and_gltf_is_in_metres(
    tmp_path: Path, kind: str, factor: float
) -> None:
    import trimesh

    v, f = tetrahedron()
    write_mesh(tmp_path / f"a.{kind}", as_surface(v, f))
    theirs = trimesh.load(tmp_path / f"a.{kind}", force="mesh")
    assert np.abs(ordered(np.asarray(theirs.vertices)) - ordered(v * factor)).max() < 2e-4
    text = (tmp_path / f"a.{kind}").read_bytes()
    assert b"SPACE" in text and b"LPS" in text


def test_a_unitless_reconstruction_never_becomes_millimetres(tmp_path: Path) -> None:
    v, f = tetrahedron(0.7)
    for kind in ("ply", "stl", "obj", "glb"):
        write_mesh(tmp_path / f"a.{kind}", as_surface(v, f, "reconstruction", "unitless"))
        back = read_mesh(tmp_path / f"a.{kind}")
        assert (back.space, back.unit) == ("reconstruction", "unitless")


def write_stl(file: Path, v: np.ndarray, f: np.ndarray, header: str) -> None:
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *v[t].ravel().astype(np.float32), 0) for t in f)
    file.write_bytes(header.encode().ljust(80) + struct.pack("<I", len(f)) + body)


def test_ras_and_units_in_the_header_are_honoured(tmp_path: Path) -> None:
    v, f = tetrahedron()
    write_stl(tmp_path / "ras.stl", v, f, "SPACE=RAS")
    moved = read_mesh(tmp_path / "ras.stl").vertices
    assert np.abs(ordered(moved) - ordered(v * [-1, -1, 1])).max() < 2e-4
    write_stl(tmp_path / "m.stl", v / 1000, f, "SPACE=LPS unit=m")
    assert np.abs(ordered(read_mesh(tmp_path / "m.stl").vertices) - ordered(v)).max() < 1e-3
    text = "# 1 unit = 10 mm\n" + "".join(f"v {a} {b} {c}\n" for a, b, c in v / 10)
    (tmp_path / "mimics.obj").write_text(text + "".join(f"f {a} {b} {c}\n" for a, b, c in f + 1))
    assert np.abs(read_mesh(tmp_path / "mimics.obj").vertices - v).max() < 1e-6


@pytest.mark.parametrize(("factor", "word"), [(0.001, "metres"), (1000.0, "micrometres")])
def test_a_mesh_without_unit_and_of_no_head_size_is_refused(
    tmp_path: Path, factor: float, word: str
) -> None:
    v, f = tetrahedron()
    write_stl(tmp_path / "a.stl", v * factor, f, "someone's file")
    with pytest.raises(InputRefused, match=word):
        read_mesh(tmp_path / "a.stl")


@pytest.mark.parametrize("damage", ["empty", "cut", "points", "nan", "absent"])
def test_damaged_meshes_are_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    v, f = tetrahedron()
    file = tmp_path / "a.ply"
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
    head += "property float z\n"
    rows = [" ".join(map(str, p)) for p in v]
    faces = [f"3 {a} {b} {c}" for a, b, c in f]
    if damage == "nan":
        rows[2] = "nan 0 0"
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut":
        write_mesh(file, as_surface(v, f))
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "points":
        file.write_text(head + "end_header\n" + "\n".join(rows))
    elif damage == "nan":
        head += "element face 4\nproperty list uchar int vertex_indices\nend_header\n"
        file.write_text(head + "\n".join(rows + faces) + "\n")
    with pytest.raises(InputRefused) as caught:
        read_mesh(file)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(str(file))


def test_status_and_sigma_survive_our_own_ply(tmp_path: Path) -> None:
    v, f = tetrahedron()
    s = as_surface(v, f)
    s = Surface(v, f, s.colors, np.array([0, 1, 2, 0], np.uint8), np.full(4, 0.25, np.float32),
                "mm", "LPS")  # fmt: skip
    write_mesh(tmp_path / "a.ply", s)
    back = read_mesh(tmp_path / "a.ply")
    assert back.status.tolist() == [0, 1, 2, 0] and (back.sigma == 0.25).all()
