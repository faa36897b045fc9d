"""The phantom's anatomy: smooth, exact on its own surface, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from endorecon.phantom.anatomy import Anatomy, make_anatomy
from endorecon.phantom.implicit import (
    Mesh,
    extract_mesh,
    gradient,
    inside_box,
    inside_capsule,
    inside_ellipsoid,
    march,
    sample_volume,
    smooth_max,
    smooth_min,
)
from endorecon.phantom.noise import make_tile

FAMILIES = ("sinus", "colon")


@pytest.fixture(scope="module", params=FAMILIES)
def cavity(request: pytest.FixtureRequest) -> tuple[Anatomy, Mesh]:
    anatomy = make_anatomy(request.param, 11)
    volume = sample_volume(anatomy.distance, anatomy.low, anatomy.high, 0.4, coarse=3)
    return anatomy, extract_mesh(anatomy.distance, volume)


def test_mesh_vertices_lie_on_the_implicit_surface(cavity: tuple[Anatomy, Mesh]) -> None:
    anatomy, mesh = cavity
    off = np.abs(anatomy.distance(mesh.vertices))
    assert np.percentile(off, 99.5) < 1e-4 and off.mean() < 1e-3


def test_normals_point_into_the_air_and_agree_with_the_faces(cavity: tuple[Anatomy, Mesh]) -> None:
    anatomy, mesh = cavity
    step = 0.05
    ahead = anatomy.distance(mesh.vertices + step * mesh.normals)
    assert np.mean(ahead > 0) > 0.999
    v, f = mesh.vertices, mesh.faces
    facing = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    assert np.mean(np.einsum("ij,ij->i", facing, mesh.normals[f[:, 0]]) > 0) > 0.995


def test_landmarks_lie_on_the_mesh_within_five_hundredths(cavity: tuple[Anatomy, Mesh]) -> None:
    import open3d as o3d

    anatomy, mesh = cavity
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices.astype(np.float32)),
        o3d.core.Tensor(mesh.faces.astype(np.uint32)),
    )
    points = np.array(list(anatomy.landmarks.values()), np.float32)
    assert len(points) >= 12
    assert np.abs(anatomy.distance(points.astype(float))).max() < 1e-4
    assert scene.compute_distance(o3d.core.Tensor(points)).numpy().max() < 0.05


def test_every_distance_has_both_its_landmarks_and_a_plausible_length() -> None:
    for family in FAMILIES:
        for seed in range(4):
            a = make_anatomy(family, seed)
            for name, start, end in a.distances:
                length = np.linalg.norm(a.landmarks[start] - a.landmarks[end])
                assert 2.0 < length < 90.0, (family, seed, name)


def test_a_sinus_has_textbook_proportions() -> None:
    lengths: dict[str, list[float]] = {}
    for seed in range(8):
        a = make_anatomy("sinus", seed)
        for name, start, end in a.distances:
            d = float(np.linalg.norm(a.landmarks[start] - a.landmarks[end]))
            lengths.setdefault(name, []).append(d)
    assert 55 < np.mean(lengths["nasal sill to sphenoid face"]) < 75
    assert 18 < np.mean(lengths["ethmoid length"]) < 40
    assert 5 < np.mean(lengths["sphenoid ostium height"]) < 14


def test_the_same_seed_gives_the_same_anatomy_and_another_seed_another() -> None:
    p = np.random.default_rng(0).uniform(-40, 40, (500, 3))
    for family in FAMILIES:
        a, b, c = (make_anatomy(family, s) for s in (5, 5, 6))
        assert np.array_equal(a.distance(p), b.distance(p))
        assert not np.allclose(a.distance(p), c.distance(p))


def test_size_scales_every_clinical_distance() -> None:
    a, b = make_anatomy("colon", 3), make_anatomy("colon", 3, size=1.25)
    for _, start, end in a.distances:
        one = np.linalg.norm(a.landmarks[start] - a.landmarks[end])
        two = np.linalg.norm(b.landmarks[start] - b.landmarks[end])
        assert two == pytest.approx(1.25 * one, rel=1e-6)


def test_without_roughness_the_wall_is_smoother() -> None:
    def wobble(roughness: float) -> float:
        a = make_anatomy("colon", 2, roughness=roughness)
        p = np.stack([march(a.distance, a.route.waypoints[2], u) for u in
                      np.random.default_rng(1).normal(size=(60, 3))])  # fmt: skip
        n = gradient(a.distance, p)
        near = gradient(a.distance, p + 0.4)
        return float(np.linalg.norm(n - near, axis=1).mean())

    assert wobble(3.0) > 1.2 * wobble(0.0)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown family 'nose'"):
        make_anatomy("nose", 0)


def test_primitives_are_signed_distances_where_they_claim_to_be() -> None:
    p = np.random.default_rng(3).uniform(-8, 8, (400, 3))
    ball = 3.0 - np.linalg.norm(p, axis=1)
    assert np.allclose(inside_ellipsoid(p, np.zeros(3), np.full(3, 3.0)), ball)
    origin = np.zeros(3)
    assert np.allclose(inside_capsule(p, origin, np.array([1e-9, 0, 0]), 3.0), ball, atol=1e-6)
    box = inside_box(p, np.zeros(3), np.array([2.0, 3.0, 4.0]), 1e-6)
    inner = np.min(np.array([2.0, 3.0, 4.0]) - np.abs(p), axis=1)
    assert np.allclose(box[inner > 0], inner[inner > 0], atol=1e-5)


def test_smooth_operations_stay_within_a_quarter_of_their_seam() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 1000))
    for k in (0.1, 1.0):
        up = smooth_max(a, b, k) - np.maximum(a, b)
        down = np.minimum(a, b) - smooth_min(a, b, k)
        assert up.min() >= 0 and up.max() <= k / 4 and np.allclose(up, down)


def test_noise_tiles_repeat_and_have_unit_variance() -> None:
    tile = make_tile(np.random.default_rng(0), 32, 0.5, (1.5, 8.0))
    p = np.random.default_rng(1).uniform(0, 100, (4000, 3))
    shift = tile.rotation @ np.array([32 * 0.5, 0.0, 0.0])
    assert np.allclose(tile.sample(p), tile.sample(p + shift), atol=2e-4)
    assert 0.8 < tile.lattice.std() < 1.2 and abs(tile.lattice.mean()) < 1e-3


def test_trilinear_noise_and_its_slopes_are_scipys() -> None:
    from scipy.ndimage import map_coordinates

    tile = make_tile(np.random.default_rng(3), 24, 0.3, (1.0, 4.0))
    p = np.random.default_rng(4).uniform(-30, 30, (3, 500)).astype(np.float32)
    q = (tile.rotation.T @ p.astype(float)) / tile.spacing

    def read(lattice: np.ndarray) -> np.ndarray:
        return map_coordinates(lattice, q, order=1, mode="grid-wrap", prefilter=False)

    assert np.abs(tile.trilinear(p) - read(tile.lattice)).max() < 2e-4  # float32 places
    steps = [read(np.roll(tile.lattice, -1, axis) - tile.lattice) for axis in range(3)]
    want = tile.rotation @ np.stack(steps) / tile.spacing
    assert np.abs(tile.slopes(p) - want).max() < 2e-3 * np.abs(want).max()
    assert tile.trilinear(p[:, :0]).shape == (0,) and tile.slopes(p[:, :0]).shape == (3, 0)
