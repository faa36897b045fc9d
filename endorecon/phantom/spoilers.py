"""What goes wrong in an operating room, each by name and strength in (0, 1]; all off by default.

smoke: haze that drifts; blood: drops that stick to the lens; instrument: a metal shaft moves in
the picture; breathing: the wall itself moves (truth depth moves with it, mesh.ply is at rest);
dropped: frozen frames; overlay: text burnt in; interlace: odd rows come from the frame before;
highlights: a wall so wet that it mirrors the light; exposure: a camera that lags behind the light.
The last two are settings of the phantom (`on_config`), smoke works on linear radiance, the others
on the uint8 picture. Pictures are (h, w, 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.errors import UsageError
from endorecon.phantom.implicit import Mesh
from endorecon.phantom.noise import make_tile

Array = NDArray[Any]
NAMES = (
    "smoke", "blood", "instrument", "breathing", "dropped", "overlay", "interlace", "highlights",
    "exposure",
)  # fmt: skip
BREATH_S, BREATH_MM = 4.0, 1.5  # period of a breath, displacement at strength 1
# Factors on the config at strength 1, to the power of a strength below: a film that glares, and a
# camera that makes a hundredth of the way to the right exposure in a frame.
GLARE = {"wetness": 30.0, "gloss_roughness": 1.5, "relief": 1.5}
LAG = 0.02


def check(spoil: Mapping[str, float]) -> None:
    """Raise UsageError for a name that is not a spoiler or a strength outside [0, 1]."""
    for name, strength in spoil.items():
        if name not in NAMES:
            raise UsageError(f"no spoiler {name!r}", f"choose from {', '.join(NAMES)}")
        if not 0.0 <= strength <= 1.0:
            raise UsageError(f"spoiler {name} has strength {strength}", "give 0 to 1")


def on_config(config: PhantomConfig, spoil: Mapping[str, float]) -> PhantomConfig:
    """The phantom's settings under the spoilers that are settings: highlights and exposure."""
    glare, lag = spoil.get("highlights", 0.0), spoil.get("exposure", 0.0)
    film = {name: getattr(config, name) * factor**glare for name, factor in GLARE.items()}
    return replace(config, **film, exposure_speed=config.exposure_speed * LAG**lag)


class Spoilers:
    """The spoilers of one video. Every draw depends on the seed and the frame only."""

    def __init__(
        self,
        spoil: Mapping[str, float],
        seed: int,
        frames: int,
        size: tuple[int, int],
        step_s: float,
    ) -> None:
        check(spoil)
        self.strength = {name: float(spoil.get(name, 0.0)) for name in NAMES}
        self.width, self.height = size
        self.step_s = step_s
        rng = np.random.default_rng([seed, 7])
        self._haze = make_tile(rng, 48, 1.0, (6.0, 40.0), 1.0)
        self._drops = [
            (rng.uniform(0.25, 0.75, 2), rng.uniform(0.02, 0.06), rng.integers(0, max(1, frames)))
            for _ in range(12)
        ]
        self._motion = rng.uniform(0, 2 * np.pi, 4)
        self._swell = [make_tile(rng, 32, 3.0, (20.0, 60.0), 1.0) for _ in range(3)]
        late = np.flatnonzero(rng.random(frames) < 0.25 * self.strength["dropped"])
        self.frozen = tuple(int(i) for i in late if i > 0)

    def deform(self, mesh: Mesh, time_s: float) -> Mesh:
        """The wall at a time: the mesh itself unless it breathes."""
        amount = self.strength["breathing"] * BREATH_MM * np.sin(2 * np.pi * time_s / BREATH_S)
        if amount == 0.0:
            return mesh
        shift = np.stack([t.sample(mesh.vertices) for t in self._swell], -1)
        return Mesh(mesh.vertices + 0.6 * amount * shift, mesh.faces, mesh.normals)

    def on_radiance(self, radiance: Array, frame: int) -> Array:
        """Smoke: light is lost on its way and scattered back in front of everything."""
        s = self.strength["smoke"]
        if s == 0.0:
            return radiance
        v, u = np.mgrid[0 : self.height, 0 : self.width] * (60.0 / self.height)
        t = frame * self.step_s
        at = np.stack([u + 12 * t, v + 7 * t, np.full_like(u, 5 * t)]).reshape(3, -1)
        haze = self._haze.trilinear(at).reshape(u.shape)
        density = s * np.clip(0.45 + 0.35 * haze, 0.0, 0.95)[..., None]
        lit = np.float32(np.percentile(radiance.max(-1), 80))
        grey = lit * np.array([0.80, 0.82, 0.86], np.float32)
        return radiance * (1.0 - density) + np.where(
            radiance.max(-1, keepdims=True) > 0, density * grey, 0
        )

    def on_picture(self, picture: Array, before: Array | None, frame: int) -> tuple[Array, Array]:
        """The spoilt picture and (h, w) bool: where the anatomy is hidden."""
        hidden = np.zeros(picture.shape[:2], bool)
        if before is not None and frame in self.frozen:
            return before, hidden
        picture, drops = self._blood(picture, frame)
        picture, tool = self._instrument(picture, frame)
        picture = self._overlay(picture, frame)
        if self.strength["interlace"] > 0 and before is not None:
            picture = picture.copy()
            picture[1::2] = before[1::2]
        return picture, hidden | drops | tool

    def _blood(self, picture: Array, frame: int) -> tuple[Array, Array]:
        import cv2

        count = round(self.strength["blood"] * len(self._drops))
        cover: Array = np.zeros(picture.shape[:2], np.float32)
        for centre, radius, begin in self._drops[:count]:
            if frame >= begin // 2:
                at = (int(centre[0] * self.width), int(centre[1] * self.height))
                cv2.circle(cover, at, max(2, int(radius * self.height)), 1.0, -1)
        if not cover.any():
            return picture, np.zeros(picture.shape[:2], bool)
        cover = cv2.GaussianBlur(cover, (0, 0), 0.012 * self.height)
        blur = cv2.GaussianBlur(picture, (0, 0), 0.03 * self.height).astype(np.float32)
        red = blur * np.array([0.55, 0.12, 0.10], np.float32) + np.array([25, 0, 0], np.float32)
        a = 0.95 * cover[..., None]
        return (picture * (1 - a) + red * a + 0.5).astype(np.uint8), cover > 0.5

    def _instrument(self, picture: Array, frame: int) -> tuple[Array, Array]:
        s = self.strength["instrument"]
        if s == 0.0:
            return picture, np.zeros(picture.shape[:2], bool)
        h, w, t = self.height, self.width, frame * self.step_s
        p = self._motion
        reach = 0.25 + 0.35 * s * (0.5 + 0.5 * np.sin(1.7 * t + p[0]))
        tip = np.array(
            [w * (0.95 - reach * 0.75), h * (0.95 - reach) + 0.05 * h * np.sin(2.3 * t + p[1])]
        )
        base = np.array([w * 1.0, h * (1.02 + 0.05 * np.sin(0.9 * t + p[2]))])
        v, u = np.mgrid[0:h, 0:w] + 0.5
        ab = base - tip
        along = np.clip(((u - tip[0]) * ab[0] + (v - tip[1]) * ab[1]) / (ab @ ab), 0.0, 1.0)
        across = ((u - tip[0]) * ab[1] - (v - tip[1]) * ab[0]) / np.hypot(*ab)
        gap = np.hypot(u - tip[0] - along * ab[0], v - tip[1] - along * ab[1])
        radius = h * (0.022 + 0.03 * along)
        inside = (gap < radius) & (picture.max(-1) > 6)
        profile = np.sqrt(np.clip(1 - (across / radius) ** 2, 0, 1))
        grey = 60 + 110 * profile + 85 * np.exp(-(((across / radius) - 0.3) ** 2) / 0.01)
        metal = np.clip(grey[..., None] * np.array([0.98, 0.97, 1.0]), 0, 250).astype(np.uint8)
        return np.where(inside[..., None], metal, picture), inside

    def _overlay(self, picture: Array, frame: int) -> Array:
        s = self.strength["overlay"]
        if s == 0.0:
            return picture
        import cv2

        out, size = np.ascontiguousarray(picture).copy(), self.height / 900.0
        white = (int(120 + 135 * s),) * 3
        clock = f"ENT 4K  {frame * self.step_s:07.2f}"
        for text, x, y in ((clock, 0.03, 0.07), ("GAIN +2", 0.42, 0.93)):
            place = (int(x * self.width), int(y * self.height))
            cv2.putText(out, text, place, 0, size, white, 1, cv2.LINE_AA)
        return out
