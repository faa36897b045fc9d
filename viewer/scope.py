"""The endoscope's own eye in a session: which frame, flown to or not, how much video over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused

from .endoscope import click_ray, frame_quad, look_freely, look_through, nearest_in_view
from .mesh import Spot

if TYPE_CHECKING:
    from .session import Session

Array = NDArray[Any]


class Scope:
    """State of the virtual endoscope; indices `k` count the posed frames, not the source's."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.k = 0
        self.flying = False
        self.blend = 0.0  # opacity of the video over the rendering
        self._free: tuple[Any, Any, Any] | None = None  # where the eye was before flying
        self._lens: tuple[int, int] = (0, 0)

    @property
    def count(self) -> int:
        cameras = self.session.case.cameras
        return 0 if cameras is None else len(cameras.frame_index)

    @property
    def frame_index(self) -> int | None:
        """Index in the source of the current frame."""
        cameras = self.session.case.cameras
        return int(cameras.frame_index[self.k]) if cameras is not None and self.count else None

    def image(self) -> Array | None:
        """The current video frame (h, w, 3) uint8, None when it is not in the run."""
        from PIL import Image

        index = self.frame_index
        if index is None:
            return None
        try:
            with Image.open(self.session.case.run.frame_image(index)) as file:
                return np.asarray(file.convert("RGB"))
        except (InputRefused, OSError):
            return None

    def to_frame(self, frame_index: int) -> None:
        """Make the posed frame nearest to a source index the current one."""
        cameras = self.session.case.cameras
        if cameras is None or not self.count:
            self.session.say("The run has no poses yet, so there is no frame to fly to", bad=True)
            return
        self.k = int(np.argmin(np.abs(cameras.frame_index - frame_index)))
        found = int(cameras.frame_index[self.k])
        other = "" if found == frame_index else f" (frame {frame_index} has no pose)"
        self._arrive(f"Frame {found}{other}")

    def step(self, by: int) -> None:
        """The next or previous posed frame."""
        if self.count:
            self.k = int(np.clip(self.k + by, 0, self.count - 1))
            self._arrive(f"Frame {self.frame_index} ({self.k + 1} of {self.count})")

    def fly(self) -> None:
        """Look through the current frame's camera, or come back from there."""
        if self.flying:
            self.leave()
        elif self.count:
            camera = self.session.camera
            self._free = (camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp())
            self.flying = True
            self._arrive(f"Endoscope view of frame {self.frame_index}")

    def leave(self) -> None:
        """Back to where the eye was."""
        if not self.flying:
            return
        camera = self.session.camera
        look_freely(camera)
        self.flying = False
        if self._free is not None:
            position, focus, up = self._free
            camera.SetPosition(*position)
            camera.SetFocalPoint(*focus)
            camera.SetViewUp(*up)
        self.session.frame_moved()
        self.session.say("")

    def loosen(self) -> None:
        """The hand turns the view: keep the place, give up the lens of the endoscope."""
        if self.flying:
            self.flying = False
            look_freely(self.session.camera)
            self.session.frame_moved()

    def mix(self, blend: float) -> None:
        """Lay the video over the rendering, 0 (not at all) to 1 (only video)."""
        self.blend = float(np.clip(blend, 0, 1))
        if self.blend and not self.flying:
            self.fly()
        self.session.frame_moved()

    def _arrive(self, words: str) -> None:
        self.aim()
        self.session.frame_moved()
        self.session.say(words)

    def aim(self) -> None:
        """Put the view into the endoscope (again, when the window changed its size)."""
        cameras = self.session.case.cameras
        if not self.flying or cameras is None:
            return
        window = tuple(self.session.renderer.GetSize())
        self._lens = (int(window[0]), int(window[1]))
        look_through(
            self.session.camera, cameras.world_from_camera[self.k], cameras.K, cameras.width,
            cameras.height, self._lens, self._depths()[1],
        )  # fmt: skip
        self.session.renderer.ResetCameraClippingRange()

    def resized(self) -> None:
        """Aim again when the window is no longer the one that was aimed for."""
        if self.flying and tuple(self.session.renderer.GetSize()) != self._lens:
            self.aim()

    def _depths(self) -> tuple[float, float]:
        cameras, surface = self.session.case.cameras, self.session.case.surface
        assert cameras is not None
        if surface is None:
            return 1.0, 1.0
        thin = surface.vertices[:: max(1, len(surface.vertices) // 20_000)]
        return nearest_in_view(
            thin, cameras.world_from_camera[self.k], cameras.K, cameras.width, cameras.height
        )

    def quad(self) -> list[Any]:
        """The video frame as an actor just before the nearest surface."""
        import pyvista as pv

        cameras, image = self.session.case.cameras, self.image()
        if not self.flying or self.blend == 0 or cameras is None or image is None:
            return []
        quad = frame_quad(
            cameras.world_from_camera[self.k], cameras.K, cameras.width, cameras.height,
            0.6 * self._depths()[0],
        )  # fmt: skip
        actor = self.session.plotter.add_mesh(
            quad, texture=pv.Texture(self._cut_out(image)), name="video-frame", lighting=False,
            reset_camera=False, render=False, pickable=False,
        )  # fmt: skip
        actor.prop.opacity = self.blend
        return [actor]

    def _cut_out(self, image: Array) -> Array:
        """The frame (h, w, 4) clear outside the scope's round picture, which would darken the view.

        The run's mask tells the round; its holes (highlights) stay part of the picture.
        """
        from PIL import Image
        from scipy.ndimage import binary_fill_holes

        seen = np.full(image.shape[:2], 255, np.uint8)
        try:
            with Image.open(
                self.session.case.run.path / f"masks/{self.frame_index:06d}.png"
            ) as file:
                mask = np.asarray(file.convert("L").resize(image.shape[1::-1]))
            seen = np.where(binary_fill_holes(mask > 0), 255, 0).astype(np.uint8)
        except OSError:
            pass  # a run without masks: the whole frame
        return np.dstack([image, seen])

    def spot_at(self, u: float, v: float) -> Spot | None:
        """The surface seen at pixel (u, v) of the current frame (first centre at .5, .5)."""
        s = self.session
        cameras = s.case.cameras
        if cameras is None or s.hands.mesh is None or not self.count:
            return None
        a, b = click_ray(
            np.array([u, v]), cameras.world_from_camera[self.k], cameras.K, s.diagonal * 3
        )
        return s.hands.mesh.ray(a, b)
