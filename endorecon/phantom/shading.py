"""Light on the wall: what a camera beside two fibre ends sees of it.

Two fibre ends at the rim of the lens, each with a cos^n lobe about the optical axis and 1/r^2;
Lambert plus GGX (Walter et al. 2007, "Microfacet models for refraction", Smith shadowing, Schlick
Fresnel with F0 = 0.028, water) and a small term for light that has bounced in the cavity. Radiance
is linear. A picture shades some 700,000 samples, so vectors are columns here, (3, n) float32, and
the samples go through in pieces whose temporaries stay in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.noise import dot
from endorecon.phantom.optics import Stage, cast
from endorecon.scene import Camera

Array = NDArray[Any]

_PIECE = 8192  # samples a piece
# Light leaks round the edge of shadow through tissue, red most of all.
_LEAK = (1.0, 0.45, 0.3)


def fibres(config: PhantomConfig) -> Array:
    """(2, 3) positions of the two fibre ends in the camera frame, mm."""
    e = config.light_offset_mm
    return np.array([[e, 0.25 * e, -0.3], [-e, -0.15 * e, -0.3]])


def shade(
    points: Array,
    normals: Array,
    glossy_normals: Array,
    albedo: Array,
    view: Array,
    lights: Array,
    axis: Array,
    config: PhantomConfig,
    lost_relief: Array | float = 0.0,
) -> Array:
    """Linear radiance (3, n) towards the camera.

    points, normals (3, n) in any one frame; view (3, n): unit directions to the camera; lights
    (2, 3) and axis (3,): fibre ends and the direction in which they shine, in the same frame;
    lost_relief (n,): slope variance finer than a pixel, which widens the highlight.
    """
    lights, axis = lights.astype(points.dtype), axis.astype(points.dtype)
    out = np.zeros_like(albedo)
    smooth = config.gloss_roughness**4  # alpha^2, alpha = roughness^2
    a2 = smooth + lost_relief
    # Far relief would veil the dark in grey: the film fills it, and only a part of it mirrors.
    film = config.wetness * np.sqrt(smooth / a2)
    k = 0.5 * np.sqrt(a2)
    nv = np.clip(dot(glossy_normals, view), 1e-3, 1.0)
    for light in lights:
        to = light[:, None] - points
        r2 = dot(to, to)
        to /= np.sqrt(r2)
        lobe = np.clip(-dot(to, axis), 0.0, 1.0) ** config.light_falloff
        power = 0.5 * config.light_power * lobe / r2
        nl = dot(normals, to)
        for channel, colour, leak in zip(out, albedo, _LEAK, strict=True):
            wrap = config.translucency * leak
            diffuse = np.maximum(nl + wrap, 0.0) / (1.0 + wrap)
            # Light that has bounced off tissue nearby: no direction, and redder for each bounce.
            diffuse += config.bounce * 2.0 * colour
            channel += colour * diffuse * (power / np.pi)
        h = to + view
        h /= np.sqrt(dot(h, h))
        nh = np.clip(dot(glossy_normals, h), 0.0, 1.0)
        vh = np.clip(dot(view, h), 0.0, 1.0)
        gl = np.clip(dot(glossy_normals, to), 0.0, 1.0)
        ndf = a2 / (np.pi * np.square(nh * nh * (a2 - 1.0) + 1.0))
        dark = np.square(1.0 - vh)
        fresnel = 0.028 + 0.972 * (dark * dark * (1.0 - vh))
        smith = 1.0 / ((nv * (1 - k) + k) * (gl * (1 - k) + k) * 4.0)
        out += film * ndf * fresnel * smith * gl * power
    return out


def render(
    stage: Stage,
    camera: Camera,
    poses: Array,
    rays: Array,
    pixels: Array,
) -> Array:
    """Linear radiance (h, w, 3) float32, one sample per sub-pixel AND per instant.

    poses (s, 4, 4): world_from_camera at s instants of the shutter; rays (s, n, 3): the lens rays
    of s sub-pixel positions of the n pixels (flat indices) that are worth rendering.
    """
    total = np.zeros((3, len(pixels)), np.float32)
    for pose, ray in zip(poses, rays, strict=True):
        hit = cast(stage, ray, pose)
        found = np.flatnonzero(hit["face"] >= 0)
        for begin in range(0, len(found), _PIECE):
            part = found[begin : begin + _PIECE]
            total[:, part] += _radiance(stage, camera, pose, ray[part], hit, part)
    image = np.zeros((camera.height * camera.width, 3), np.float32)
    image[pixels] = total.T / len(poses)
    return image.reshape(camera.height, camera.width, 3)


def _radiance(
    stage: Stage, camera: Camera, pose: Array, ray: Array, hit: dict[str, Array], part: Array
) -> Array:
    """Radiance (3, n) along rays (n, 3), of which `hit[...][part]` tells what they hit."""
    turn = pose[:3, :3].astype(np.float32)
    ray = ray.T
    d = np.stack([dot(row, ray) for row in turn])
    t, uv = hit["t"][part], hit["uv"][part].T
    points = pose[:3, 3].astype(np.float32)[:, None] + d * t
    corners = stage.faces[:, hit["face"][part]]
    b = (1.0 - uv[0] - uv[1], uv[0], uv[1])

    def inside(values: Array) -> Array:
        """Values (3, vertices) of the wall at the points, (3, n)."""
        return np.stack([dot(b, [v.take(c) for c in corners]) for v in values])

    n = inside(stage.normals)
    n /= np.sqrt(dot(n, n))
    view = -d / np.sqrt(dot(d, d))
    still = points if stage.rest is None else inside(stage.rest)
    lights = fibres(stage.config) @ pose[:3, :3].T + pose[:3, 3]
    albedo = stage.mucosa.albedo(still, corners)
    glossy, lost = stage.mucosa.tilt(still, n, t / np.float32(camera.fx))
    return shade(points, n, glossy, albedo, view, lights, pose[:3, 2], stage.config, lost)
