"""One reader a data set layout: a folder -> Dataset, or None when it is not of this layout.

C3VD v1/v2 (Bobrow 2023, 2025), SCARED (Allan 2021), Hamlyn / EndoDepthAndMotion (Recasens 2021),
EndoNeRF (Wang 2022), EndoSLAM (Ozyoruk 2021), SERV-CT (Edwards 2022), SimCol3D (Rau 2023). A reader
claims a folder only by files that no other layout has; what it then finds unsound it refuses.
"""

from __future__ import annotations

import configparser
import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.errors import InputRefused
from endorecon.io import calibration
from endorecon.io import datasets as ds
from endorecon.io.datasets import Dataset
from endorecon.scene import Camera

Array = NDArray[Any]

# -- C3VD ----------------------------------------------------------------------------------------


def c3vd(folder: Path) -> Dataset | None:
    """`N_color.png`, `NNNN_depth.tiff`, `pose.txt` (registered), or `rgb/`, `depth/`, `pose.txt`.

    Poses: camera to world, 16 numbers a line, column by column, mm. Depth: 65535 = 100 mm of z.
    """
    place = folder / "registered" if (folder / "registered").is_dir() else folder
    pose = next((p for p in (place / "pose.txt", folder / "pose.txt") if p.is_file()), None)
    if pose is None:
        return None
    images = ds.pictures(place, r"\d+_color\.png") or ds.pictures(place / "rgb")
    depths = ds.pictures(place, r"\d+_depth\.tiff?") or ds.pictures(place / "depth", r".*\.tiff?")
    if not images:
        return None
    poses = c3vd_poses(pose)
    if len(poses) != len(images):
        raise InputRefused(
            f"{len(images)} images and {len(poses)} poses do not belong together",
            "copy the whole sequence", folder,
        )  # fmt: skip
    camera = None
    for file in (place / "config.ini", folder / "config.ini"):
        if file.is_file() and camera is None:
            camera = c3vd_camera(file, ds.image_size(images[0]))
    return Dataset(
        "C3VD", folder, images, camera, poses, depths=_paired(images, depths),
        depth_mm=100.0 / 65535.0, depth_max=65535,
    )  # fmt: skip


def c3vd_poses(file: Path) -> Array:
    """world_from_camera (n, 4, 4); refused when the file is row-major or no pose file."""
    rows = [ds.numbers(x) for x in file.read_text("utf-8").splitlines() if x.strip()]
    if not rows or any(len(r) != 16 for r in rows):
        raise InputRefused("a pose here has 16 numbers a line", "check the file", file)
    return ds.rigid(np.array(rows).reshape(-1, 4, 4).transpose(0, 2, 1), file)


def c3vd_camera(file: Path, size: tuple[int, int]) -> Camera:
    """The fisheye of a config.ini with `cx cy a0 (a1) a2 a3 a4 c d e`."""
    text = file.read_text("utf-8")
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(text if text.lstrip().startswith("[") else "[camera]\n" + text)
        values = {k.lower(): v for s in parser.sections() for k, v in parser.items(s)}
        values.setdefault("a0", values.get("ao", ""))
        a = [float(values[k]) for k in ("a0", "a2", "a3", "a4")]
        affine = [float(values.get(k, d)) for k, d in (("c", 1.0), ("d", 0.0), ("e", 0.0))]
        centre = (float(values["cx"]), float(values["cy"]))
    except (configparser.Error, KeyError, ValueError) as error:
        raise InputRefused(
            f"the lens of this data set cannot be read ({error})", "give --camera", file
        ) from error
    found = ds.fisheye_of_polynomial(size, centre, a, affine, file)
    if float(values.get("width", size[0])) != size[0]:
        raise InputRefused("the lens is given for another image size", "give --camera", file)
    return found


# -- SCARED --------------------------------------------------------------------------------------


def scared(folder: Path) -> Dataset | None:
    """A keyframe folder: `endoscope_calibration.yaml`, `data/rgb.mp4`, `data/frame_data(.tar.gz)`.

    Depths of the scene points are XYZ images in mm (channel 3 is z). The pose is read as
    world_from_camera; `scared_poses(..., inverse=True)` is the other reading.
    """
    file = folder / "endoscope_calibration.yaml"
    if not file.is_file():
        return None
    left = folder / "Left_Image.png"
    frames = scared_frames(folder / "data")
    if not frames:
        refusal = "this keyframe has one picture and no video: there is no parallax in it"
        return Dataset("SCARED", folder, (left,) if left.is_file() else (), refusal=refusal)
    # The size of the left eye: from its still picture, else half the video's height.
    video = folder / "data" / "rgb.mp4"
    images = ds.pictures(folder / "data" / "left") or ds.pictures(folder / "data" / "images")
    if not images and not video.is_file():
        raise InputRefused("there is no data/rgb.mp4 in this keyframe", "copy it", folder)
    size = ds.image_size(images[0] if images else left) if (images or left.is_file()) else None
    camera = scared_camera(file, size)
    poses = scared_poses(frames, file)
    if images and len(images) != len(poses):
        raise InputRefused(
            f"{len(images)} images and {len(poses)} poses do not belong together", "", folder
        )
    return Dataset(
        "SCARED", folder, images, camera, poses, video=None if images else video,
        depths=_paired_by_count(folder / "data" / "scene_points", len(poses)),
    )  # fmt: skip


def scared_frames(data: Path) -> list[dict[str, Any]]:
    """All frame_dataNNNNNN.json in order, from a folder or frame_data.tar.gz (read in place)."""
    pattern = r"frame_data\d+\.json"
    place = data / "frame_data"
    texts: list[str] = []
    try:
        if place.is_dir():
            texts = [p.read_text("utf-8") for p in ds.pictures(place, pattern)]
        elif (data / "frame_data.tar.gz").is_file():
            with tarfile.open(data / "frame_data.tar.gz") as archive:
                for member in ds.safe_members(archive, pattern):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    texts.append(stream.read().decode("utf-8"))
        return [json.loads(t) for t in texts]
    except (OSError, ValueError, tarfile.TarError) as error:
        raise InputRefused("the frame data cannot be read", "copy it again", data) from error


def scared_poses(frames: list[dict[str, Any]], where: Path, inverse: bool = False) -> Array:
    """world_from_camera (n, 4, 4) of `camera-pose`, relative to the first frame, mm."""
    try:
        poses = np.array([f["camera-pose"] for f in frames], float).reshape(-1, 4, 4)
    except (KeyError, ValueError) as error:
        raise InputRefused("a frame of this keyframe has no camera-pose", "", where) from error
    poses = ds.rigid(poses, where)
    return np.linalg.inv(poses) if inverse else poses


def scared_camera(file: Path, size: tuple[int, int] | None) -> Camera:
    """The left camera M1, D1 of an OpenCV FileStorage file."""
    import yaml

    lines = [x for x in file.read_text("utf-8").splitlines() if not x.startswith("%YAML")]
    try:
        data = yaml.safe_load("\n".join(lines).replace("!!opencv-matrix", ""))
        wide, high = size or (1280, 1024)
        mapping = {"image_width": wide, "image_height": high, "M1": data["M1"], "D1": data["D1"]}
        return calibration.camera_from_mapping(mapping)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputRefused("this calibration has no M1 and D1", "copy it again", file) from error


# -- Hamlyn, EndoNeRF, EndoSLAM, SERV-CT -----------------------------------------------------------


def hamlyn(folder: Path) -> Dataset | None:
    """`color/ depth/ intrinsics.txt`, or `rectifiedNN/image01 depth01`; uint16 mm; no poses."""
    place = folder / folder.name if (folder / folder.name).is_dir() else folder
    file = next(
        (p for p in (folder / "intrinsics.txt", place / "intrinsics.txt") if p.is_file()), None
    )
    images = ds.pictures(place / "color") or ds.pictures(place / "image01")
    if file is None or not images:
        return None
    camera = camera_of_matrix(file, ds.image_size(images[0]))
    depths = ds.pictures(place / "depth") or ds.pictures(place / "depth01")
    return Dataset("Hamlyn", folder, images, camera, depths=_paired(images, depths))


def camera_of_matrix(file: Path, size: tuple[int, int]) -> Camera:
    """A pinhole from a 3x3, 3x4 or 4x4 matrix in a text file (OpenCV's pixel centres)."""
    v = ds.numbers(file.read_text("utf-8"))
    if len(v) not in (9, 12, 16):
        raise InputRefused("intrinsics here are a 3x3 matrix", "give --camera", file)
    step = {9: 3, 12: 4, 16: 4}[len(v)]
    fx, cx, fy, cy = v[0], v[2], v[step + 1], v[step + 2]
    if not (fx > 0 and fy > 0 and 0 < cx < size[0] and 0 < cy < size[1]):
        raise InputRefused("these intrinsics do not fit the images", "give --camera", file)
    return Camera(size[0], size[1], fx, fy, cx + 0.5, cy + 0.5)


def endonerf(folder: Path) -> Dataset | None:
    """`images/ depth/ masks/ poses_bounds.npy`: a camera that stands still before moving tissue."""
    file = next((folder / n for n in ("poses_bounds.npy", "pose_bounds.npy")
                 if (folder / n).is_file()), None)  # fmt: skip
    images = ds.pictures(folder / "images")
    if file is None or not images:
        return None
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputRefused("poses_bounds.npy cannot be read", "copy it again", file) from error
    if rows.ndim != 2 or rows.shape[1] != 17 or len(rows) != len(images):
        raise InputRefused("poses_bounds.npy has 17 numbers for each image", "check it", file)
    poses = llff_poses(rows)
    h, w, f = (float(x) for x in rows[0, :15].reshape(3, 5)[:, 4])
    if (round(w), round(h)) != ds.image_size(images[0]):
        raise InputRefused("poses_bounds.npy belongs to images of another size", "", file)
    camera = Camera(round(w), round(h), f, f, w / 2, h / 2)
    moved = float(np.ptp(poses[:, :3, 3], axis=0).max())
    near = float(rows[:, 15].min())
    still = moved < 0.005 * max(near, 1e-9)
    refusal = (
        "no parallax: in this EndoNeRF sequence the camera stands still and the tissue moves"
        if still
        else ""
    )
    return Dataset(
        "EndoNeRF", folder, images, camera, poses, unit="unitless",
        depths=_paired(images, ds.pictures(folder / "depth")), refusal=refusal,
    )  # fmt: skip


def llff_poses(rows: Array) -> Array:
    """world_from_camera (n, 4, 4) of poses_bounds rows: columns are down, right, backwards."""
    m = rows[:, :15].reshape(-1, 3, 5)
    out = np.tile(np.eye(4), (len(rows), 1, 1))
    out[:, :3, 0], out[:, :3, 1], out[:, :3, 2] = m[:, :, 1], m[:, :, 0], -m[:, :, 2]
    out[:, :3, 3] = m[:, :, 3]
    return out


def endoslam(folder: Path) -> Dataset | None:
    """`Frames/`, `Poses/*.csv` (tX tY tZ rX rY rZ rW), `Pixelwise Depths/`: the Unity part.

    Unity's axes are left-handed (y up): y is turned over. Its lengths have no stated unit. Poses of
    the robot's hand (the real part) are not the camera's and are left out.
    """
    images = ds.pictures(folder / "Frames")
    tables = sorted((folder / "Poses").glob("*.csv")) if (folder / "Poses").is_dir() else []
    if not images or not (folder / "Poses").is_dir():
        return None
    poses = unity_poses(tables[0]) if len(tables) == 1 else None
    if poses is not None and len(poses) != len(images):
        raise InputRefused(
            f"{len(images)} images and {len(poses)} poses do not belong together", "", folder
        )
    file = next((p for p in (folder / "cam.txt", folder.parent / "Calibration" / "cam.txt")
                 if p.is_file()), None)  # fmt: skip
    camera = None if file is None else camera_of_matrix(file, ds.image_size(images[0]))
    return Dataset("EndoSLAM", folder, images, camera, poses, unit="unitless")


def unity_poses(file: Path) -> Array | None:
    """world_from_camera (n, 4, 4), or None when the table is not of Unity's kind."""
    with open(file, encoding="utf-8-sig", newline="") as stream:
        rows = [{k.strip(): v for k, v in r.items() if k} for r in csv.DictReader(stream)]
    names = ("tX", "tY", "tZ", "rX", "rY", "rZ", "rW")
    if not rows or any(n not in rows[0] for n in names):
        return None
    try:
        v = np.array([[float(r[n]) for n in names] for r in rows])
    except ValueError as error:
        raise InputRefused("a pose of this table is not a number", "check it", file) from error
    flip = np.diag([1.0, -1.0, 1.0])
    out = []
    for row in v:
        R = geometry.rotation_from_quaternion(row[[6, 3, 4, 5]])
        out.append(geometry.compose(flip @ R @ flip, flip @ row[:3]))
    return ds.rigid(np.array(out), file)


def simcol(folder: Path) -> Dataset | None:
    """`FrameBuffer_NNNN.png Depth_NNNN.png` side by side (SimCol3D, Rau 2023); 65535 = 200 mm.

    Its poses and lens lie in files above this folder whose reading was not checked: they are left
    out, and poses are estimated.
    """
    images = ds.pictures(folder, r"FrameBuffer_\d+\.png")
    depths = ds.pictures(folder, r"Depth_\d+\.png")
    if not images or not depths:
        return None
    return Dataset(
        "SimCol3D", folder, images, depths=_paired(images, depths), depth_mm=200.0 / 65535.0
    )


def servct(folder: Path) -> Dataset | None:
    """`Left_rectified/ Right_rectified/ Ground_truth_CT/`: single stereo pairs with CT truth."""
    images = ds.pictures(folder / "Left_rectified")
    truth = folder / "Ground_truth_CT"
    if not images or not truth.is_dir():
        return None
    depths = ds.pictures(truth / "DepthL") or ds.pictures(truth / "Depth")
    return Dataset(
        "SERV-CT", folder, images, servct_camera(folder, images[0]), depths=_paired(images, depths),
        depth_mm=1.0 / 256.0,
        refusal=f"SERV-CT holds {len(images)} single stereo pairs, no video: there is no parallax "
        "between them for a monocular reconstruction",
    )  # fmt: skip


def servct_camera(folder: Path, image: Path) -> Camera | None:
    """The rectified left camera P1 of `Rectified_calibration/*.json`."""
    files = sorted((folder / "Rectified_calibration").glob("*.json"))
    if not files:
        return None
    try:
        found = json.loads(files[0].read_text("utf-8"))["P1"]
        p = np.array(found["data"] if isinstance(found, dict) else found, float).reshape(3, 4)
    except (ValueError, KeyError, TypeError) as error:
        raise InputRefused("this calibration has no P1", "copy it again", files[0]) from error
    w, h = ds.image_size(image)
    return Camera(w, h, p[0, 0], p[1, 1], p[0, 2] + 0.5, p[1, 2] + 0.5)


def _paired(images: tuple[Path, ...], depths: tuple[Path, ...]) -> tuple[str, ...]:
    """The depth of each image by its number; () when there are none, "" where one is missing."""
    if not depths:
        return ()
    number = {ds.numbers(p.stem.replace("-", " "))[-1]: str(p) for p in depths
              if ds.numbers(p.stem)}  # fmt: skip
    out = []
    for k, image in enumerate(images):
        own = ds.numbers(image.stem.replace("-", " "))
        out.append(number.get(own[-1] if own else float(k), ""))
    return tuple(out)


def _paired_by_count(folder: Path, count: int) -> tuple[str, ...]:
    depths = ds.pictures(folder, r".*\.tiff?")
    return tuple(str(p) for p in depths) if len(depths) == count else ()


READERS: tuple[Callable[[Path], Dataset | None], ...] = (
    c3vd, scared, servct, hamlyn, endonerf, endoslam, simcol,
)  # fmt: skip
