"""Which frames and which pixels of a video are usable, found from small pictures of all frames.

Content area: convex hull of what is bright and moves. Overlay: pixels that never change although
their surroundings do. Frames: black, white, damaged, blurred, out-of-body, duplicate, frozen, each
with its reason. Keyframes: by optical flow from the last kept frame; frames with parallax too
small are dropped only as duplicates, or when there are more than `max_frames`.
Motion is given in pixels of the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endorecon.config import VideoConfig
from endorecon.io.white import highlights, ordered, white_level
from endorecon.scene import FrameRecord

Array = NDArray[Any]

ANALYSIS_WIDTH = 384  # pixels of the small pictures
COMBING = 1.1  # combing above this: two fields of different moments
_DUPLICATE_LEVELS = 0.35  # mean grey-level difference of a re-encoded copy
_FROZEN_RUN = 5  # so many copies in a row are a frozen picture
_BLURRED = 0.5  # of the running median of sharpness
_ERODE = 0.012  # of the content width: the lens border is bright and coloured


class Small(Protocol):
    """What screening needs of a decoded frame."""

    @property
    def frame_index(self) -> int: ...
    @property
    def time_s(self) -> float: ...
    @property
    def image(self) -> Array: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def damaged(self) -> bool: ...


@dataclass(frozen=True)
class Content:
    """The lit part of the picture: a convex outline in shares of width and height."""

    outline: Array  # (k, 2) in [0, 1]
    shape: str  # "full", "rectangular", "round" or "octagonal"

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom in pixels of a picture of that size."""
        if self.shape == "full":
            return 0, 0, width, height
        low = np.floor(self.outline.min(0) * [width, height]).astype(int)
        high = np.ceil(self.outline.max(0) * [width, height]).astype(int)
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        return left, top, min(int(high[0]), width), min(int(high[1]), height)

    def mask(
        self, width: int, height: int, source_from_mask: Array, source: tuple[int, int]
    ) -> Array:
        """(height, width) bool, eroded, of a crop given by its transform to the source."""
        import cv2

        if self.shape == "full":
            return np.ones((height, width), bool)
        pixels = self.outline * np.array(source, float)
        pixels = (pixels - source_from_mask[:2, 2]) / np.diag(source_from_mask)[:2]
        out = np.zeros((height + 2, width + 2), np.uint8)  # a rim, so that erosion sees the edge
        cv2.fillConvexPoly(out, np.round((pixels + 0.5) * 16).astype(np.int32), 1, shift=4)
        out[[0, -1]] = out[:, [0, -1]] = 0
        r = max(2, round(_ERODE * np.ptp(pixels[:, 0])))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
        return cv2.erode(out, kernel, borderValue=0)[1:-1, 1:-1].astype(bool)


@dataclass(frozen=True)
class Verdict:
    """The outcome of screening."""

    content: Content
    overlay: Array  # (h, w) bool at analysis size
    records: tuple[FrameRecord, ...]
    warnings: tuple[str, ...]


def screen(frames: Sequence[Small], config: VideoConfig) -> Verdict:
    """Judge all frames of a video from their small pictures (all of one size)."""
    import cv2

    grey = np.stack([cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY) for f in frames])
    content = find_content(grey)
    h, w = grey.shape[1:]
    size = np.array([frames[0].width, frames[0].height], float)
    to_source = np.diag([size[0] / w, size[1] / h, 1.0])
    inside = content.mask(w, h, to_source, (frames[0].width, frames[0].height))
    white = white_level([f.image for f in frames], inside)
    records = [_measure(f, g, inside, white) for f, g in zip(frames, grey)]
    redness = np.array([_redness(f.image, inside) for f in frames])
    records = _judge(frames, records, redness)
    records = _keyframes(records, grey, inside, size[0] / w, config)
    overlay = find_overlay(grey[[r.kept for r in records]], inside)
    warnings = []
    share = overlay.sum() / inside.sum()
    if share >= 5e-4:  # less is masked without a word
        warnings.append(
            f"Static text or a logo covers {100 * share:.1f} % of the picture; it is masked, but "
            "exported frames may show it."
        )
    beside = cv2.dilate(inside.astype(np.uint8), np.ones((25, 25))) == 0
    if beside.any() and (np.median(grey[:, beside], axis=0) > 100).mean() > 0.001:
        warnings.append(
            "Writing or other pictures lie beside the endoscope's picture; they are cut away."
        )
    return Verdict(content, overlay, tuple(records), tuple(warnings))


def find_content(grey: Array) -> Content:
    """The outline of the lit, moving part of a video (n, h, w) uint8."""
    import cv2

    sample = grey[np.unique(np.linspace(0, len(grey) - 1, 60).round().astype(int))].astype(
        np.float32
    )
    h, w = grey.shape[1:]
    top = cv2.medianBlur(np.percentile(sample, 95, axis=0).astype(np.uint8), 3)
    full = Content(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), "full")
    c = max(3, w // 40)
    corners = [
        top[y, x] for y in (slice(0, c), slice(-c, None)) for x in (slice(0, c), slice(-c, None))
    ]
    dark = float(np.median([np.median(p) for p in corners]))
    if dark > 40:
        return full
    bright = top > dark + 12
    deviation = sample.std(0)
    moving = bright & (
        deviation > max(1.0, 0.2 * float(np.median(deviation[bright])) if bright.any() else 1.0)
    )
    lit = moving if moving.sum() > 0.3 * bright.sum() else bright
    lit = cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    lit = cv2.morphologyEx(lit & bright, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, _, _ = cv2.connectedComponentsWithStats(lit)
    if count < 2:
        return full
    activity = [float((deviation[labels == k] + 0.1).sum()) for k in range(1, count)]
    part = (labels == 1 + int(np.argmax(activity))).astype(np.uint8)
    points = cv2.findNonZero(part)
    hull = cv2.convexHull(points)[:, 0].astype(float) + 0.5
    filled = float(cv2.contourArea(hull.astype(np.float32)))
    if filled > 0.97 * w * h:
        return full
    span = np.ptp(hull, axis=0)
    share = filled / float(span[0] * span[1])
    _, radius = cv2.minEnclosingCircle(hull.astype(np.float32))
    sides = len(cv2.approxPolyDP(hull.astype(np.float32), 0.02 * radius, True))
    shape = "rectangular" if share > 0.96 else "round" if sides > 10 else "octagonal"
    return Content(hull / [w, h], shape)


def find_overlay(grey: Array, inside: Array) -> Array:
    """(h, w) bool: structure that stands still while the picture moves (text, logos)."""
    import cv2

    none = np.zeros(inside.shape, bool)
    if len(grey) < 10:
        return none
    sample = grey[np.linspace(0, len(grey) - 1, min(len(grey), 80)).round().astype(int)].astype(
        np.float32
    )
    deviation, mean = sample.std(0), sample.mean(0)
    typical = float(np.median(deviation[inside]))
    if typical < 4.0:  # nothing moves enough to tell
        return none
    still = deviation < 0.25 * typical
    # dark or evenly lit places stand still too: only what has edges of its own is writing
    edges = np.abs(mean - cv2.GaussianBlur(mean, (0, 0), 3.0)) > 12.0
    # the rim of the content area stands still as well: writing in its midst only
    inner = cv2.erode(np.pad(inside.astype(np.uint8), 1), np.ones((9, 9)))[1:-1, 1:-1].astype(bool)
    seed = (still & edges & (inside if inside.all() else inner)).astype(np.uint8)
    if seed.sum() < 6:
        return none
    grown = cv2.morphologyEx(seed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return cv2.dilate(grown, np.ones((3, 3), np.uint8)).astype(bool) & inside


def frame_masks(
    images: Array, verdict: Verdict, source_from_working: Array, source: tuple[int, int]
) -> Array:
    """Usable pixels (n, h, w) bool: content area without overlay, saturation and highlights."""
    import cv2

    _, h, w = images.shape[:3]
    base = verdict.content.mask(w, h, source_from_working, source)
    if verdict.overlay.any():
        # working pixel -> analysis pixel, nearest
        ha, wa = verdict.overlay.shape
        u = (np.arange(w) + 0.5) * source_from_working[0, 0] + source_from_working[0, 2]
        v = (np.arange(h) + 0.5) * source_from_working[1, 1] + source_from_working[1, 2]
        columns = np.clip((u * wa / source[0]).astype(int), 0, wa - 1)
        rows = np.clip((v * ha / source[1]).astype(int), 0, ha - 1)
        base = base & ~verdict.overlay[np.ix_(rows, columns)]
    r = max(1, round(0.003 * w))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    white = white_level(images, base)
    out = np.zeros(images.shape[:3], bool)
    for k, image in enumerate(images):
        out[k] = base & ~cv2.dilate(highlights(image, white).astype(np.uint8), kernel).astype(bool)
    return out


def _measure(frame: Small, grey: Array, inside: Array, white: int) -> FrameRecord:
    import cv2

    g = grey.astype(np.float32)
    fine = g - cv2.GaussianBlur(g, (0, 0), 1.0)
    coarse = g - cv2.GaussianBlur(g, (0, 0), 4.0)
    pixels = g[inside]
    # energy at fine over coarse scales: does not depend on exposure; highlights left out
    good = inside & (g < 235) & (cv2.dilate((g > 235).astype(np.uint8), np.ones((5, 5))) == 0)
    energy = float((coarse[good] ** 2).mean()) if good.any() else 0.0
    sharpness = float((fine[good] ** 2).mean()) / energy if energy > 1e-6 else 0.0
    _, middle, _ = ordered(frame.image)
    return FrameRecord(
        frame_index=frame.frame_index,
        time_s=frame.time_s,
        kept=True,
        sharpness=sharpness,
        brightness=float(pixels.mean()) / 255.0,
        saturated=float((middle[inside] >= white).mean()),
    )


def _redness(image: Array, inside: Array) -> float:
    r, g, b = image[inside].astype(np.float64).sum(0) + 1.0
    return float(r / (r + g + b))


def _judge(
    frames: Sequence[Small], records: list[FrameRecord], redness: Array
) -> list[FrameRecord]:
    """Reasons that a frame carries in itself, or against the frames around it."""
    sharp = np.array([r.sharpness for r in records])
    lit = np.array([r.brightness > 0.03 and r.saturated < 0.6 for r in records])
    usual = float(np.median(redness[lit])) if lit.any() else 0.0
    spread = 1.4826 * float(np.median(np.abs(redness[lit] - usual))) if lit.any() else 0.0
    out = []
    for i, (frame, record) in enumerate(zip(frames, records)):
        near = slice(max(0, i - 12), i + 13)
        around = sharp[near][lit[near]]
        reason = ""
        if frame.damaged:
            reason = "damaged"
        elif record.brightness <= 0.03:
            reason = "black"
        elif record.saturated >= 0.6 or record.brightness > 0.93:
            reason = "white"
        elif usual > 0.38 and redness[i] < 0.36 and redness[i] < usual - max(0.04, 5 * spread):
            reason = "out-of-body"  # tissue is red, rooms and drapes are not
        elif len(around) > 4 and record.sharpness < _BLURRED * float(np.median(around)):
            reason = "blurred"
        out.append(replace(record, kept=not reason, reason=reason))
    return out


def _keyframes(
    records: list[FrameRecord], grey: Array, inside: Array, source_px: float, config: VideoConfig
) -> list[FrameRecord]:
    """Drop copies and frames without motion; thin out by motion to `max_frames`."""
    import cv2

    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    ys, xs = np.nonzero(inside)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    crop = np.ascontiguousarray(grey[:, top:bottom, left:right])
    good = inside[top:bottom, left:right]
    least = config.keyframe_motion * (right - left)
    last, run, out = -1, 0, list(records)
    for i, record in enumerate(records):
        if not record.kept:
            continue
        if last < 0:
            last = i
            continue
        previous: Any = crop[last]
        difference = float(np.abs(crop[i][good].astype(np.int16) - previous[good]).mean())
        nothing: Any = None
        field = flow.calc(previous, crop[i], nothing)
        motion = float(np.median(np.linalg.norm(field[good], axis=-1)))
        copy = difference < _DUPLICATE_LEVELS and motion < 0.1
        if copy or motion < least:
            run = run + 1 if copy else 0
            reason = "frozen" if run >= _FROZEN_RUN else "duplicate"
            out[i] = replace(record, kept=False, reason=reason, motion_px=float(motion * source_px))
            if run == _FROZEN_RUN:  # the whole run is one frozen picture
                for j in range(i - 1, last, -1):
                    if out[j].reason == "duplicate":
                        out[j] = replace(out[j], reason="frozen")
            continue
        out[i] = replace(record, motion_px=float(motion * source_px))
        last, run = i, 0
    return _thin_out(out, config.max_frames)


def _thin_out(records: list[FrameRecord], limit: int) -> list[FrameRecord]:
    """At most `limit` frames, spread evenly along the path of the camera (summed motion)."""
    kept = [i for i, r in enumerate(records) if r.kept]
    if len(kept) <= limit:
        return records
    steps = np.array([records[i].motion_px for i in kept])
    path = np.cumsum(np.nan_to_num(steps))
    at = np.searchsorted(path, np.linspace(0, path[-1], limit))
    # Where the camera leaps, several places of the path fall on one frame: each takes a free one.
    number = np.arange(limit)
    at = np.maximum.accumulate(np.minimum(at, len(kept) - 1) - number) + number
    chosen = set(np.minimum(at, len(kept) - limit + number).tolist())
    out = list(records)
    for k, i in enumerate(kept):
        if k not in chosen:
            out[i] = replace(out[i], kept=False, reason="little parallax")
    return out


def count_reasons(records: Sequence[FrameRecord]) -> str:
    """ "black 3, blurred 5": how many frames were dropped for what."""
    counts = Counter(r.reason for r in records if not r.kept)
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none dropped"


def describe(verdict: Verdict, masks: Array) -> tuple[str, ...]:
    """The quality of the video in plain sentences, each with what to do better next time."""
    records = verdict.records
    kept = [r for r in records if r.kept]
    text = [f"{len(kept)} of {len(records)} frames are used ({count_reasons(records)})."]
    if verdict.content.shape != "full":
        text.append(f"The picture is {verdict.content.shape}; its border is cut off.")
    dark = sum(r.brightness < 0.15 for r in kept)
    if dark > 0.1 * len(kept):
        text.append(
            f"{dark} of them are dark: go nearer, 10-30 mm from tissue, or raise the light."
        )
    clipped = sum(r.saturated > 0.02 for r in kept)
    if clipped > 0.2 * len(kept):
        text.append(
            f"Strong highlights in {100 * clipped / len(kept):.0f} % of the frames: "
            "lower the light or the gain, and keep the tip 10-30 mm from tissue."
        )
    blurred = sum(r.reason == "blurred" for r in records)
    if blurred > 0.1 * len(records):
        text.append(f"{blurred} frames are blurred: film slower and clean the lens.")
    motion = np.array([r.motion_px for r in kept if np.isfinite(r.motion_px)])
    if len(motion) and np.percentile(motion, 90) > 60:
        text.append("The camera moves fast in places: film slower there.")
    if len(motion) and np.median(motion) < 1.0:
        text.append("The camera hardly moves: move it sideways, not only forward.")
    usable = float(masks.mean())
    if usable < 0.35:
        text.append(f"Only {100 * usable:.0f} % of the pixels are usable.")
    return tuple(text)
