"""COLMAP models, text and binary, read and written without pycolmap.

pycolmap may not share a process with cv2 (two zlibs), so the parent process has its own reader.
Files hold camera-from-world poses with OpenCV axes and pixel centres at .5; here they become
world_from_camera. Format: colmap.github.io/format.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry
from endorecon.errors import InputRefused
from endorecon.io.atomic import write_bytes
from endorecon.scene import Camera, SparsePoints, Views

Array = NDArray[Any]

# COLMAP's model ids and numbers of parameters (src/colmap/sensor/models.h)
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
}
_MODEL_IDS = {name: k for k, (name, _) in _MODELS.items()}


@dataclass
class ColmapModel:
    """A COLMAP model: cameras by id, images by id, points with tracks."""

    cameras: dict[int, Camera] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # image id -> name
    camera_of: dict[int, int] = field(default_factory=dict)  # image id -> camera id
    world_from_camera: dict[int, Array] = field(default_factory=dict)
    keypoints: dict[int, Array] = field(default_factory=dict)  # image id -> (k, 2)
    keypoint_points: dict[int, Array] = field(default_factory=dict)  # -> (k,) point id or -1
    xyz: dict[int, Array] = field(default_factory=dict)  # point id -> (3,)
    color: dict[int, Array] = field(default_factory=dict)
    error_px: dict[int, float] = field(default_factory=dict)
    tracks: dict[int, Array] = field(default_factory=dict)  # point id -> (k, 2) image id, keypoint


def _camera(model: str, width: int, height: int, p: list[float]) -> Camera:
    if model == "SIMPLE_PINHOLE":
        return Camera(width, height, p[0], p[0], p[1], p[2])
    if model == "PINHOLE":
        return Camera(width, height, p[0], p[1], p[2], p[3])
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        k = (p[3], p[4] if model == "RADIAL" else 0.0, 0.0, 0.0)
        return Camera(width, height, p[0], p[0], p[1], p[2], "OPENCV", k)
    if model == "FULL_OPENCV":
        return Camera(width, height, p[0], p[1], p[2], p[3], "OPENCV", tuple(p[4:12]))
    if model == "OPENCV":
        return Camera(width, height, p[0], p[1], p[2], p[3], "OPENCV", tuple(p[4:8]))
    if model == "OPENCV_FISHEYE":
        return Camera(width, height, p[0], p[1], p[2], p[3], "OPENCV_FISHEYE", tuple(p[4:8]))
    raise InputRefused(
        f"the COLMAP camera model {model} is not supported",
        "use PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV or OPENCV_FISHEYE",
    )


def colmap_camera(camera: Camera, radial: bool = False) -> tuple[str, list[float]]:
    """COLMAP's name and parameters of a camera; `radial`: as RADIAL, of fx, k1 and k2 alone."""
    if radial:
        k1, k2 = camera.distortion[:2]
        return "RADIAL", [float(v) for v in (camera.fx, camera.cx, camera.cy, k1, k2)]
    p = [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)]
    k = [float(v) for v in camera.distortion]
    if camera.model == "OPENCV" and len(k) > 4:
        return "FULL_OPENCV", p + (k + [0.0] * 8)[:8]
    return camera.model, p + k


def read_colmap(folder: Path) -> ColmapModel:
    """A COLMAP model, binary or text; InputRefused when the folder holds none."""
    folder = Path(folder)
    binary = (folder / "images.bin").is_file()
    if not binary and not (folder / "images.txt").is_file():
        nested = folder / "sparse" / "0" if (folder / "sparse" / "0").is_dir() else folder / "0"
        if nested.is_dir():
            return read_colmap(nested)
        raise InputRefused("no COLMAP model here (images.bin or images.txt)", "", folder)
    try:
        return _read_binary(folder) if binary else _read_text(folder)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise InputRefused(
            f"this COLMAP model is damaged ({error})", "write it again", folder
        ) from error


def _pose(q: Any, t: Any) -> Array:
    return geometry.invert(geometry.compose(geometry.rotation_from_quaternion(np.asarray(q)), t))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        out = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return out

    def array(self, dtype: Any, count: int) -> Array:
        out = np.frombuffer(self.data, dtype, count, self.at)
        self.at += out.nbytes
        return out

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        out = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return out


_KEYPOINT = np.dtype([("uv", "<f8", 2), ("point", "<i8")])


def _read_binary(folder: Path) -> ColmapModel:
    out = ColmapModel()
    r = _Reader((folder / "cameras.bin").read_bytes())
    for _ in range(r.take("Q")[0]):
        key, model, w, h = r.take("iiQQ")
        name, count = _MODELS.get(model, (f"number {model}", 0))
        out.cameras[key] = _camera(name, w, h, r.array("<f8", count).tolist())
    r = _Reader((folder / "images.bin").read_bytes())
    for _ in range(r.take("Q")[0]):
        key, *pose = r.take("i7d")
        out.camera_of[key] = r.take("i")[0]
        out.names[key] = r.text()
        out.world_from_camera[key] = _pose(pose[:4], pose[4:])
        points = r.array(_KEYPOINT, r.take("Q")[0])
        out.keypoints[key] = points["uv"].copy()
        out.keypoint_points[key] = points["point"].copy()
    if (folder / "points3D.bin").is_file():
        r = _Reader((folder / "points3D.bin").read_bytes())
        for _ in range(r.take("Q")[0]):
            key, x, y, z, *rgb, error = r.take("Q3d3Bd")
            out.xyz[key] = np.array([x, y, z])
            out.color[key] = np.array(rgb, np.uint8)
            out.error_px[key] = error
            out.tracks[key] = r.array("<i4", 2 * r.take("Q")[0]).reshape(-1, 2).astype(int)
    return out


def _rows(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _read_text(folder: Path) -> ColmapModel:
    out = ColmapModel()
    for row in filter(str.strip, _rows(folder / "cameras.txt")):
        key, model, w, h, *p = row.split()
        out.cameras[int(key)] = _camera(model, int(w), int(h), [float(v) for v in p])
    rows = _rows(folder / "images.txt")
    for head, tail in zip(rows[::2], [*rows[1::2], ""]):
        key, *pose, camera, name = head.split(maxsplit=9)
        i = int(key)
        out.names[i], out.camera_of[i] = name, int(camera)
        numbers = [float(v) for v in pose]
        out.world_from_camera[i] = _pose(numbers[:4], numbers[4:])
        points = np.array(tail.split(), float).reshape(-1, 3)
        out.keypoints[i], out.keypoint_points[i] = points[:, :2], points[:, 2].astype(int)
    if (folder / "points3D.txt").is_file():
        for row in filter(str.strip, _rows(folder / "points3D.txt")):
            word = row.split()
            point = int(word[0])
            out.xyz[point] = np.array(word[1:4], float)
            out.color[point] = np.array(word[4:7], int).astype(np.uint8)
            out.error_px[point] = float(word[7])
            track = word[8:]
            out.tracks[point] = np.array(track, int).reshape(-1, 2)
    return out


def write_colmap(folder: Path, model: ColmapModel, text: bool = False) -> None:
    """Write cameras, images and points3D (.bin, or .txt when `text`)."""
    folder = Path(folder)
    for name, data in (_as_text(model) if text else _as_binary(model)).items():
        write_bytes(folder / name, data)


def _quaternion(world_from_camera: Array) -> tuple[float, ...]:
    m = geometry.invert(world_from_camera)
    return (*geometry.quaternion_from_rotation(m[:3, :3]), *m[:3, 3])


def _as_binary(model: ColmapModel) -> dict[str, bytes]:
    cameras = [struct.pack("<Q", len(model.cameras))]
    for key, c in model.cameras.items():
        name, p = colmap_camera(c)
        cameras.append(struct.pack(f"<iiQQ{len(p)}d", key, _MODEL_IDS[name], c.width, c.height, *p))
    images = [struct.pack("<Q", len(model.names))]
    for key, name in model.names.items():
        images.append(
            struct.pack(
                "<i7di", key, *_quaternion(model.world_from_camera[key]), model.camera_of[key]
            )
        )
        points = np.zeros(len(model.keypoints[key]), _KEYPOINT)
        points["uv"], points["point"] = model.keypoints[key], model.keypoint_points[key]
        images.append(name.encode() + b"\0" + struct.pack("<Q", len(points)) + points.tobytes())
    points3d = [struct.pack("<Q", len(model.xyz))]
    for key, xyz in model.xyz.items():
        track = np.asarray(model.tracks[key], "<i4")
        points3d.append(
            struct.pack(
                "<Q3d3BdQ", key, *xyz, *model.color[key].tolist(), model.error_px[key], len(track)
            )
            + track.tobytes()
        )
    return {
        "cameras.bin": b"".join(cameras),
        "images.bin": b"".join(images),
        "points3D.bin": b"".join(points3d),
    }


def _as_text(model: ColmapModel) -> dict[str, bytes]:
    def joined(*values: Any) -> str:
        return " ".join(f"{v:.17g}" if isinstance(v, float) else str(v) for v in values)

    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    for key, c in model.cameras.items():
        name, p = colmap_camera(c)
        cameras.append(joined(key, name, c.width, c.height, *p))
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D[] as X Y POINT3D_ID"]
    for key, name in model.names.items():
        pose = [float(v) for v in _quaternion(model.world_from_camera[key])]
        images.append(joined(key, *pose, model.camera_of[key], name))
        pairs = zip(model.keypoints[key].tolist(), model.keypoint_points[key].tolist())
        images.append(" ".join(joined(*uv, int(p)) for uv, p in pairs))
    points = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as IMAGE_ID POINT2D_IDX"]
    for key, xyz in model.xyz.items():
        numbers = [float(v) for v in xyz]
        track = np.asarray(model.tracks[key]).ravel().tolist()
        points.append(
            joined(key, *numbers, *model.color[key].tolist(), float(model.error_px[key]), *track)
        )
    texts = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}


def colmap_from_views(views: Views, names: list[str] | None = None) -> ColmapModel:
    """Views and their sparse points as a COLMAP model (image ids count from 1)."""
    out = ColmapModel(cameras={1: views.camera})
    p = views.points
    colors = np.full((len(p.xyz), 3), 128, np.uint8)
    tracks: dict[int, list[tuple[int, int]]] = {}
    for k in range(len(views)):
        rows = np.flatnonzero(p.view_of == k)
        out.names[k + 1] = names[k] if names else f"{int(views.frame_index[k]):06d}.png"
        out.camera_of[k + 1] = 1
        out.world_from_camera[k + 1] = views.world_from_camera[k]
        out.keypoints[k + 1] = p.uv[rows]
        out.keypoint_points[k + 1] = p.point_of[rows] + 1
        for j, row in enumerate(rows):
            tracks.setdefault(int(p.point_of[row]), []).append((k + 1, j))
            u, v = np.clip(
                p.uv[row].astype(int), 0, [views.camera.width - 1, views.camera.height - 1]
            )
            colors[p.point_of[row]] = views.images[k, v, u]
    for i, track in tracks.items():
        out.xyz[i + 1], out.color[i + 1] = p.xyz[i], colors[i]
        out.error_px[i + 1], out.tracks[i + 1] = float(p.error_px[i]), np.array(track)
    return out


def sparse_points(model: ColmapModel, view_of_image: dict[int, int]) -> SparsePoints:
    """The points of a COLMAP model, observed by the views that `view_of_image` names."""
    keys = sorted(model.xyz)
    point_of, view_of, uv = [], [], []
    for i, key in enumerate(keys):
        for image, keypoint in model.tracks[key].tolist():
            if image in view_of_image:
                point_of.append(i)
                view_of.append(view_of_image[image])
                uv.append(model.keypoints[image][keypoint])
    return SparsePoints(
        xyz=np.array([model.xyz[k] for k in keys], float).reshape(-1, 3),
        error_px=np.array([model.error_px[k] for k in keys], float),
        point_of=np.array(point_of, int),
        view_of=np.array(view_of, int),
        uv=np.array(uv, float).reshape(-1, 2),
    )
