"""Data set folders of the field -> images, camera and poses that `fit` takes; truth for scoring.

`open_dataset` knows a folder by its layout and says what is in it; `lay_out` writes `images/`
(links, in order), `camera.yaml` and `poses.json` beside each other; `truth_of` gives depths in mm
on the source's own pixel grid, for scoring only. Inside: world_from_camera, OpenCV axes, mm, pixel
centres at .5. Traps (each held by a test): C3VD's poses are column-major and its lens is a fisheye;
SCARED's camera-pose is taken as given (world from camera; `inverse=True` for the other reading) and
its video has left above right; EndoNeRF's camera stands still. Nothing is guessed: where a number
is missing or wrong, the folder is refused, never patched with an identity or a focal length of 500.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.geometry import nearest_rotation
from endorecon.io import calibration
from endorecon.io.atomic import write_text
from endorecon.scene import Camera

Array = NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """What a folder holds. `images` in order; a depth file (or "") for each, if there are any."""

    kind: str
    folder: Path
    images: tuple[Path, ...]
    camera: Camera | None = None
    poses: Array | None = None  # (n, 4, 4) world_from_camera
    unit: str = "mm"
    depths: tuple[str, ...] = ()
    depth_mm: float = 1.0  # mm a step of the depth files
    depth_max: int = 1 << 16  # this value and above means "no depth"; 0 always does
    video: Path | None = None  # SCARED: a video in place of images; its upper half is the left eye
    refusal: str = ""  # why `fit` does not take it

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Inputs:
    """What `fit` reads: images or a video, and a calibration and poses where there are any."""

    source: Path
    camera: Path | None
    poses: Path | None


def open_dataset(folder: Path) -> Dataset | None:
    """The data set in a folder, or None when it is an ordinary folder, a video, or nothing.

    Raises InputRefused when the layout is one of those known and its content is not sound.
    """
    from endorecon.io import dataset_layouts

    folder = Path(folder)
    if not folder.is_dir():
        return None
    for reader in dataset_layouts.READERS:
        found = reader(folder)
        if found is not None:
            return found
    return None


def inputs(
    source: Path, work: Path, camera: Path | None = None, poses: Path | None = None
) -> Inputs:
    """What `fit` is to read: the source itself, or a data set laid out in `work`.

    A camera or poses given by hand go before those of the data set.
    """
    found = open_dataset(source)
    if found is None:
        return Inputs(source, camera, poses)
    laid = lay_out(found, work)
    return Inputs(laid.source, camera or laid.camera, poses or laid.poses)


def lay_out(found: Dataset, work: Path) -> Inputs:
    """Write images/ (links), camera.yaml and poses.json of a data set. Raises EndoreconError."""
    if found.refusal:
        raise NotEnoughInformation(found.refusal, "choose another sequence", found.folder)
    from endorecon.io.dataset_check import check_geometry

    check_geometry(found)
    images = work / "images"
    images.mkdir(parents=True, exist_ok=True)
    if found.video is not None:
        _left_eye(found.video, images, len(found.poses) if found.poses is not None else None)
    for k, file in enumerate(found.images):
        link = images / f"{k:06d}{file.suffix.lower()}"
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(file.resolve())
        except OSError:  # a file system without links
            import shutil

            shutil.copyfile(file, link)
    camera = poses = None
    if found.camera is not None:
        camera = work / "camera.yaml"
        calibration.write_camera(found.camera, camera, {"from": found.kind})
    if found.poses is not None:
        poses = work / "poses.json"
        write_text(poses, json.dumps(_transforms(found), indent=1))
    return Inputs(images, camera, poses)


def _transforms(found: Dataset) -> dict[str, Any]:
    """Poses with the index of their frame, OpenCV axes ("camera_to_world")."""
    assert found.poses is not None
    return {
        "unit": found.unit, "from": found.kind,
        "frames": [
            {"frame_index": k, "camera_to_world": pose.tolist()}
            for k, pose in enumerate(found.poses)
        ],
    }  # fmt: skip


def _left_eye(video: Path, images: Path, count: int | None) -> None:
    """Frames of a video of two eyes one above the other: the upper half, as PNG."""
    import av
    import cv2

    with av.open(str(video)) as container:
        for k, frame in enumerate(container.decode(video=0)):
            if count is not None and k >= count:
                break
            picture = frame.to_ndarray(format="bgr24")
            good, data = cv2.imencode(".png", picture[: picture.shape[0] // 2])
            if not good:
                raise InputRefused(f"frame {k} of the video cannot be written", "", video)
            (images / f"{k:06d}.png").write_bytes(data.tobytes())


# -- truth ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetTruth:
    """Depths and poses of a data set, for scoring only."""

    dataset: Dataset

    @property
    def world_from_camera(self) -> Array | None:
        return self.dataset.poses

    def __len__(self) -> int:
        return len(self.dataset)

    def depth(self, frame: int) -> tuple[Array, Array]:
        """z (h, w) float32 in mm and valid (h, w) bool of a frame, on the source's own grid."""
        name = self.dataset.depths[frame]
        if not name:
            return np.zeros((2, 2), np.float32), np.zeros((2, 2), bool)
        raw = read_depth_image(Path(name))
        valid = (raw > 0) & (raw < self.dataset.depth_max) & np.isfinite(raw)
        return np.where(valid, raw * self.dataset.depth_mm, np.nan).astype(np.float32), valid


def truth_of(found: Dataset) -> DatasetTruth | None:
    """The truth of a data set, or None when it has no depths."""
    return DatasetTruth(found) if found.depths else None


def read_depth_image(file: Path) -> Array:
    """A depth image (h, w) float64 as stored: 16-bit or float; of XYZ images the third channel."""
    import cv2

    data = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if data is None:
        raise InputRefused("this depth image cannot be read", "copy it again", file)
    if data.ndim == 3:
        # cv2 turns the order of channels round: X, Y, Z come back as Z, Y, X
        data = data[..., 0]
    if data.dtype == np.uint8:
        raise InputRefused("an 8-bit depth image is no measurement", "take the 16-bit file", file)
    return np.asarray(data, float)


# -- shared by the layouts -----------------------------------------------------------------------


def natural(path: Path) -> tuple[Any, ...]:
    """Sort key: numbers in names by value."""
    return tuple(int(t) if t.isdigit() else t.lower() for t in re.split(r"(\d+)", path.name))


def pictures(folder: Path, pattern: str = r".*\.(png|jpg|jpeg|bmp)") -> tuple[Path, ...]:
    """Images of a folder whose names match, in natural order."""
    if not folder.is_dir():
        return ()
    match = re.compile(pattern, re.IGNORECASE)
    return tuple(sorted((p for p in folder.iterdir() if match.fullmatch(p.name)), key=natural))


def numbers(text: str) -> list[float]:
    """All numbers in a text."""
    return [float(x) for x in re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)]


def rigid(poses: Array, where: Path) -> Array:
    """Poses (n, 4, 4) checked and made exact; InputRefused when they are no rigid transforms."""
    R = poses[:, :3, :3]
    square = R @ R.transpose(0, 2, 1)
    if not np.isfinite(poses).all() or not np.allclose(poses[:, 3], [0, 0, 0, 1], atol=1e-5):
        raise InputRefused(
            "the last row of the poses is not 0 0 0 1: rows and columns are exchanged",
            "check the layout of the file", where,
        )  # fmt: skip
    if (np.linalg.det(R) < 0).any() or not np.allclose(square, np.eye(3), atol=1e-2):
        raise InputRefused("the poses are mirrored or scaled, not rigid", "check the file", where)
    out = np.array(poses, float)
    for k in range(len(out)):
        out[k, :3, :3] = nearest_rotation(R[k])
    return out


def image_size(file: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    import cv2

    data = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if data is None:
        raise InputRefused("this image cannot be read", "copy it again", file)
    return int(data.shape[1]), int(data.shape[0])


def fisheye_of_polynomial(
    size: tuple[int, int], centre: tuple[float, float], a: list[float], affine: list[float],
    where: Path,
) -> Camera:  # fmt: skip
    """The Kannala-Brandt lens of an omnidirectional polynomial (Scaramuzza): a0 a2 a3 a4.

    A pixel at radius r from the centre looks along (x, y, a0 + a2 r^2 + a3 r^3 + a4 r^4). Fitted
    by least squares over the image; refused when it misses by more than half a pixel.
    """
    c, d, e = affine
    if abs(d) > 2e-3 or abs(e) > 2e-3:
        raise InputRefused("this lens is sheared, which no camera model here has", "", where)
    corner = float(np.linalg.norm([max(m, n - m) for m, n in zip(centre, size, strict=True)]))
    r = np.linspace(1.0, corner, 400)
    z = a[0] + a[1] * r**2 + a[2] * r**3 + a[3] * r**4
    angle = np.arctan2(r, z)
    if a[0] <= 0 or (np.diff(angle) <= 0).any():
        raise InputRefused("this lens polynomial is not one of a camera", "check its signs", where)
    table = np.stack([angle ** (2 * k + 1) for k in range(5)], -1)
    found, *_ = np.linalg.lstsq(table, r, rcond=None)
    miss = float(np.abs(table @ found - r).max())
    if miss > 0.5:
        raise InputRefused(f"no fisheye model fits this lens ({miss:.1f} pixels off)", "", where)
    k = tuple(float(x / found[0]) for x in found[1:])
    # C3VD's centre, taken with pixel centres at .5, lies 0.2 px from that of an independent
    # OpenCV calibration of the same scope; with centres at 0 or 1 it would be 0.5 px farther off.
    return Camera(
        size[0], size[1], float(found[0] * c), float(found[0]), centre[0], centre[1],
        "OPENCV_FISHEYE", k,
    )  # fmt: skip


def safe_members(archive: Any, pattern: str, limit: int = 1 << 22) -> list[Any]:
    """Plain files of a tar whose base name matches, none larger than `limit`; nothing is unpacked.

    Names are only ever used as labels, so that "../x" and links lead nowhere.
    """
    match = re.compile(pattern)
    found = [m for m in archive if m.isfile() and match.fullmatch(os.path.basename(m.name))]
    if any(m.size > limit for m in found):
        raise InputRefused("a file in the archive is larger than it can be", "", archive.name)
    return sorted(found, key=lambda m: natural(Path(os.path.basename(m.name))))
