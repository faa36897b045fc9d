"""A made run folder with exact truth: a bumpy cavity, its CT, cameras inside, depth, clicks.

The anatomy is one implicit function: a bent, bumpy lumen with a septum-like ridge and two
turbinate-like bulges, in LPS mm. The CT is that function as HU; the true mesh is marching cubes
of it at a finer grid; depth is ray cast from the mesh. Everything of the run lives in a
reconstruction space that differs by a known similarity.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from endorecon.evaluate.icp import vertex_normals
from endorecon.geometry import apply, compose, invert, pixel_grid, project, rays, transform_pose
from endorecon.io.ct import CtVolume, ct_surface, write_ct
from endorecon.io.rundir import RunDir
from endorecon.io.slicer import write_landmarks
from endorecon.scene import Camera, DepthMap, Landmarks, Surface

ORIGIN = np.array([12.0, -55.0, 400.0])  # far from zero, as in a scanner
HALF = np.array([17.0, 13.0, 25.0])


def anatomy(points: np.ndarray, seed: int = 0, opened: float = 0.0) -> np.ndarray:
    """Signed mm-like value at points (..., 3) in LPS mm: < 0 in air. `opened`: surgery, mm."""
    rng = np.random.default_rng(seed)
    p = points - ORIGIN
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    x = x - 2.5 * np.sin(z / 11.0)
    radius = np.sqrt((x / HALF[0]) ** 2 + (y / HALF[1]) ** 2 + (z / HALF[2]) ** 2)
    f = (radius - 1.0) * HALF.mean() * 0.75
    for _ in range(14):
        k = rng.normal(size=3) * 0.28
        f = f + 0.45 * np.sin(p @ k + rng.uniform(0, 6.28))
    for centre, size in (((-9, 4, -6), 6.0), ((8, -5, 8), 5.0), ((2, 9, 14), 4.5)):
        c = np.array(centre) + rng.normal(size=3)
        g = size - np.linalg.norm(p - c, axis=-1)  # solid bulges into the lumen
        f = np.maximum(f, g)
    ridge = 2.2 - np.sqrt((p[..., 0] - 1.0) ** 2 + ((p[..., 1] + 9.0) / 3.0) ** 2)
    f = np.maximum(f, np.minimum(ridge, 1.5 * (10.0 - p[..., 2])))
    if opened:
        for centre in ((-9, 5, 19), (9, -4, -19)):
            hole = np.linalg.norm(p - np.array(centre), axis=-1) - opened
            f = np.minimum(f, hole)
    return f


def make_ct(
    voxel: float = 0.5, seed: int = 0, opened: float = 0.0, noise: float = 15.0
) -> CtVolume:
    """The anatomy as HU: -1000 air, 40 tissue, partial volume one voxel wide."""
    size = np.ceil((2 * HALF + 14.0) / voxel).astype(int)
    start = ORIGIN - size * voxel / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
    f = anatomy(grid * voxel + start, seed, opened)
    gradient = np.sqrt(sum(np.gradient(f, voxel, axis=k) ** 2 for k in range(3)))
    share = np.clip(f / np.maximum(gradient, 0.3) / voxel + 0.5, 0, 1)  # half way at f = 0
    hu = -1000.0 + 1040.0 * share
    hu = hu + np.random.default_rng(seed).normal(0, noise, hu.shape)
    affine = np.diag([voxel] * 3 + [1.0])
    affine[:3, 3] = start
    return CtVolume(hu.transpose(2, 1, 0).astype(np.float32), affine, voxel, "TEST", f"s{seed}")


def true_mesh(seed: int = 0, opened: float = 0.0, voxel: float = 0.4) -> Surface:
    """Marching cubes of the implicit function itself, normals to air, LPS mm."""
    size = np.ceil((2 * HALF + 14.0) / voxel).astype(int)
    start = ORIGIN - size * voxel / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
    f = anatomy(grid * voxel + start, seed, opened).transpose(2, 1, 0)
    affine = np.diag([voxel] * 3 + [1.0])
    affine[:3, 3] = start
    volume = CtVolume(f.astype(np.float32), affine, voxel, "", "")
    return ct_surface(volume, 0.0, None, 0.05)[0]


def correlated(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Noise as matching windows make it: correlated over a few pixels."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=shape), 2.5)
    return sigma * noise / noise.std()


def bend(points: np.ndarray, amount: float, seed: int) -> np.ndarray:
    """A smooth displacement (n, 3) of about `amount` mm RMS an axis: what no frame can see."""
    rng = np.random.default_rng(seed + 11)
    out = np.zeros_like(points)
    for _ in range(6):
        k, phase = rng.normal(size=3) * 0.25, rng.uniform(0, 6.28)
        out += np.sin((points - ORIGIN) @ k + phase)[:, None] * rng.normal(size=3)
    return amount * out / np.sqrt(3.0)


@dataclasses.dataclass(frozen=True)
class Made:
    """Where the files lie, and the truth."""

    run: Path
    ct: Path
    ct_landmarks: Path
    clicks: Path
    distances: Path
    landmarks: Landmarks  # LPS mm, exact
    ct_from_recon: np.ndarray
    mesh: Surface


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(-up, z)
    x /= np.linalg.norm(x)
    return compose(np.column_stack([x, np.cross(z, x), z]), eye)


def camera_path(count: int, seed: int) -> list[np.ndarray]:
    """Poses inside the lumen, sideways sweeps while looking at different walls."""
    rng = np.random.default_rng(seed + 1)
    poses = []
    for k in range(count):
        a = 2 * np.pi * k / count
        eye = ORIGIN + np.array(
            [2.5 * np.cos(a) + 0.5, 2.0 * np.sin(a) + 0.5, -10 + 20 * (k / count)]
        )
        eye = eye + rng.normal(0, 0.4, 3)
        aim = ORIGIN + np.array([14 * np.cos(2.3 * a), 9 * np.sin(1.7 * a), 22 if k % 2 else -22])
        poses.append(look_at(eye, aim, np.array([0.0, 1.0, 0.2])))
    return poses


def make_run(
    folder: Path,
    seed: int = 0,
    frames: int = 14,
    depth_sigma: float = 0.08,
    click_px: float = 1.0,
    observer_mm: float = 0.15,
    observers: int = 2,
    repeats: int = 3,
    unit: str = "unitless",
    scale: float = 0.037,
    landmark_count: int = 10,
    opened: float = 0.0,
    ct_opened: float = 0.0,
    ct_format: str = "dicom",
    common_sigma: float = 0.0,
) -> Made:
    """Write RUN, CT, landmarks, clicks and distances under `folder`.

    depth_sigma: noise of each depth map; common_sigma: what all maps have wrong together.
    """
    import open3d as o3d
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed + 7)
    mesh = true_mesh(seed, opened)
    ray_scene = o3d.t.geometry.RaycastingScene()
    ray_scene.add_triangles(
        o3d.core.Tensor((mesh.vertices - ORIGIN).astype(np.float32)),
        o3d.core.Tensor(mesh.faces.astype(np.uint32)),
    )
    wrong, wrong_scene = mesh, ray_scene
    if common_sigma:
        normals = vertex_normals(mesh.vertices, mesh.faces)
        along = (bend(mesh.vertices, common_sigma, seed) * normals).sum(1, keepdims=True)
        wrong = dataclasses.replace(mesh, vertices=mesh.vertices + along * normals)
        wrong_scene = o3d.t.geometry.RaycastingScene()
        wrong_scene.add_triangles(
            o3d.core.Tensor((wrong.vertices - ORIGIN).astype(np.float32)),
            o3d.core.Tensor(wrong.faces.astype(np.uint32)),
        )
    total_sigma = float(np.hypot(depth_sigma, common_sigma))
    s = scale if unit == "unitless" else 1.0  # recon units a mm
    turn = Rotation.from_rotvec([0.4, -0.7, 0.3]).as_matrix()
    recon_from_ct = compose(turn, -s * turn @ (ORIGIN + np.array([3.0, 1.0, -2.0])), s)

    source = Camera(640, 480, 420.0, 418.0, 322.0, 238.0, "OPENCV", (-0.18, 0.03, 0.001, -0.0005))
    pinhole = Camera(240, 180, 150.0, 150.0, 120.0, 90.0)
    indices = [3 * k + 2 for k in range(frames)]
    poses = camera_path(frames, seed)
    run = RunDir(folder / "run")
    (folder / "run" / "frames").mkdir(parents=True)
    seen = np.zeros(len(mesh.vertices), int)
    grid = rays(pixel_grid(pinhole.width, pinhole.height), pinhole.K)
    transforms: list[dict[str, Any]] = []
    for index, pose in zip(indices, poses, strict=True):
        direction = grid @ pose[:3, :3].T
        rays6 = np.concatenate(
            [np.broadcast_to(pose[:3, 3] - ORIGIN, direction.shape), direction], -1
        )
        hit = wrong_scene.cast_rays(o3d.core.Tensor(rays6.astype(np.float32)))
        z = hit["t_hit"].numpy().astype(float)
        z[~np.isfinite(z)] = np.nan
        noisy = z + correlated(rng, z.shape, depth_sigma)
        sigma = np.full(z.shape, total_sigma * s)
        trust = np.where(np.isfinite(z), 0.9, 0.0)
        run_pose = transform_pose(recon_from_ct, pose)
        run.save_depth(
            DepthMap(
                (noisy * s).astype(np.float32),
                sigma.astype(np.float32),
                trust.astype(np.float32),
                pinhole.K,
                run_pose,
                index,
            )
        )
        shade = (np.abs((hit["primitive_normals"].numpy() * direction).sum(-1)) * 200).clip(0, 255)
        _save_png(folder / "run" / "frames" / f"{index:06d}.png", shade / (1 + (z / 25) ** 2))
        seen += visible(mesh.vertices, pose, pinhole, ray_scene)
        gl = run_pose @ np.diag([1.0, -1.0, -1.0, 1.0])
        transforms.append(
            {
                "file_path": f"frames/{index:06d}.png",
                "frame_index": index,
                "time_s": index / 25.0,
                "transform_matrix": gl.tolist(),
            }
        )
    intr = {"fl_x": 150.0, "fl_y": 150.0, "cx": 120.0, "cy": 90.0, "w": 240, "h": 180}
    (run.path / "transforms.json").write_text(json.dumps({**intr, "frames": transforms}))
    _write_surface(run, wrong, seen, rng, recon_from_ct, s, depth_sigma, common_sigma, unit)
    working = source.cropped(16, 8, 608, 464).scaled(0.75)
    camera = {**dataclasses.asdict(working), "distortion": list(working.distortion)}
    run.update_info(
        status="converged",
        unit=unit,
        camera=camera,
        source_size=[640, 480],
        source_from_working=[[4 / 3, 0, 16], [0, 4 / 3, 8], [0, 0, 1]],
        rounds=3,
        seed=seed,
        device="cpu",
        scale_source=None if unit == "unitless" else "metric poses (phantom tracker)",
        frames_read=45,
        frames_kept=frames,
        frames_posed=frames,
        warnings=[],
        seconds={"poses": 12.0, "loop": 60.0},
        kernels="torch",
        versions={"endorecon": "0.1.0"},
        hashes={"video": "0" * 64},
        config={"loop": {"max_rounds": 4}},
    )
    for k in range(4):
        run.append_events([{"kind": "RoundFinished", "round": k, "change": 0.08 * 0.4**k}])

    landmarks = pick_landmarks(mesh, poses, pinhole, ray_scene, landmark_count, seed)
    ct_path = folder / ("ct" if ct_format == "dicom" else "ct.nii.gz")
    write_ct(ct_path, make_ct(0.5, seed, ct_opened))
    write_landmarks(folder / "landmarks.mrk.json", landmarks)
    write_clicks(
        folder / "clicks.csv",
        landmarks,
        indices,
        poses,
        source,
        pinhole,
        ray_scene,
        click_px,
        observer_mm,
        observers,
        repeats,
        rng,
        mesh,
    )
    names = landmarks.names
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = [pairs[k] for k in rng.permutation(len(pairs))[:10]]
    text = "".join(f"- {{name: '{a} to {b}', from: {a}, to: {b}}}\n" for a, b in pairs)
    (folder / "distances.yaml").write_text(text)
    return Made(
        run.path,
        ct_path,
        folder / "landmarks.mrk.json",
        folder / "clicks.csv",
        folder / "distances.yaml",
        landmarks,
        invert(recon_from_ct),
        mesh,
    )


def visible(points: np.ndarray, pose: np.ndarray, camera: Camera, scene: Any) -> np.ndarray:
    """Which points one camera sees, unoccluded."""
    import open3d as o3d

    uv, z = project(points, pose, camera.K)
    inside = (z > 0.5) & (uv > 1).all(-1) & (uv < [camera.width - 1, camera.height - 1]).all(-1)
    direction = points - pose[:3, 3]
    origin = np.broadcast_to(pose[:3, 3] - ORIGIN, direction.shape)
    six = np.concatenate([origin, direction], -1).astype(np.float32)
    t = scene.cast_rays(o3d.core.Tensor(six))["t_hit"].numpy()
    return inside & (t > 0.985)


def _write_surface(
    run: RunDir,
    mesh: Surface,
    seen: np.ndarray,
    rng: np.random.Generator,
    recon_from_ct: np.ndarray,
    s: float,
    depth_sigma: float,
    common_sigma: float,
    unit: str,
) -> None:
    keep_faces = mesh.faces[(seen[mesh.faces] >= 1).all(1)]
    used = np.unique(keep_faces)
    renumber = np.zeros(len(mesh.vertices), int)
    renumber[used] = np.arange(len(used))
    noise = depth_sigma / np.sqrt(np.maximum(seen[used], 1))
    normals = vertex_normals(mesh.vertices, mesh.faces)[used]
    points = mesh.vertices[used] + normals * rng.normal(0, 1, (len(used), 1)) * noise[:, None]
    status = np.where(seen[used] >= 2, 0, 1).astype(np.uint8)
    color = np.tile(np.array([[190, 110, 100]], np.uint8), (len(used), 1))
    run.save_surface(
        Surface(
            apply(recon_from_ct, points),
            renumber[keep_faces],
            color,
            status,
            (np.hypot(noise, common_sigma) * s).astype(np.float32),
            unit,  # type: ignore[arg-type]
            "reconstruction",
        )
    )


def pick_landmarks(
    mesh: Surface, poses: list[np.ndarray], camera: Camera, scene: Any, count: int, seed: int
) -> Landmarks:
    """Surface points seen in at least three frames, far from each other."""
    sees = np.stack([visible(mesh.vertices, p, camera, scene) for p in poses])
    able = np.flatnonzero(sees.sum(0) >= 3)
    rng = np.random.default_rng(seed + 3)
    chosen = [int(rng.choice(able))]
    points = mesh.vertices[able]
    while len(chosen) < count:
        away = np.linalg.norm(points[:, None] - mesh.vertices[chosen][None], axis=-1).min(1)
        chosen.append(int(able[away.argmax()]))
    names = tuple(f"L{k}" for k in range(count))
    return Landmarks(names, mesh.vertices[chosen])


def distort(xy: np.ndarray, camera: Camera) -> np.ndarray:
    """Normalised (..., 2) to source pixels by Brown's equations, written out."""
    k1, k2, p1, p2 = camera.distortion
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([camera.fx * xd + camera.cx, camera.fy * yd + camera.cy], -1)


def write_clicks(
    path: Path,
    landmarks: Landmarks,
    indices: list[int],
    poses: list[np.ndarray],
    source: Camera,
    pinhole: Camera,
    scene: Any,
    noise: float,
    habit_mm: float,
    observers: int,
    repeats: int,
    rng: np.random.Generator,
    mesh: Surface,
) -> None:
    """Up to four frames a landmark; pixel noise, and a shift along the wall an observer has."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["observer", "repeat", "landmark", "frame", "u", "v"])
        for name, point in zip(landmarks.names, landmarks.xyz, strict=True):
            able = [
                (i, p)
                for i, p in zip(indices, poses, strict=True)
                if visible(point[None], p, pinhole, scene)[0]
            ]
            normal = normals[int(((mesh.vertices - point) ** 2).sum(1).argmin())]
            tangent = np.eye(3) - np.outer(normal, normal)
            for o in range(observers):
                habit = tangent @ rng.normal(0, habit_mm, 3)
                for r in range(repeats):
                    meant = point + habit + tangent @ rng.normal(0, habit_mm / 2, 3)
                    for index, pose in able[:4]:
                        q = apply(invert(pose), meant)
                        u, v = distort(q[:2] / q[2], source) + rng.normal(0, noise, 2)
                        out.writerow([f"O{o}", r, name, index, f"{u:.3f}", f"{v:.3f}"])


def _save_png(path: Path, grey: np.ndarray) -> None:
    from PIL import Image

    value = np.nan_to_num(grey).clip(0, 255)
    Image.fromarray(np.stack([value, value * 0.55, value * 0.5], -1).astype(np.uint8)).save(path)
