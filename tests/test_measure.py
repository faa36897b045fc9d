"""Measures against closed forms, and intervals against Monte Carlo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from endorecon.errors import InputRefused
from endorecon.evaluate import measure
from endorecon.io.meshes import as_surface
from endorecon.scene import Surface


def sphere(radius: float, rings: int = 60) -> Surface:
    import pyvista as pv

    s = pv.Icosphere(radius=radius, nsub=4 if rings > 40 else 3)
    return as_surface(np.asarray(s.points), np.asarray(s.regular_faces))


def test_lengths_angles_and_rings_have_their_textbook_values() -> None:
    p = np.array([[0, 0, 0], [3, 4, 0], [3, 4, 12.0]])
    assert measure.value("point-to-point", p) == pytest.approx(np.linalg.norm([3, 4, 12]))
    assert measure.value("polyline", p) == pytest.approx(17.0)
    assert measure.angle_deg(p[0], p[1], p[2]) == pytest.approx(90.0)
    t = np.linspace(0, 2 * np.pi, 361)[:-1]
    ring = np.column_stack([4 * np.cos(t), 4 * np.sin(t), 7 + 0 * t])
    assert measure.value("ostium-area_mm2", ring) == pytest.approx(np.pi * 16, rel=1e-3)
    assert measure.value("ostium-diameter", ring) == pytest.approx(8.0, rel=1e-3)


def test_a_geodesic_on_a_sphere_is_a_great_circle() -> None:
    pytest.importorskip("potpourri3d")
    s = sphere(10.0)
    a, b = s.vertices[0], s.vertices[200]
    angle = np.arccos(a @ b / 100)
    assert measure.value("geodesic", np.array([a, b]), s) == pytest.approx(10 * angle, rel=0.01)


def test_a_geodesic_is_refused_where_no_path_exists_and_never_crosses_guessed_surface() -> None:
    pytest.importorskip("potpourri3d")
    s = sphere(10.0, 20)
    status = np.where(np.abs(s.vertices[:, 2]) < 2.0, 2, 0).astype(np.uint8)  # a guessed belt
    belt = Surface(s.vertices, s.faces, s.colors, status, s.sigma, "mm", "LPS")
    ends = np.array([[0, 0, 10.0], [0, 0, -10.0]])
    assert np.isnan(measure.value("geodesic", ends, belt))


def test_a_cross_section_of_a_sphere_is_a_disc_and_an_open_one_is_refused() -> None:
    s = sphere(10.0)
    axis = np.array([0.3, -0.2, 0.9])
    centre = 4.0 * axis / np.linalg.norm(axis)
    area = measure.cross_section(s, centre, axis)
    assert area == pytest.approx(np.pi * (100 - 16), rel=0.01)
    half = s.faces[(s.vertices[s.faces][:, :, 0] > 0).all(1)]
    assert np.isnan(measure.cross_section(as_surface(s.vertices, half), np.zeros(3), np.eye(3)[2]))


def test_the_volume_between_two_spheres_is_that_of_the_shell() -> None:
    s = sphere(10.0)
    outside, inside = measure.volume_between(s, np.full(len(s.vertices), 0.2))
    assert outside == pytest.approx(4 * np.pi * 100 * 0.2, rel=0.01) and inside == 0.0


@pytest.mark.parametrize("kind", ["point-to-point", "polyline", "angle_deg", "ostium-diameter"])
def test_the_standard_deviation_of_a_measure_agrees_with_monte_carlo(kind: str) -> None:
    rng = np.random.default_rng(0)
    p = np.array([[0, 0, 0], [9, 2, 1], [7, 12, -3], [-2, 8, 1.0]])
    if kind in ("point-to-point", "angle_deg"):
        p = p[: 2 if kind == "point-to-point" else 3]
    L = rng.normal(0, 0.1, (len(p), 3, 3))
    covariance = L @ L.transpose(0, 2, 1)
    _, sigma = measure.interval(kind, p, covariance, None, 0.01)
    power = measure.LENGTH_POWER[kind]
    draws = [
        measure.value(kind, p + np.einsum("nij,nj->ni", L, rng.normal(size=p.shape)))
        * np.exp(0.01 * rng.normal()) ** power
        for _ in range(4000)
    ]
    assert sigma == pytest.approx(np.std(draws), rel=0.06)


@pytest.mark.parametrize(
    ("text", "word"),
    [("- {name: a, from: L0}", "Entry 1"), ("[]", "empty"), ("a: [", "no YAML"),
     ("- {name: a, from: A, to: B}\n- {name: a, from: A, to: C}", "one name"),
     ("- {name: a, kind: angle_deg, points: [A, B]}", "too few points"),
     ("- {name: a, kind: guess, points: [A, B]}", "'guess'"),
     ("- !!python/object/apply:os.system ['true']", "no YAML")],
)  # fmt: skip
def test_wrong_lists_of_distances_are_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(InputRefused, match=word):
        measure.read_plans(tmp_path / "d.yaml")


def test_distances_are_read_with_their_kinds(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(
        "- {name: length, from: A, to: B}\n"
        "- {name: bend, kind: angle_deg, points: [A, B, C]}\n"
        "- {name: shaft, from: D, to: E, known_mm: 4.0, known_sigma_mm: 0.05}\n"
    )
    a, b, c = measure.read_plans(tmp_path / "d.yaml")
    assert (a.kind, a.points) == ("point-to-point", ("A", "B")) and b.points == ("A", "B", "C")
    assert (c.known_mm, c.known_sigma_mm) == (4.0, 0.05)
