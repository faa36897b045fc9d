"""From radiance to the 8-bit picture: vignetting, exposure that lags, noise, tone, the round edge.

Radiance and exposure are linear; the picture is sRGB-like uint8. The exposure controller sees what
a real one sees: the brightness of the last picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.optics import content_mask, lens_rays
from endorecon.scene import Camera

Array = NDArray[Any]


def vignetting(camera: Camera, config: PhantomConfig) -> Array:
    """(h, w) float32 transmission of the lens: 1 in the middle, falling as a power of cosine."""
    from endorecon.geometry import pixel_grid

    rays = lens_rays(pixel_grid(camera.width, camera.height), camera)
    cosine = 1.0 / np.linalg.norm(rays, axis=-1)
    return (cosine**config.vignetting).astype(np.float32)


def meter(radiance: Array, mask: Array) -> float:
    """What the exposure controller looks at: a mean over the content area (0 < value).

    A power mean well above 1, as a camera that protects its highlights: near walls count most.
    """
    h, w = mask.shape
    v, u = np.mgrid[0:h, 0:w]
    weight = mask * np.exp(-(((u - w / 2) / h) ** 2) - ((v - h / 2) / h) ** 2)
    luminance = radiance @ np.array([0.30, 0.59, 0.11], np.float32)
    return max(float((luminance**3 * weight).sum() / weight.sum()) ** (1 / 3), 1e-9)


def next_exposure(exposure: float | None, brightness: float, config: PhantomConfig) -> float:
    """Exposure of the next frame, after a frame of this metered linear brightness."""
    wanted = config.exposure_target / brightness
    if exposure is None:
        return wanted
    return float(exposure * (wanted / exposure) ** config.exposure_speed)


def develop(
    radiance: Array,
    exposure: float,
    camera: Camera,
    config: PhantomConfig,
    rng: np.random.Generator,
) -> Array:
    """The (h, w, 3) uint8 picture of a linear radiance image (vignetting already in it)."""
    import cv2

    x: Array = radiance * np.float32(exposure)
    # Sensor: a little optical blur, shot noise that grows with light, read noise that does not.
    if config.blur_px > 0:
        x = cv2.GaussianBlur(x, (0, 0), config.blur_px)
    noise = rng.standard_normal(x.shape, np.float32)
    sigma = np.sqrt(config.shot_noise**2 * np.maximum(x, 0) + config.read_noise**2)
    x = np.clip(x + sigma * noise, 0.0, None)
    x = tone(x, config)
    mask = content_mask(camera, config)[..., None]
    black = np.float32(0.012)
    x = x * mask + black * (1 - mask)
    return (np.clip(x, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def tone(x: Array, config: PhantomConfig) -> Array:
    """Display value in [0, 1] of linear light (h, w, 3): gamma from a black level, a shoulder below
    white, and colour that is lost on the way to white as in a real camera's glare."""
    knee, white = 0.80, config.white
    y = np.power(np.maximum(x, 0.0), 1.0 / config.gamma)
    y = np.maximum(y - config.black, 0.0) / (1.0 - config.black)
    peak = y.max(-1, keepdims=True)
    y = y + np.clip((peak - config.bleach) / 0.4, 0.0, 1.0) * (peak - y)
    over = np.maximum(y - knee, 0.0)
    room = white - knee
    return np.minimum(y, knee) + room * (1.0 - np.exp(-over / room))
