"""Pictures and turntables without a window: the same session, drawn off-screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endorecon.io import atomic

if TYPE_CHECKING:
    from .session import Session

Array = NDArray[Any]
FPS, SECONDS = 25, 8


def view_pixels(session: Session) -> Array:
    """The whole window as RGB (h, w, 3) uint8."""
    session.motion.settle()
    session.draw_now()
    return np.asarray(session.plotter.screenshot(return_img=True))[..., :3]


def png(image: Array) -> bytes:
    """An RGB picture as PNG bytes."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "PNG", optimize=True)
    return out.getvalue()


def beside(image: Array, frame: Array) -> Array:
    """A video frame (right, full height) beside a picture."""
    from PIL import Image

    h = image.shape[0]
    w = round(frame.shape[1] * h / frame.shape[0])
    scaled = Image.fromarray(frame).resize((w, h), Image.Resampling.LANCZOS)
    return np.concatenate([image, np.asarray(scaled)], 1)


def write_picture(session: Session, path: Path) -> None:
    """The view as PNG (the video frame is not part of it unless blended)."""
    atomic.write_bytes(path, png(view_pixels(session)))


def write_turntable(session: Session, path: Path, frames: int = FPS * SECONDS) -> None:
    """One turn about the superior axis (the view's up when unregistered) as MP4."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.mp4")
    session.scope.leave()
    camera = session.camera
    if session.case.mm:
        camera.SetViewUp(0, 0, 1)
    first = view_pixels(session)
    h, w = (first.shape[0] // 2 * 2, first.shape[1] // 2 * 2)  # yuv420p wants even sizes
    try:
        with av.open(str(temporary), "w") as out:
            try:
                stream: Any = out.add_stream("libx264", rate=FPS)
                stream.options = {"crf": "20"}
            except Exception:  # a build of FFmpeg without x264
                stream = out.add_stream("mpeg4", rate=FPS)
                stream.bit_rate = 8_000_000
            stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
            for k in range(frames):
                picture = first if k == 0 else view_pixels(session)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:h, :w]), "rgb24")
                for packet in stream.encode(frame):
                    out.mux(packet)
                camera.Azimuth(360.0 / frames)
                session.renderer.ResetCameraClippingRange()
            for packet in stream.encode():
                out.mux(packet)
        temporary.replace(path)
    except OSError as error:
        raise atomic.as_resource_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
