"""A made run folder for the viewer: a bumpy cavity with exact truth, ray-cast without VTK.

The cavity is a tube along +y of LPS (anterior to posterior), its radius a function of the angle
and of the way in. A green spot lies on the patient's left (+x), a blue one superior (+z), a white
one inferior, so that a picture shows whether the orientation is right. The run's own space is a
similarity of it: rotated and 7.3 times smaller. Frames and depths come from marching rays
through the implicit function: nothing of the viewer or of VTK has a part in the truth.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.io.rundir import RunDir
from endorecon.scene import GUESSED, OBSERVED, WEAK, DepthMap, Registration, Surface, Unit

Array = NDArray[Any]
CENTRE = np.array([12.0, 30.0, -45.0])
LENGTH = 40.0
SCALE = 7.3
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def radius(theta: Array, s: Array) -> Array:
    """Radius (mm) of the cavity at angle theta and s mm from its anterior end."""
    return (
        8.0
        + 1.1 * np.sin(3 * theta + 0.12 * s)
        + 0.9 * np.sin(2 * np.pi * s / 11.0)
        + 0.5 * np.cos(5 * theta - 0.5 * s)
    )


def colour(theta: Array, s: Array) -> Array:
    """Albedo (..., 3) in 0..1: mucosa with vessels and the three spots."""
    vessel = 0.5 + 0.5 * np.sin(9 * theta + 2.2 * np.sin(0.9 * s)) * np.sin(1.3 * s + 2 * theta)
    rgb = np.stack([0.86 - 0.12 * vessel, 0.50 - 0.22 * vessel, 0.44 - 0.18 * vessel], -1)
    for angle, paint in (
        (0.0, (0.1, 0.8, 0.2)),
        (np.pi / 2, (0.15, 0.3, 0.95)),
        (-np.pi / 2, (0.97, 0.97, 0.97)),
    ):
        d = np.hypot((np.angle(np.exp(1j * (theta - angle)))) * 8.0, s - 16.0)
        rgb = np.where((d < 2.2)[..., None], np.array(paint), rgb)
    return rgb


def recon_from_ct() -> Array:
    """The similarity (4, 4) from LPS to the run's own space."""
    a, b = np.radians(35.0), np.radians(-70.0)
    Rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    Rx = np.array([[1.0, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    R = Rz @ Rx
    return geometry.compose(R, np.array([1.0, -2.0, 0.5]) - R @ CENTRE / SCALE, 1.0 / SCALE)


def cavity(n_theta: int = 150, n_s: int = 160, guessed: bool = True) -> Surface:
    """The cavity in LPS millimetres, seen from within; an ostium (a hole) on the patient's left."""
    theta, s = np.meshgrid(
        np.linspace(0, 2 * np.pi, n_theta, endpoint=False),
        np.linspace(0, LENGTH if guessed else 34.0, n_s),
        indexing="ij",
    )
    r = radius(theta, s)
    xyz = CENTRE + np.stack([r * np.cos(theta), s - LENGTH / 2, r * np.sin(theta)], -1)
    i = np.arange(n_theta * n_s).reshape(n_theta, n_s)
    j = np.roll(i, -1, 0)
    faces = np.concatenate(
        [
            np.stack([i[:, :-1], i[:, 1:], j[:, :-1]], -1).reshape(-1, 3),
            np.stack([j[:, :-1], i[:, 1:], j[:, 1:]], -1).reshape(-1, 3),
        ]
    )
    t, w = theta.ravel(), s.ravel()
    hole = np.hypot(np.angle(np.exp(1j * (t - 0.5))) * 8.0, w - 24.0) < 2.0
    faces = faces[~hole[faces].any(1)][:, ::-1]  # the right-hand side looks into the cavity
    status = np.where(w < 28, OBSERVED, np.where(w < 34, WEAK, GUESSED)).astype(np.uint8)
    sigma = (0.08 + 0.4 * (w / LENGTH) ** 2).astype(np.float32)
    rgb = (255 * colour(t, w)).astype(np.uint8)
    return Surface(xyz.reshape(-1, 3), faces, rgb, status, sigma, "mm", "LPS")


def _inside(p: Array) -> Array:
    q = p - CENTRE
    theta = np.arctan2(q[..., 2], q[..., 0])
    return radius(theta, q[..., 1] + LENGTH / 2) - np.hypot(q[..., 0], q[..., 2])


def ray_cast(K: Array, width: int, height: int, pose: Array) -> tuple[Array, Array]:
    """Depth (h, w) in mm (NaN past the end) and image (h, w, 3) uint8, by marching."""
    rays = geometry.rays(geometry.pixel_grid(width, height), K) @ pose[:3, :3].T
    z = np.full((height, width), 0.0)
    found = np.zeros((height, width), bool)
    for step in np.arange(0.5, 60.0, 0.5):
        out = (_inside(pose[:3, 3] + step * rays) < 0) & ~found
        z[out] = step
        found |= out
    low, high = z - 0.5, z.copy()
    for _ in range(20):
        mid = (low + high) / 2
        out = _inside(pose[:3, 3] + mid[..., None] * rays) < 0
        high, low = np.where(out, mid, high), np.where(out, low, mid)
    z = (low + high) / 2
    p = pose[:3, 3] + z[..., None] * rays - CENTRE
    s = p[..., 1] + LENGTH / 2
    z[~found | (s > LENGTH) | (s < 0)] = np.nan
    shade = np.clip(90.0 / np.nan_to_num(z, nan=99.0) ** 2, 0.03, 1.15)
    rgb = np.clip(colour(np.arctan2(p[..., 2], p[..., 0]), s) * shade[..., None], 0, 1)
    rgb[~np.isfinite(z)] = 0.01
    return z, (255 * rgb).astype(np.uint8)


def camera_path(n: int) -> Array:
    """(n, 4, 4) poses in LPS: going in along +y, the image's up is superior, its left is right."""
    poses = np.tile(np.eye(4), (n, 1, 1))
    for k, f in enumerate(np.linspace(0, 1, n)):
        yaw, pitch = 0.25 * np.sin(5 * f), 0.15 * np.cos(4 * f)
        z = np.array([np.sin(yaw), np.cos(yaw), np.sin(pitch)])
        z /= np.linalg.norm(z)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        poses[k, :3, :3] = np.stack([x, np.cross(z, x), z], -1)
        poses[k, :3, 3] = CENTRE + np.array(
            [1.5 * np.sin(3 * f), -LENGTH / 2 + 2 + 16 * f, np.cos(5 * f)]
        )
    return poses


def make_run(
    folder: Path,
    n: int = 6,
    width: int = 160,
    height: int = 128,
    registered: bool = True,
    rounds: int = 3,
    guessed: bool = True,
    density: tuple[int, int] = (150, 160),
    unit: Unit = "unitless",
) -> RunDir:
    """A finished run in `folder`: frames, poses, depths, rounds, events, surface, registration."""
    from PIL import Image

    rng = np.random.default_rng(3)
    run, change = RunDir(folder), recon_from_ct()
    poses = camera_path(n)
    K = np.array(
        [[0.55 * width, 0, width / 2 + 3.0], [0, 0.55 * width, height / 2 - 2.0], [0, 0, 1.0]]
    )
    own = geometry.transform_pose(change, poses)
    index = 4 + 7 * np.arange(n)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    (folder / "depth").mkdir(exist_ok=True)
    depths = []
    for k in range(n):
        z, image = ray_cast(K, width, height, poses[k])
        Image.fromarray(image).save(folder / "frames" / f"{index[k]:06d}.png")
        z = (z / SCALE).astype(np.float32)
        trust = np.where(np.isfinite(z), np.clip(1.6 - z * SCALE / 25, 0, 1), 0).astype(np.float32)
        depths.append(DepthMap(z, (0.01 * z).astype(np.float32), trust, K, own[k], int(index[k])))
        run.save_depth(depths[-1])
    transforms = {
        "camera_model": "PINHOLE",
        "fl_x": K[0, 0],
        "fl_y": K[1, 1],
        "cx": K[0, 2],
        "cy": K[1, 2],
        "w": width,
        "h": height,
        "frames": [
            {
                "file_path": f"frames/{i:06d}.png",
                "frame_index": int(i),
                "time_s": i / 25,
                "transform_matrix": (own[k] @ _OPENGL).tolist(),
            }
            for k, i in enumerate(index)
        ],
    }
    (folder / "transforms.json").write_text(json.dumps(transforms))
    run.update_info(
        status="converged",
        unit=unit,
        scale_source=None,
        frames_read=60,
        frames_kept=n,
        frames_posed=n,
        rounds=rounds,
        seed=0,
        warnings=[],
        finished="2026-11-23T05:00:00Z",
        versions={"endorecon": "0.1.0"},
    )
    for k in range(rounds):
        noise = 0.08 / 3**k
        noisy = [
            dataclasses.replace(
                d, z=(d.z * (1 + noise * rng.normal(size=d.z.shape))).astype(np.float32)
            )
            for d in depths
        ]
        metrics = {"round": k, "change": None if k == 0 else 0.04 / 3 ** (k - 1)}
        run.save_round(k, {"grid": np.zeros(3, np.float32)}, noisy, metrics)
        run.append_events([{"event": "RoundFinished", **metrics}])
    truth = cavity(*density, guessed=guessed)
    own_surface = dataclasses.replace(
        truth,
        vertices=geometry.apply(change, truth.vertices),
        sigma=(truth.sigma / SCALE).astype(np.float32),
        unit=unit,
        space="reconstruction",
    )
    run.save_surface(own_surface)
    if registered:
        write_registration(folder)
    return run


def write_registration(folder: Path, **differences: Any) -> None:
    """evaluation/registration.json with the exact similarity."""
    r = Registration(
        geometry.invert(recon_from_ct()),
        "similarity",
        SCALE,
        0.6,
        1.1,
        0.4,
        0.8,
        used=("L0", "L1", "L2"),
        held_out=("L3",),
    )
    text = dataclasses.asdict(r) | differences
    text = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in text.items()}
    kind = str(text["kind"])
    text = {"primary": kind, kind: text, "log_scale_sigma": 1e-3, "space": "LPS", "unit": "mm"}
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / "registration.json").write_text(json.dumps(text))


def make_ct(file: Path, spacing: float = 0.7) -> Path:
    """The CT of the cavity: air within, soft tissue, a shell of bone; LPS, NRRD."""
    import SimpleITK as sitk

    half = np.array([17, 24, 17])
    low, high = CENTRE - half, CENTRE + half
    n = np.ceil((high - low) / spacing).astype(int)
    z, y, x = np.meshgrid(*[low[k] + spacing * np.arange(n[k]) for k in (2, 1, 0)], indexing="ij")
    inside = _inside(np.stack([x, y, z], -1))
    s = y - CENTRE[1] + LENGTH / 2
    inside = np.where(s > 0, np.minimum(inside, LENGTH - s), inside)
    hu = np.clip(40 - 1040 * (0.5 + inside / spacing), -1000, 40)
    bone = (inside < -3.0) & (inside > -5.5)
    hu = np.where(bone, 900.0, hu) + np.random.default_rng(0).normal(0, 15, hu.shape)
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([float(v) for v in low])
    sitk.WriteImage(image, str(file), True)
    return file
