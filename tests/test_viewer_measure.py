"""Numbers of the viewer against closed forms: ways on spheres and cylinders, angles, areas."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon.errors import NotEnoughInformation
from endorecon.scene import GUESSED, Surface
from endorecon.viewer.funnel import Node, pull_straight
from endorecon.viewer.geodesic import path_length
from endorecon.viewer.measure import Z95, _angle, _area, take
from endorecon.viewer.mesh import SurfaceMesh


def sphere(n: int, r: float = 10.0) -> SurfaceMesh:
    pv = pytest.importorskip("pyvista")
    made = pv.Icosphere(radius=r, nsub=n)
    return as_mesh(np.array(made.points, float), made.faces.reshape(-1, 4)[:, 1:])


def cylinder(n: int = 90, m: int = 60, r: float = 5.0, length: float = 20.0) -> SurfaceMesh:
    theta, y = np.meshgrid(
        np.linspace(0, 2 * np.pi, n, endpoint=False), np.linspace(0, length, m), indexing="ij"
    )
    xyz = np.stack([r * np.cos(theta), y, r * np.sin(theta)], -1).reshape(-1, 3)
    i = np.arange(n * m).reshape(n, m)
    j = np.roll(i, -1, 0)
    faces = np.concatenate(
        [
            np.stack([i[:, :-1], i[:, 1:], j[:, :-1]], -1).reshape(-1, 3),
            np.stack([j[:, :-1], i[:, 1:], j[:, 1:]], -1).reshape(-1, 3),
        ]
    )
    return as_mesh(xyz, faces)


def as_mesh(vertices: np.ndarray, faces: np.ndarray, sigma: float = 0.1) -> SurfaceMesh:
    n = len(vertices)
    return SurfaceMesh(Surface(
        vertices, faces.astype(np.int64), np.zeros((n, 3), np.uint8), np.zeros(n, np.uint8),
        np.full(n, sigma, np.float32), "mm", "LPS",
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_the_way_over_a_sphere_is_the_great_circle(seed: int) -> None:
    mesh = sphere(5)
    a, b = np.random.default_rng(seed).normal(size=(2, 3))
    spots = (mesh.nearest(10 * a / np.linalg.norm(a)), mesh.nearest(10 * b / np.linalg.norm(b)))
    d = take("distance", "D", spots, mesh)
    A, B = d.points
    arc = 10 * np.arctan2(np.linalg.norm(np.cross(A, B)), A @ B)
    assert d.along == pytest.approx(arc, rel=3e-3)
    assert d.value == pytest.approx(float(np.linalg.norm(A - B)), abs=1e-12)


def test_the_way_round_a_cylinder_is_the_straight_line_of_its_sheet() -> None:
    mesh = cylinder()
    for turn, rise in ((0.7, 12.0), (2.5, 5.0), (3.0, 0.5), (0.02, 15.0)):
        a = mesh.nearest(np.array([5.0, 2.0, 0.0]))
        b = mesh.nearest(np.array([5 * np.cos(turn), 2.0 + rise, 5 * np.sin(turn)]))
        d = take("distance", "D", (a, b), mesh)
        assert d.along == pytest.approx(np.hypot(5 * turn, rise), rel=2e-3)


def test_on_a_plane_both_distances_are_equal_even_across_coarse_faces() -> None:
    v = np.array([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0], [5, 5, 0]], float)
    mesh = as_mesh(v, np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]))
    spots = (mesh.nearest(np.array([1.0, 4.0, 0])), mesh.nearest(np.array([9.0, 7.0, 0])))
    d = take("distance", "D", spots, mesh)
    assert d.along == pytest.approx(d.value, rel=1e-3)


def test_parts_without_a_connection_have_no_way_but_a_straight_distance() -> None:
    one, n = sphere(2), len(sphere(2).surface.vertices)
    v, f = one.surface.vertices, one.surface.faces
    mesh = as_mesh(np.concatenate([v, v + np.array([40, 0, 0])]), np.concatenate([f, f + n]))
    d = take("distance", "D", (mesh.spot(v[0], 0), mesh.spot(v[0] + [40, 0, 0], len(f))), mesh)
    assert d.value == pytest.approx(40.0) and np.isnan(d.along) and "no way" in d.why_no_along


def test_a_ray_hits_the_triangle_where_the_plane_equation_says() -> None:
    mesh = sphere(4)
    rng = np.random.default_rng(1)
    v, f = mesh.surface.vertices, mesh.surface.faces
    for _ in range(50):
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        offset = 0.3 * rng.normal(size=3)
        hit = mesh.ray(offset - 50 * way, offset + 50 * way)
        assert hit is not None
        a, b, c = v[f[hit.face]]
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        p = np.array(hit.xyz)
        assert abs((p - a) @ normal) < 1e-9
        assert np.linalg.norm(np.cross(p - offset, way)) < 1e-9
        assert (p - offset) @ way < 0  # the nearer of the two walls


def test_the_interval_of_a_distance_covers_95_of_100() -> None:
    rng = np.random.default_rng(2)
    mesh = sphere(3)
    a, b = mesh.nearest(np.array([10.0, 0, 0])), mesh.nearest(np.array([0, 10.0, 0]))
    d = take("distance", "D", (a, b), mesh)
    ends = np.array([a.xyz, b.xyz]) + 0.1 * rng.normal(size=(20_000, 2, 3))
    truth = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    assert d.half == pytest.approx(Z95 * 0.1 * np.sqrt(2), rel=1e-4)
    assert (np.abs(truth - d.value) < d.half).mean() == pytest.approx(0.95, abs=0.01)


def test_gradients_of_angle_and_area_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(3)
    P = rng.normal(size=(3, 3))
    ring = np.array([[np.cos(t), 1.4 * np.sin(t), 0.05 * np.sin(2 * t)]
                     for t in np.linspace(0, 2 * np.pi, 9)[:-1]])  # fmt: skip
    for call, points in ((_angle, P), (_area, ring)):
        value, slope = call(points)
        for i in range(len(points)):
            for k in range(3):
                moved = points.copy()
                moved[i, k] += 1e-6
                assert (call(moved)[0] - value) / 1e-6 == pytest.approx(slope[i, k], abs=1e-3)


def test_angle_and_area_of_known_figures() -> None:
    mesh = as_mesh(np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0.0]]), np.array([[0, 1, 2]]))
    spots = tuple(mesh.nearest(np.array(p)) for p in ([1.0, 0, 0], [0.0, 0, 0], [0, 2.0, 0]))
    assert take("angle", "A", spots, mesh).value == pytest.approx(90.0)
    square = tuple(mesh.nearest(np.array(p)) for p in
                   ([1.0, 1, 0], [3.0, 1, 0], [3.0, 3, 0], [1.0, 3, 0]))  # fmt: skip
    area = take("area", "O", square, mesh)
    assert area.value == pytest.approx(4.0) and area.text == ""
    same = (spots[0], spots[0], spots[2])
    with pytest.raises(NotEnoughInformation, match="same"):
        take("angle", "A", same, mesh)


def test_nothing_is_measured_on_or_across_guessed_surface() -> None:
    mesh = cylinder()
    s = mesh.surface
    band = (np.abs(s.vertices[:, 1] - 10) < 2).astype(np.uint8) * GUESSED
    made = SurfaceMesh(Surface(s.vertices, s.faces, s.colors, band, s.sigma, "mm", "LPS"))
    at = [made.nearest(np.array([5.0, y, 0])) for y in (2.0, 6.0, 10.0, 18.0)]
    assert take("distance", "D", (at[0], at[1]), made).along == pytest.approx(4.0, rel=1e-3)
    with pytest.raises(NotEnoughInformation, match="no frame has seen"):
        take("point", "P", (at[2],), made)
    with pytest.raises(NotEnoughInformation, match="across"):
        take("distance", "D", (at[0], at[3]), made)


def test_the_string_pulled_over_a_row_of_triangles_is_the_shortest() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        points = [np.zeros(3), np.array([1.0, 0, 0])]
        ids = [(0, 1)]
        for _ in range(rng.integers(1, 9)):
            i, j = ids[-1]
            step = np.array([0.5 * rng.normal(), 0.6 + 0.5 * rng.random(), 0.3 * rng.normal()])
            points.append((points[i] + points[j]) / 2 + step)
            new = len(points) - 1
            ids.append((new, j) if rng.random() < 0.5 else (i, new))
        v = np.array(points)
        A, B = v[[i for i, _ in ids]], v[[j for _, j in ids]]
        start, end = np.array([0.5, -0.7, 0]), (A[-1] + B[-1]) / 2 + [0, 0.7, 0]
        row = [Node(min(k), max(k), (v[k[0]] + v[k[1]]) / 2) for k in ids]
        pulled = pull_straight([Node(-1, -1, start), *row, Node(-1, -1, end)], v)
        length = path_length(pulled)
        for t in rng.random((300, len(ids), 1)):
            other = np.concatenate([start[None], A + t * (B - A), end[None]])
            assert length <= path_length(other) + 1e-9


def test_the_way_over_rough_surface_is_no_longer_than_that_of_edge_flips() -> None:
    potpourri3d = pytest.importorskip("potpourri3d")
    one = sphere(5)
    rng = np.random.default_rng(5)
    f = one.surface.faces
    v = one.surface.vertices + 0.03 * rng.normal(size=one.surface.vertices.shape)
    solver = potpourri3d.EdgeFlipGeodesicSolver(v, f)
    mesh = as_mesh(v, f)
    for i, j in rng.integers(len(v), size=(3, 2)):
        spots = [mesh.spot(v[k], int(np.flatnonzero((f == k).any(1))[0])) for k in (i, j)]
        way = mesh.way(*spots)
        assert way is not None
        flipped = path_length(np.asarray(solver.find_geodesic_path(int(i), int(j))))
        assert path_length(way) < 1.002 * flipped
