"""How the phantom's picture compares with a real one: texture, contrast, glare.

    python benchmarks/phantom_look.py [--seeds 0 1] [--levels default easy hard] [--frames 12]
                                      [--sheets FOLDER] [--out TABLE.md]

Reference: shared/data/nasal-endoscopy-a (ENDORECON_DATA), reduced to the size of our round picture;
without the data the benchmark says so and ends. Frames are spread over the clip and over the
flight, ours go through the video encoder, and all statistics are of the inner 94 % of the round
picture:

- SIFT keypoints in 10,000 pixels, OpenCV's detector at its default contrast threshold 0.04 (strong
  texture), at 0.02, and at the level the pose stage works with (COLMAP's peak 0.002);
- local contrast: median over the picture of standard deviation / mean in a window of 4 px sigma;
- white: share of pixels where every channel is at least 230 (the real camera's white lies at
  235-240: glare and overexposed walls).

The default level must agree within a factor 1.5 in all but the pose stage's own level, where the
noise and the encoder of two cameras are compared and no agreement is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from endorecon.config import PhantomConfig
from endorecon.io.atomic import write_text
from endorecon.phantom.anatomy import make_anatomy
from endorecon.phantom.film import Flight, film, fly
from endorecon.phantom.implicit import extract_mesh, sample_volume
from endorecon.phantom.optics import Stage, make_camera, make_stage
from endorecon.phantom.spoilers import Spoilers
from endorecon.phantom.texture import make_mucosa
from endorecon.phantom.video import VideoWriter
from endorecon.phantom.write import at_level

HEIGHT, WIDTH, FLIGHT = 480, 640, 100
MEASURES = ("sift 0.04", "sift 0.02", "sift poses", "contrast", "white %", "grey")
JUDGED = ("sift 0.04", "sift 0.02", "contrast", "white %")
THRESHOLDS = {"sift 0.04": 0.04, "sift 0.02": 0.02, "sift poses": 0.006}  # OpenCV's = 3 x COLMAP's


def decode(path: Path) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def real_frames(path: Path, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames spread over a clip, reduced so that the round picture has our size, and its mask."""
    every = list(decode(path))
    chosen = [every[round(k)] for k in np.linspace(0, len(every) - 1, count)]
    content = np.max([f.max(-1) for f in every[:: max(1, len(every) // 12)]], axis=0) > 25
    content = cv2.morphologyEx(content.astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9)))
    width = np.ptp(np.flatnonzero(content.any(0))) + 1
    scale = 2 * PhantomConfig().content_radius * HEIGHT / width
    size = (round(content.shape[1] * scale), round(content.shape[0] * scale))
    frames = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in chosen]
    mask = cv2.resize(content, size, interpolation=cv2.INTER_AREA)
    return frames, inner(mask)


def inner(content: np.ndarray) -> np.ndarray:
    """Content without its rim: 3 % of the diameter all round."""
    padded = np.pad(content.astype(np.uint8), 1)
    edge = 0.03 * 2 * PhantomConfig().content_radius * HEIGHT
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1] > edge


def build(family: str, seed: int, config: PhantomConfig) -> tuple[Any, Any]:
    """Anatomy and wall of a seed."""
    anatomy = make_anatomy(family, seed, config.size, config.asymmetry, config.roughness)
    volume = sample_volume(anatomy.distance, anatomy.low, anatomy.high, config.side_mm)
    return anatomy, extract_mesh(anatomy.distance, volume)


def our_frames(
    family: str, seed: int, level: str, count: int, built: tuple[Any, Any], config: PhantomConfig
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames spread over the flight of a seed, as the video shows them, and their mask."""
    config = at_level(config, level)
    anatomy, mesh = built
    rng = np.random.default_rng([seed, 2])
    mucosa = make_mucosa(
        rng, family, mesh, anatomy.distance, config.texture, config.vessels, config.relief
    )
    stage: Stage = make_stage(mesh, mucosa, config)
    camera = make_camera(WIDTH, HEIGHT, config)
    flight = fly(anatomy, stage, seed, FLIGHT, config)
    pick = np.linspace(0, FLIGHT - 1, count).round().astype(int)
    spoilers = Spoilers({}, seed, 1, (WIDTH, HEIGHT), 0.1)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "video.mp4"
        with VideoWriter(path, camera, config) as video:
            # One at a time: frames that do not follow each other share no exposure.
            for k in pick[:, None]:
                one = Flight(flight.times[k], flight.poses[k], flight.instants[k])
                for picture, _, _ in film(stage, camera, one, seed, spoilers):
                    video.add(picture)
        frames = list(decode(path))
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    r = np.hypot(u - WIDTH / 2, v - HEIGHT / 2)
    return frames, inner(r < config.content_radius * HEIGHT)


def statistics(frames: list[np.ndarray], mask: np.ndarray) -> dict[str, float]:
    """Means over the frames; see the head of this file."""
    rows = []
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        row = {}
        for name, threshold in THRESHOLDS.items():
            found = cv2.SIFT_create(0, 3, threshold).detect(grey, None)
            at = np.array([k.pt for k in found]).reshape(-1, 2).round().astype(int)
            at = at.clip(0, [frame.shape[1] - 1, frame.shape[0] - 1])
            row[name] = mask[at[:, 1], at[:, 0]].sum() / mask.sum() * 1e4
        g = grey.astype(np.float32)
        mean = cv2.GaussianBlur(g, (0, 0), 4.0)
        spread = np.sqrt(np.maximum(cv2.GaussianBlur(g * g, (0, 0), 4.0) - mean**2, 0))
        row["contrast"] = float(np.median((spread / np.maximum(mean, 4.0))[mask]))
        row["white %"] = 100.0 * float((frame.min(-1)[mask] >= 230).mean())
        row["grey"] = float(g[mask].mean())
        rows.append(row)
    return {k: float(np.mean([r[k] for r in rows])) for k in MEASURES}


def sheet(path: Path, frames: list[np.ndarray], columns: int = 4) -> None:
    """Contact sheet of the square round the middle of each frame."""
    h, w = frames[0].shape[:2]
    left = max(0, (w - h) // 2)
    cut = [cv2.resize(f[:, left : left + h], (320, 320)) for f in frames]
    rows = [np.hstack(cut[i : i + columns]) for i in range(0, len(cut) - columns + 1, columns)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def line(name: str, values: dict[str, float], reference: dict[str, float] | None) -> str:
    cells = [f"{values[k]:.3g}" for k in MEASURES]
    if reference is not None:
        for i, k in enumerate(MEASURES):
            cells[i] += f" ({values[k] / max(reference[k], 1e-9):.2f}x)"
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--families", nargs="+", default=["sinus", "colon"])
    p.add_argument("--levels", nargs="+", default=["default", "easy", "hard"])
    p.add_argument("--frames", type=int, default=12)
    p.add_argument("--sheets", type=Path)
    p.add_argument("--out", type=Path)
    a = p.parse_args()
    data = Path(os.environ.get("ENDORECON_DATA", "shared/data"))
    clip = data / "nasal-endoscopy-a" / "video.mp4"
    if not clip.is_file():
        print(f"SKIPPED: {clip} is not here; set ENDORECON_DATA to the folder of the real clips")
        return 0
    frames, mask = real_frames(clip, 60)
    reference = statistics(frames, mask)
    lines = ["| picture | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    lines.append(line("real nasal-endoscopy-a", reference, None))
    print("\n".join(lines), flush=True)
    other = data / "nasal-endoscopy-short" / "video.mp4"
    if other.is_file():
        lines.append(
            line("real nasal-endoscopy-short", statistics(*real_frames(other, 60)), reference)
        )
        print(lines[-1], flush=True)
    if a.sheets:
        a.sheets.mkdir(parents=True, exist_ok=True)
        sheet(a.sheets / "real.png", frames[::5])
    missed = []
    for family in a.families:
        built = {seed: build(family, seed, PhantomConfig()) for seed in a.seeds}
        for level in a.levels:
            found = []
            for seed in a.seeds:
                ours, our_mask = our_frames(
                    family, seed, level, a.frames, built[seed], PhantomConfig()
                )
                found.append(statistics(ours, our_mask))
                if a.sheets:
                    sheet(a.sheets / f"{family}-{level}-{seed}.png", ours)
            mean = {k: float(np.mean([f[k] for f in found])) for k in MEASURES}
            seeds = ", ".join(map(str, a.seeds))
            lines.append(line(f"{family}, {level}, seeds {seeds}", mean, reference))
            print(lines[-1], flush=True)
            if level == "default":
                missed += [
                    f"{family} {k}: {mean[k] / reference[k]:.2f}x"
                    for k in JUDGED
                    if not 1 / 1.5 <= mean[k] / reference[k] <= 1.5
                ]
    verdict = "; ".join(missed) if missed else "all within a factor 1.5 at the default level"
    print(verdict)
    if a.out:
        write_text(
            a.out,
            "# The phantom's look beside a real clip\n\n" + "\n".join(lines) + f"\n\n{verdict}\n",
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
