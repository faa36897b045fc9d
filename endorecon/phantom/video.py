"""The h264 file: the same pictures give the same bytes.

One encoder thread, so that x264 decides alike on every machine; yuv420p, limited range, constant
quality. Pictures are (h, w, 3) uint8 RGB with even sizes.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.scene import Camera

Array = NDArray[Any]


class VideoWriter:
    """An mp4 that closes itself at the end of a `with`."""

    def __init__(self, path: Path, camera: Camera, config: PhantomConfig) -> None:
        import av

        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        rate = Fraction(round(config.frames_per_second * 1000), 1000)
        stream: Any = self._container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
        stream.options = {"crf": str(config.crf), "preset": "medium", "threads": "1"}
        self._stream = stream

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, picture: Array) -> None:
        """Append one picture."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __exit__(self, *_: object) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
