"""The endoscope's lens: rays of pixels, pixels of points, and what the rays hit.

Conventions: OpenCV camera axes (x right, y down, z forward), pixel centres at (0.5, 0.5), mm.
A ray is (x, y, 1) in the camera frame, so that its parameter is the z-depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.implicit import Mesh
from endorecon.phantom.texture import Mucosa
from endorecon.scene import Camera

Array = NDArray[Any]


def distort(xy: Array, camera: Camera) -> Array:
    """Normalised distorted coordinates (..., 2) of undistorted ones: Brown or Kannala-Brandt."""
    x, y = xy[..., 0], xy[..., 1]
    if camera.model == "PINHOLE":
        return xy
    r2 = x * x + y * y
    if camera.model == "OPENCV_FISHEYE":
        r = np.sqrt(r2)
        theta = np.arctan(r)
        t2 = theta * theta
        k1, k2, k3, k4 = camera.distortion
        bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        return xy * np.where(r > 1e-12, bent / np.maximum(r, 1e-12), 1.0)[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6 = (*camera.distortion, *(0.0,) * 8)[:8]
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        -1,
    )


def undistort(xy: Array, camera: Camera, steps: int = 12) -> Array:
    """The inverse of `distort` by Newton steps with a numerical Jacobian (error < 1e-9)."""
    if camera.model == "PINHOLE":
        return xy
    if camera.model == "OPENCV_FISHEYE":
        bent = np.linalg.norm(xy, axis=-1)
        theta = bent.copy()
        k1, k2, k3, k4 = camera.distortion
        for _ in range(steps):
            t2 = theta * theta
            f = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))) - bent
            df = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
            theta = np.clip(theta - f / np.maximum(df, 0.1), 0.0, 1.55)
        factor = np.where(bent > 1e-12, np.tan(theta) / np.maximum(bent, 1e-12), 1.0)
        return xy * factor[..., None]
    out, h = np.array(xy, float), 1e-6
    dx1, dy1 = np.array([h, 0.0]), np.array([0.0, h])
    for _ in range(steps):
        f = distort(out, camera) - xy
        jx = (distort(out + dx1, camera) - distort(out - dx1, camera)) / (2 * h)
        jy = (distort(out + dy1, camera) - distort(out - dy1, camera)) / (2 * h)
        det = jx[..., 0] * jy[..., 1] - jy[..., 0] * jx[..., 1]
        det = np.where(np.abs(det) < 0.05, 0.05, det)
        dx = (f[..., 0] * jy[..., 1] - f[..., 1] * jy[..., 0]) / det
        dy = (f[..., 1] * jx[..., 0] - f[..., 0] * jx[..., 1]) / det
        out -= np.clip(np.stack([dx, dy], -1), -0.3, 0.3)
    return out


def lens_rays(uv: Array, camera: Camera) -> Array:
    """Camera-frame rays (..., 3) with z = 1 through pixels (..., 2) of the distorted image."""
    xy = (uv - np.array([camera.cx, camera.cy])) / np.array([camera.fx, camera.fy])
    xy = undistort(xy, camera)
    return np.concatenate([xy, np.ones_like(xy[..., :1])], -1)


def project_points(points: Array, camera: Camera) -> tuple[Array, Array]:
    """Pixels (..., 2) of the distorted image and z-depth (...) of camera-frame points (..., 3)."""
    z = points[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = points[..., :2] / z[..., None]
    uv = distort(xy, camera) * np.array([camera.fx, camera.fy]) + np.array([camera.cx, camera.cy])
    return uv, z


def make_camera(width: int, height: int, config: PhantomConfig) -> Camera:
    """The phantom's endoscope camera for an image size; its lens is a word of the config."""
    # The content circle nearly fills the height; its edge sits at half the field of view.
    radius = config.content_radius * height
    half = np.radians(config.field_of_view_deg) / 2
    shape: dict[str, tuple[Any, tuple[float, ...]]] = {
        "pinhole": ("PINHOLE", ()),
        "brown": ("OPENCV", (-0.24, 0.075, 0.0006, -0.0008)),
        "fisheye": ("OPENCV_FISHEYE", (-0.035, 0.004, -0.0012, 0.0)),
    }
    if config.lens not in shape:
        raise ValueError(f"unknown lens {config.lens!r}; known: {', '.join(shape)}")
    model, numbers = shape[config.lens]
    unit = Camera(width, height, 1.0, 1.0, 0.0, 0.0, model, numbers)
    edge = float(distort(np.array([np.tan(half), 0.0]), unit)[0])
    f = radius / edge
    # No real lens is centred: a few pixels off, the same for every phantom.
    cx, cy = width / 2 + 0.006 * height, height / 2 - 0.0045 * height
    return Camera(width, height, f, f * 1.0, cx, cy, model, numbers)


def content_mask(camera: Camera, config: PhantomConfig) -> Array:
    """(h, w) float32 in [0, 1]: the round picture of the endoscope with its soft edge."""
    if not config.round_content:
        return np.ones((camera.height, camera.width), np.float32)
    v, u = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    r = np.hypot(u - camera.width / 2, v - camera.height / 2)
    return np.clip(config.content_radius * camera.height - r, 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Stage:
    """A wall ready to be filmed: ray caster, texture, light, and the wall in columns."""

    scene: Any  # open3d RaycastingScene
    mesh: Mesh
    mucosa: Mucosa
    config: PhantomConfig
    faces: Array  # (3, f) intp
    normals: Array  # (3, v) float32
    rest: Array | None  # (3, v) where a deformed wall's vertices belong: the texture sticks to that


def make_stage(
    mesh: Mesh, mucosa: Mucosa, config: PhantomConfig, rest: Array | None = None
) -> Stage:
    """Load a mesh into Embree; rest (v, 3): its vertices before it was deformed."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices.astype(np.float32)),
        o3d.core.Tensor(mesh.faces.astype(np.uint32)),
    )
    return Stage(
        scene,
        mesh,
        mucosa,
        config,
        np.ascontiguousarray(mesh.faces.T.astype(np.intp)),
        np.ascontiguousarray(mesh.normals.T.astype(np.float32)),
        None if rest is None else np.ascontiguousarray(rest.T.astype(np.float32)),
    )


def cast(stage: Stage, rays: Array, world_from_camera: Array) -> dict[str, Array]:
    """Cast camera-frame rays (n, 3) from a pose. Returns t (n,) (z-depth when rays have z = 1, inf
    where nothing is hit), face (n,) int (-1) and uv (n, 2) barycentric."""
    import open3d as o3d

    packed = np.zeros((len(rays), 6), np.float32)
    packed[:, :3] = world_from_camera[:3, 3]
    packed[:, 3:] = rays @ world_from_camera[:3, :3].T.astype(rays.dtype)
    hit = stage.scene.cast_rays(o3d.core.Tensor(packed))
    return {
        "t": hit["t_hit"].numpy(),
        "face": hit["primitive_ids"].numpy().view(np.int32),  # Embree's 0xFFFFFFFF is no face
        "uv": hit["primitive_uvs"].numpy(),
    }


def depth_image(
    stage: Stage, camera: Camera, world_from_camera: Array, seen: Array | None = None
) -> Array:
    """z-depth (h, w) float32 at the pixel centres of the distorted image; NaN where no wall is,
    and outside `seen` (h, w), where nobody asks."""
    from endorecon.geometry import pixel_grid

    shape = camera.height, camera.width
    where = np.ones(shape, bool) if seen is None else seen > 0
    z = np.full(shape, np.nan, np.float32)
    rays = lens_rays(pixel_grid(camera.width, camera.height)[where], camera)
    t = cast(stage, rays, world_from_camera)["t"]
    z[where] = np.where(np.isfinite(t), t, np.nan)
    return z
