"""Decoding: a video file by PyAV, or a folder of images, as one stream of pictures.

Time stamps are the file's own (pts), the display matrix is applied, and what was decoded is
counted against what the file promises: players and cv2 stop silently at damage. `frame_index`
counts decoded frames of the source from 0; no seeking, so that index and time are exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused

Array = NDArray[Any]

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
VIDEO_TYPES = (".mp4", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".mxf", ".webm", ".wmv")


@dataclass(frozen=True)
class Decoded:
    """One frame as it came: RGB pixels at the size asked for, luma combing, damage."""

    frame_index: int
    time_s: float
    image: Array  # (h, w, 3) uint8
    width: int  # of the source, as displayed
    height: int
    combing: float  # > 1: neighbouring lines differ more than lines of one field
    damaged: bool


@dataclass
class Tally:
    """What a decoding run met: filled while `decode` is being read."""

    decoded: int = 0
    promised: int = 0  # 0: the file does not say
    errors: int = 0
    complete: bool = False  # the end of the file (not of --end) was reached

    @property
    def partial(self) -> bool:
        """Whether frames are missing or damaged (one in a hundred, at least 2, is forgiven)."""
        missing = self.promised - self.decoded
        return self.errors > 0 or (self.complete and missing > max(2, 0.01 * self.promised))

    @property
    def sentence(self) -> str:
        """What could be read, in words."""
        if self.promised > 0:
            share = f" ({100 * self.decoded / self.promised:.0f} %)"
            return f"{self.decoded} of {self.promised} frames could be read{share}"
        return f"the video breaks off with an error after {self.decoded} frames"


def find_source(path: Path) -> tuple[Path, list[Path]]:
    """The video file, or the folder with its images in natural order; InputRefused if neither."""
    path = Path(path)
    if path.is_file():
        if path.stat().st_size == 0:
            raise InputRefused(
                "this is not a video I can read (it is empty)", "copy it again", path
            )
        return path, []
    if not path.exists():
        raise InputRefused("this input does not exist", "check the name", path)
    for folder in (path, path / "images", path / "rgb", path / "frames"):
        if folder.is_dir():
            images = sorted(
                (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_TYPES), key=_natural
            )
            if images:
                return folder, images
    videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_TYPES)
    if len(videos) == 1:
        return videos[0], []
    raise InputRefused(
        f"this folder holds no images and {len(videos)} videos",
        "give one video file or a folder of images",
        path,
    )


def _natural(path: Path) -> tuple[Any, ...]:
    return tuple(int(t) if t.isdigit() else t.lower() for t in re.split(r"(\d+)", path.name))


def decode(
    path: Path,
    tally: Tally,
    *,
    width: int | None = None,
    start: float | None = None,
    end: float | None = None,
    deinterlace: bool = False,
    image_rate: float = 30.0,
) -> Iterator[Decoded]:
    """Frames in display order, turned as the display matrix says, reduced to `width` if given.

    Raises InputRefused for what is not a video. Damage is counted in `tally`, not raised.
    """
    source, images = find_source(path)
    if images:
        yield from _decode_images(images, tally, width, start, end, image_rate)
    else:
        yield from _decode_video(source, tally, width, start, end, deinterlace)


def _decode_images(
    images: list[Path],
    tally: Tally,
    width: int | None,
    start: float | None,
    end: float | None,
    rate: float,
) -> Iterator[Decoded]:
    import cv2

    tally.promised = len(images)
    size: tuple[int, int] | None = None
    for i, file in enumerate(images):
        t = i / rate
        if (start is not None and t < start) or (end is not None and t > end):
            tally.promised -= 1
            continue
        data = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)  # any path, umlauts too
        if data is None:
            tally.errors += 1
            continue
        h, w = data.shape[:2]
        if size not in (None, (w, h)):
            raise InputRefused(
                f"the images differ in size ({size} and {(w, h)})", "give frames of one video", file
            )
        size = (w, h)
        tally.decoded += 1
        image = data[..., ::-1]
        if width is not None and width < w:
            image = cv2.resize(image, (width, round(h * width / w)), interpolation=cv2.INTER_AREA)
        yield Decoded(i, t, np.ascontiguousarray(image), w, h, 0.0, False)
    tally.complete = True


def _decode_video(
    path: Path,
    tally: Tally,
    width: int | None,
    start: float | None,
    end: float | None,
    deinterlace: bool,
) -> Iterator[Decoded]:
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).split(":")[0].lower()
        raise InputRefused(
            f"this is not a video I can read ({reason})",
            "play it to the end in a video player and copy or export it again",
            path,
        ) from error
    with container:
        if not container.streams.video:
            raise InputRefused("there is no picture in this file", "give a video", path)
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 30)
        tally.promised = stream.frames
        duration = container.duration / 1e6 if container.duration else 0.0
        shape: tuple[int, int, int] | None = None
        first = last = 0.0
        index = -1
        for frame, broken in _frames_of(container, stream, tally, deinterlace):
            index += 1
            tally.decoded += 1
            t = frame.time if frame.time is not None else index / rate
            first, last = (t, t) if index == 0 else (min(first, t), max(last, t))
            if end is not None and t > end:
                return
            turn = round(frame.rotation) % 360
            now = (frame.width, frame.height, turn)
            if shape not in (None, now):
                raise InputRefused(
                    f"size or rotation of the picture changes in the middle ({shape} to {now})",
                    "cut the video into parts with --start and --end",
                    path,
                )
            shape = now
            if start is not None and t < start:
                continue
            yield _picture(frame, index, t, turn, width, broken)
        tally.complete = True
        if not tally.promised and duration > 0 and index > 0:
            # no count in the file: its duration tells, whatever the frame rate does
            covered = (last - first) * (1 + 1 / index) / duration
            tally.promised = tally.decoded if covered > 0.97 else round(tally.decoded / covered)


def _frames_of(
    container: Any, stream: Any, tally: Tally, deinterlace: bool
) -> Iterator[tuple[Any, bool]]:
    """Frames with a damage flag; packets that do not decode are counted and passed over."""
    import av

    graph = _bwdif(stream) if deinterlace else None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError):
            tally.errors += 1  # the container itself is damaged: nothing behind it can be found
            break
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, OSError):
            tally.errors += 1
            continue
        for frame in frames:
            broken = bool(packet.is_corrupt) or bool(getattr(frame, "is_corrupt", False))
            tally.errors += broken
            if graph is None:
                yield frame, broken
                continue
            graph.push(frame)
            yield from ((f, broken) for f in _pull(graph))
    if graph is not None:
        graph.push(None)
        yield from ((f, False) for f in _pull(graph))


def _bwdif(stream: Any) -> Any:
    """A filter graph that makes one progressive frame of each interlaced one."""
    import av.filter

    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream)
    lines = graph.add("bwdif", "mode=send_frame:deint=all")
    sink = graph.add("buffersink")
    source.link_to(lines)
    lines.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _picture(
    frame: Any, index: int, t: float, turn: int, width: int | None, broken: bool
) -> Decoded:
    combing = _combing(frame) if width is not None else 0.0
    w, h = frame.width, frame.height
    shown = (w, h) if turn % 180 == 0 else (h, w)
    if width is not None and width < shown[0]:
        factor = width / shown[0]
        frame = frame.reformat(
            width=max(1, round(w * factor)),
            height=max(1, round(h * factor)),
            format="rgb24",
            interpolation="AREA",
        )
    image = frame.to_ndarray(format="rgb24")
    # PyAV's rotation counts counter-clockwise, as numpy.rot90 does
    image = np.ascontiguousarray(np.rot90(image, turn // 90)) if turn else image
    return Decoded(index, t, image, *shown, combing, broken)


def _combing(frame: Any) -> float:
    """Difference of neighbouring lines over difference of lines of one field (luma).

    Below 1 for progressive pictures, about 1 for pure noise, above 1 where two fields show
    different moments.
    """
    if (
        frame.format.is_planar is False
        or frame.height < 16
        or frame.format.name[:3]
        not in (
            "yuv",
            "gra",
            "nv1",
        )
    ):
        return 0.0
    plane = frame.planes[0]
    if plane.line_size < frame.width or frame.format.components[0].bits != 8:
        return 0.0
    luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
        : frame.height, : frame.width
    ]
    y = luma[:, :: max(1, frame.width // 320)].astype(np.int16)
    across = np.abs(y[1:-1] - y[:-2]).mean() + np.abs(y[1:-1] - y[2:]).mean()
    within = 2 * np.abs(y[2:] - y[:-2]).mean()
    return float(across / within) if within > 0.5 else 0.0
