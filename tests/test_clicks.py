"""Clicks to 3D: exact without noise, and intervals that hold what they promise with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import correlated, distort, look_at

from endorecon.errors import InputRefused
from endorecon.evaluate import clicks as ck
from endorecon.evaluate import lifting as lf
from endorecon.evaluate import measure
from endorecon.evaluate.observers import with_observers
from endorecon.evaluate.statistics import share_with_interval
from endorecon.geometry import apply, invert, pixel_grid, rays
from endorecon.scene import Camera, DepthMap

SOURCE = Camera(640, 480, 420.0, 418.0, 322.0, 238.0, "OPENCV", (-0.18, 0.03, 0.001, -0.0005))
PINHOLE = Camera(240, 180, 150.0, 150.0, 120.0, 90.0)
RADIUS = 18.0  # the scene: inside of a sphere about the origin


def sphere_depth(pose: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    d = rays(pixel_grid(PINHOLE.width, PINHOLE.height), PINHOLE.K) @ pose[:3, :3].T
    o = pose[:3, 3]
    a, b, c = (d * d).sum(-1), d @ o, o @ o - radius**2
    return (-b + np.sqrt(b * b - a * c)) / a


def scene(seed: int, sigma: float) -> tuple[dict[int, np.ndarray], dict[int, DepthMap]]:
    rng = np.random.default_rng(seed)
    poses, depths = {}, {}
    for k in range(6):
        eye = rng.normal(0, 2.0, 3)
        pose = look_at(eye, np.array([0.0, 0, 16]) + rng.normal(0, 2, 3), np.array([0, 1.0, 0]))
        z = sphere_depth(pose)
        z = z + (correlated(rng, z.shape, sigma) if sigma else 0.0)
        noise, trust = np.full(z.shape, max(sigma, 1e-4)), np.ones(z.shape)
        poses[k] = pose
        depths[k] = DepthMap(z, noise, trust, PINHOLE.K, pose, k)
    return poses, depths


def points(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed + 50)
    p = np.column_stack([rng.uniform(-6, 6, (count, 2)), np.full(count, 16.0)])
    return RADIUS * p / np.linalg.norm(p, axis=1, keepdims=True)


def click(
    p: np.ndarray, poses: dict[int, np.ndarray], noise: float, repeats: int, seed: int
) -> list[ck.Click]:
    rng = np.random.default_rng(seed + 90)
    out = []
    for j, x in enumerate(p):
        for f in list(poses)[:4]:
            q = apply(invert(poses[f]), x)
            for r in range(repeats):
                u, v = distort(q[:2] / q[2], SOURCE) + rng.normal(0, noise, 2)
                out.append(ck.Click("A", r, f"P{j}", f, float(u), float(v)))
    return out


@pytest.mark.parametrize(
    "camera",
    [SOURCE, Camera(640, 480, 420.0, 418.0, 322.0, 238.0),
     Camera(640, 480, 300.0, 300.0, 320.0, 240.0, "OPENCV_FISHEYE", (0.05, -0.01, 0.002, 0.0))],
)  # fmt: skip
def test_source_pixels_become_rays_with_their_derivative(camera: Camera) -> None:
    xy = np.array([[0.3, -0.2], [-0.4, 0.35], [0.0, 0.0]])
    if camera.model == "OPENCV":
        uv = distort(xy, camera)
    elif camera.model == "PINHOLE":
        uv = xy * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    else:  # Kannala-Brandt, written out
        r = np.linalg.norm(xy, axis=1, keepdims=True)
        t = np.arctan(r)
        k = camera.distortion
        td = t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8)
        uv = xy * np.where(r > 0, td / np.maximum(r, 1e-12), 1) * camera.fx + [camera.cx, camera.cy]
    found, jacobian = ck.source_rays(uv, camera)
    assert np.abs(found[:, :2] - xy).max() < 1e-6
    moved, _ = ck.source_rays(uv + np.array([0.2, -0.1]), camera)
    assert np.abs((moved - found)[:, :2] - jacobian @ [0.2, -0.1]).max() < 1e-6


def test_the_local_plane_is_the_tangent_of_a_sphere() -> None:
    poses, depths = scene(0, 0.0)
    for p in points(0, 20):
        q = apply(invert(poses[0]), p)
        found = ck.local_plane(depths[0], q / q[2])
        if found is None:
            continue
        where, normal, _ = found
        assert np.linalg.norm(where - p) < 1e-3
        assert abs(normal @ p) / RADIUS > 0.9999


def test_exact_clicks_are_lifted_exactly_with_and_without_depth() -> None:
    poses, depths = scene(1, 0.0)
    p = points(1, 10)
    for maps in (depths, {}):
        lifted, _ = lf.lift(click(p, poses, 0.0, 1, 0), SOURCE, poses, maps, 1.0)
        found = np.array([x.xyz for x in lifted])
        assert np.abs(found - p).max() < 2e-3


def test_noise_of_clicks_and_depth_is_estimated_from_the_residuals() -> None:
    poses, depths = scene(2, 0.1)
    louder = {
        k: DepthMap(d.z, d.sigma / 3, d.trust, d.K, d.world_from_camera, k)
        for k, d in depths.items()
    }
    _, noise = lf.lift(click(points(2, 40), poses, 1.7, 3, 2), SOURCE, poses, louder, 1.0)
    assert noise.click_px == pytest.approx(1.7, rel=0.12)
    assert 1.8 < noise.depth_factor < 4.5  # the maps claimed a third of their noise


def test_intervals_of_distances_hold_the_truth_in_95_percent_of_pooled_cases() -> None:
    hits, pair_of, width = [], [], []
    for seed in range(14):
        poses, depths = scene(seed, 0.08)
        p = points(seed, 20)
        lifted, _ = lf.lift(click(p, poses, 1.2, 2, seed), SOURCE, poses, depths, 1.0)
        rng = np.random.default_rng(seed)
        log_scale = 0.002 * rng.normal()  # the scale is wrong by what its sigma says
        for r in range(2):
            mine = {x.landmark: x for x in lifted if x.repeat == r}
            for k in range(0, 20, 2):
                a, b = mine[f"P{k}"], mine[f"P{k + 1}"]
                here = np.exp(log_scale) * np.array([a.xyz, b.xyz])
                value, sigma = measure.interval(
                    "point-to-point", here, np.array([a.covariance, b.covariance]), None, 0.002
                )
                low, high = measure.bounds(value, sigma)
                hits.append(low <= np.linalg.norm(p[k] - p[k + 1]) <= high)
                pair_of.append(f"{seed}/{k}")
                width.append(high - low)
    share, low, high = share_with_interval(np.array(hits), np.array(pair_of))
    assert len(hits) == 280
    assert low <= 0.95 <= high and 0.90 <= share <= 0.99, (share, low, high)
    assert np.median(width) < 0.5


def test_an_error_that_all_depth_maps_share_is_corrected_by_the_rays_of_all_sessions() -> None:
    poses, depths = scene(5, 0.05)
    wrong = {  # the whole surface lies 0.5 mm too deep; the maps agree with each other perfectly
        k: DepthMap(sphere_depth(poses[k], RADIUS + 0.5), d.sigma, d.trust, d.K, poses[k], k)
        for k, d in depths.items()
    }
    p = points(5, 16)
    few = [c for c in click(p, poses, 0.6, 6, 5) if c.repeat == 0]
    many = click(p, poses, 0.6, 6, 5)
    error, spread = {}, {}
    for name, clicks in (("few", few), ("many", many)):
        lifted, noise = lf.lift(clicks, SOURCE, poses, wrong, 0.6)
        away = np.array([x.xyz - p[int(x.landmark[1:])] for x in lifted])
        error[name] = float(np.sqrt((away**2).sum(1).mean()))
        deviation = np.array([np.sqrt(np.trace(x.covariance)) for x in lifted])
        spread[name] = float(np.median(deviation))
        assert (np.linalg.norm(away, axis=1) < 3.5 * deviation).mean() > 0.95
    assert noise.depth_factor < 0.3 and noise.depth_common > 2.0
    assert error["many"] < 0.3 and error["many"] < 0.9 * error["few"]
    x = next(x for x in lifted if x.landmark == "P0")
    own = np.linalg.eigvalsh(x.covariance - x.shared)
    assert (own > -1e-12).all() and np.trace(x.shared) > 0


def test_a_click_in_a_wrong_frame_is_found_out() -> None:
    poses, depths = scene(3, 0.05)
    clicks = click(points(3, 12), poses, 1.0, 2, 3)
    bad = clicks[0]
    clicks[0] = ck.Click(bad.observer, bad.repeat, bad.landmark, bad.frame, bad.u + 60, bad.v - 40)
    lifted, noise = lf.lift(clicks, SOURCE, poses, depths, 1.0)
    status = {(x.landmark, x.repeat): x.status for x in lifted}
    assert status[bad.landmark, 0] == "clicks in different frames disagree"
    assert sum(s != "ok" for s in status.values()) == 1 and noise.click_px < 2.5


def test_single_clicks_need_depth_and_foreign_frames_are_refused() -> None:
    poses, depths = scene(4, 0.05)
    one = click(points(4, 1), poses, 0.5, 1, 4)[:1]
    assert lf.lift(one, SOURCE, poses, depths, 1.0)[0][0].status == "ok"
    assert "seen once" in lf.lift(one, SOURCE, poses, {}, 1.0)[0][0].status
    with pytest.raises(InputRefused, match="listed as kept"):
        lf.lift(one, SOURCE, {99: poses[0]}, {}, 1.0)


def sessions(habit: float, hand: float, seed: int) -> list[lf.Lifted]:
    """Three observers x four repeats on 30 landmarks in the plane z = 0; hand noise is known."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(30):
        for o in range(3):
            mine = np.append(rng.normal(0, habit, 2), 0)
            for r in range(4):
                shift = mine + np.append(rng.normal(0, habit / 2, 2), 0)
                xyz = np.array([k, 0, 0]) + shift + rng.normal(0, hand, 3)
                out.append(lf.Lifted(f"O{o}", r, f"P{k}", xyz, hand**2 * np.eye(3), 3, "ok"))
    return out


def test_what_observers_differ_by_is_added_along_the_surface_only() -> None:
    normals = {f"P{k}": np.array([0, 0, 1.0]) for k in range(30)}
    wide, spread = with_observers(sessions(0.2, 0.05, 0), normals)
    assert spread == pytest.approx(0.2 * np.sqrt(1.25), rel=0.15)
    assert wide[0].covariance[2, 2] == pytest.approx(0.05**2)
    assert wide[0].covariance[0, 0] == pytest.approx(0.05**2 + spread**2)
    assert with_observers(sessions(0.0, 0.05, 0), normals)[1] < 0.03


def test_a_session_far_from_the_others_is_refused() -> None:
    lifted = sessions(0.1, 0.05, 1)
    lifted[5] = dataclasses.replace(lifted[5], xyz=lifted[5].xyz + 4.0)
    found, spread = with_observers(lifted, {f"P{k}": np.array([0, 0, 1.0]) for k in range(30)})
    assert [k for k, x in enumerate(found) if x.status != "ok"] == [5]
    assert "far from the other clicks" in found[5].status and spread < 0.15


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "lack the columns"), ("observer,repeat\nA,0\n", "landmark, frame, u, v"),
     ("observer,repeat,landmark,frame,u,v\n", "empty"),
     ("observer,repeat,landmark,frame,u,v\nA,0,L,3,x,2\n", "Line 2"),
     ("observer,repeat,landmark,frame,u,v\nA,0,L,3,nan,2\n", "Line 2")],
)  # fmt: skip
def test_damaged_clicks_are_refused_with_their_line(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputRefused, match=word):
        ck.read_clicks(tmp_path / "c.csv")
