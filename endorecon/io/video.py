"""Video or folder of images -> Frames: what `fit` starts from.

Two passes: small pictures of all frames are screened (io/screen.py), then the kept ones are
decoded again at working size: cropped to the bounding box of the content area and reduced to
`max_width`. The calibration moves along with the crop (io/calibration.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from endorecon.config import VideoConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.io.decode import Decoded, Tally, decode
from endorecon.scene import Camera, Frames


def read_frames(
    path: Path,
    config: VideoConfig,
    camera: Camera | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Frames:
    """Decode and screen a video or folder: usable frames, masks, and a record of every frame.

    `camera` is the calibration at its own resolution; `Frames.camera` is the same lens at working
    size. Raises InputRefused (unreadable, damaged, wrong calibration) or NotEnoughInformation
    (too few usable frames).
    """
    import cv2

    from endorecon.io import calibration, screen

    path = Path(path)
    tally = Tally()
    small: list[Decoded] = list(
        decode(
            path, tally, width=screen.ANALYSIS_WIDTH, start=start, end=end,
            image_rate=config.image_rate,
        )
    )  # fmt: skip
    warnings: list[str] = []
    if tally.partial:
        if not config.accept_partial:
            raise InputRefused(
                f"the video is damaged: {tally.sentence}",
                "copy it again, or go on with what there is by --video.accept-partial",
                path,
            )
        warnings.append(f"The video is damaged: {tally.sentence}; the result rests on this part.")
    if not small:
        raise NotEnoughInformation(
            f"need at least {config.min_frames} frames, found none between start and end",
            "choose a longer part of the video",
            path,
        )
    width, height = small[0].width, small[0].height
    if camera is not None:
        try:
            camera, note = calibration.for_size(camera, width, height)
        except InputRefused as error:
            raise InputRefused(error.what, error.remedy, path) from error
        warnings += [note] if note else []

    verdict = screen.screen(small, config)
    combed = np.array([d.combing for d in small])
    deinterlace = bool(np.mean(combed > screen.COMBING) > 0.2)
    if deinterlace:
        warnings.append("The video is interlaced; it was deinterlaced (bwdif).")
    kept = {r.frame_index for r in verdict.records if r.kept}
    copies = sum(r.reason in ("duplicate", "frozen") for r in verdict.records)
    if len(kept) < config.min_frames and len(kept) + copies >= config.min_frames:
        raise NotEnoughInformation(
            f"no parallax: the camera does not move ({copies} of {len(small)} frames repeat the "
            f"one before; need at least {config.min_frames} that differ, found {len(kept)})",
            "move the tip sideways while filming",
            path,
        )
    if len(kept) < config.min_frames:
        raise NotEnoughInformation(
            f"need at least {config.min_frames} usable frames, found {len(kept)} of {len(small)} "
            f"after screening ({screen.count_reasons(verdict.records)})",
            "film longer, slower and closer to the tissue, with the lens clean",
            path,
        )

    left, top, right, bottom = verdict.content.box(width, height)
    factor = min(1.0, config.max_width / (right - left))
    w, h = round((right - left) * factor), round((bottom - top) * factor)
    sx, sy = float(w / (right - left)), float(h / (bottom - top))
    images, index, times = [], [], []
    again = Tally()
    for d in decode(
        path, again, start=start, end=end, deinterlace=deinterlace, image_rate=config.image_rate
    ):
        if d.frame_index in kept:
            window = d.image[top:bottom, left:right]
            images.append(
                cv2.resize(window, (w, h), interpolation=cv2.INTER_AREA)
                if (w, h) != window.shape[1::-1]
                else window.copy()
            )
            index.append(d.frame_index)
            times.append(d.time_s)
    stack = np.stack(images)
    working = np.array([[1 / sx, 0.0, left], [0.0, 1 / sy, top], [0.0, 0.0, 1.0]])
    masks = screen.frame_masks(stack, verdict, working, (width, height))
    if camera is not None:
        window_camera = camera.cropped(left, top, right - left, bottom - top)
        camera = replace(window_camera.scaled(sx, sy), width=w, height=h)
    return Frames(
        images=stack,
        masks=masks,
        frame_index=np.array(index),
        time_s=np.array(times, float),
        records=verdict.records,
        source_width=width,
        source_height=height,
        source_from_working=working,
        camera=camera,
        summary=screen.describe(verdict, masks),
        warnings=tuple(warnings) + verdict.warnings,
    )
