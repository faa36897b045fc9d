"""The truth folder of a phantom: what is written, and how a benchmark reads it back.

Layout: `mesh.ply` (LPS mm; header comment SPACE=LPS), `cameras.json` (K, size, lens model and
distortion, one world_from_camera a frame: OpenCV axes, LPS mm, pixel centres at .5),
`depth/NNNNNN.npz` with z (h, w) float32 z-depth in mm on the DISTORTED image grid of the video
(NaN outside the round picture), valid (h, w) bool (wall hit and inside the round picture) and K,
`anatomy.json` (parameters, seed, landmarks, distances in mm). To project a depth:
ray = lens_rays(pixel, camera); point = z * ray.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.phantom.implicit import Mesh
from endorecon.scene import Camera

Array = NDArray[Any]


@dataclass(frozen=True)
class Truth:
    """Exact knowledge of a phantom's video."""

    folder: Path
    camera: Camera  # with its distortion, at the video's size
    world_from_camera: Array  # (n, 4, 4) LPS mm, at mid shutter
    time_s: Array  # (n,)
    mesh_path: Path
    landmarks: dict[str, Array]  # name -> (3,) LPS mm
    distances: dict[str, float]  # name -> mm
    seed: int

    @property
    def K(self) -> Array:
        return self.camera.K

    def __len__(self) -> int:
        return len(self.world_from_camera)

    def depth(self, frame: int) -> tuple[Array, Array]:
        """z (h, w) float32 in mm and valid (h, w) bool of a frame, on the distorted grid."""
        with np.load(self.folder / "depth" / f"{frame:06d}.npz") as f:
            return f["z"], f["valid"]


def load_truth(folder: Path) -> Truth:
    """The truth of a phantom folder (or of its truth/ folder); raises InputRefused if none."""
    folder = Path(folder)
    place = folder if (folder / "cameras.json").is_file() else folder / "truth"
    if not (place / "cameras.json").is_file():
        raise InputRefused("no phantom truth here", "make one with `endorecon phantom`", folder)
    c = json.loads((place / "cameras.json").read_text())
    a = json.loads((place / "anatomy.json").read_text())
    camera = Camera(
        c["width"],
        c["height"],
        c["fx"],
        c["fy"],
        c["cx"],
        c["cy"],
        c["model"],
        tuple(c["distortion"]),
    )
    return Truth(
        folder=place,
        camera=camera,
        world_from_camera=np.array([f["world_from_camera"] for f in c["frames"]]),
        time_s=np.array([f["time_s"] for f in c["frames"]]),
        mesh_path=place / "mesh.ply",
        landmarks={k: np.array(v) for k, v in a["landmarks"].items()},
        distances=dict(a["distances_mm"]),
        seed=int(a["seed"]),
    )


def write_json(path: Path, content: Any) -> None:
    """Indented JSON with sorted keys: same content, same bytes."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_cameras(path: Path, camera: Camera, poses: Array, times: Array) -> None:
    """cameras.json of the truth folder."""
    frames = [
        {"frame_index": i, "time_s": float(t), "world_from_camera": pose.tolist()}
        for i, (pose, t) in enumerate(zip(poses, times, strict=True))
    ]
    lens = {k: getattr(camera, k) for k in ("width", "height", "fx", "fy", "cx", "cy", "model")}
    write_json(
        path,
        lens
        | {
            "K": camera.K.tolist(),
            "distortion": list(camera.distortion),
            "convention": "world_from_camera, OpenCV axes, pixel centres at .5, z-depth",
            "space": "LPS",
            "unit": "mm",
            "frames": frames,
        },
    )


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Binary PLY with normals, LPS mm."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment SPACE=LPS\ncomment UNIT=mm\n"
        "comment endorecon phantom, not for clinical use\n"
        f"element vertex {len(mesh.vertices)}\n"
        + "".join(f"property float {k}\n" for k in ("x", "y", "z", "nx", "ny", "nz"))
        + f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    face = np.zeros(len(mesh.faces), np.dtype([("n", "u1"), ("v", "<i4", 3)]))
    face["n"], face["v"] = 3, mesh.faces
    body = np.concatenate([mesh.vertices, mesh.normals], 1).astype("<f4").tobytes()
    path.write_bytes(header.encode() + body + face.tobytes())


def write_calibration(path: Path, camera: Camera) -> None:
    """calibration.yaml as OpenCV's FileStorage writes it: pixel centres at 0, so cx, cy less .5."""
    K = camera.K.copy()
    K[:2, 2] -= 0.5
    # A pinhole is a Brown lens without distortion; OpenCV tools expect five numbers.
    numbers = camera.distortion or (0.0,) * 5

    def matrix(name: str, rows: int, cols: int, data: Array) -> str:
        body = ", ".join(repr(float(x)) for x in np.ravel(data))
        return (
            f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n"
            f"   data: [ {body} ]\n"
        )

    word = "fisheye" if camera.model == "OPENCV_FISHEYE" else "plumb_bob"
    path.write_text(
        "%YAML:1.0\n---\n"
        f"image_width: {camera.width}\nimage_height: {camera.height}\n"
        + matrix("camera_matrix", 3, 3, K)
        + f"distortion_model: {word}\n"
        + matrix("distortion_coefficients", 1, len(numbers), np.array(numbers))
    )
