"""Views in the run folder, and back without a bit of difference.

frames/NNNNNN.png (undistorted pictures), masks/NNNNNN.png (255 = usable), transforms.json
(nerfstudio's convention), frames.csv, sparse/points.npz, and views.json, which holds the poses at
full precision and is written last: its presence means that all the rest is whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from endorecon.errors import InputRefused
from endorecon.io import atomic, trajectories
from endorecon.io.rundir import RunDir
from endorecon.scene import Camera, FrameRecord, SparsePoints, Views


def is_complete(run: Path) -> bool:
    """True when `save` has finished here."""
    return (run / "views.json").is_file()


def write_records(run: Path, records: Iterable[FrameRecord]) -> None:
    """frames.csv: one row a frame of the source, kept or dropped and why. Decimal points, UTC."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["frame_index", "time_s", "kept", "reason", "sharpness", "brightness", "saturated",
         "motion_px"]
    )  # fmt: skip
    for r in records:
        numbers = (r.sharpness, r.brightness, r.saturated, r.motion_px)
        writer.writerow(
            [
                r.frame_index,
                f"{r.time_s:.6f}",
                int(r.kept),
                r.reason,
                *(f"{x:.5g}" for x in numbers),
            ]
        )
    atomic.write_text(run / "frames.csv", out.getvalue())


def save(run: Path, views: Views) -> None:
    """Write views; views.json last."""
    import cv2

    def png(image: np.ndarray) -> bytes:
        done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        assert done
        return data.tobytes()

    for i, index in enumerate(views.frame_index):
        name = f"{int(index):06d}.png"
        atomic.write_bytes(run / "frames" / name, png(views.images[i][..., ::-1]))
        atomic.write_bytes(run / "masks" / name, png(views.masks[i].astype(np.uint8) * 255))
    trajectories.write_transforms(run / "transforms.json", views)
    p = views.points
    buffer = io.BytesIO()
    np.savez(
        buffer, xyz=p.xyz, error_px=p.error_px, point_of=p.point_of, view_of=p.view_of, uv=p.uv
    )
    atomic.write_bytes(run / "sparse" / "points.npz", buffer.getvalue())
    c = views.camera
    atomic.write_json(
        run / "views.json",
        {
            "camera": [c.width, c.height, c.fx, c.fy, c.cx, c.cy],
            "frame_index": [int(i) for i in views.frame_index],
            "time_s": [float(t) for t in views.time_s],
            "world_from_camera": views.world_from_camera.tolist(),
            "unit": views.unit,
            "space": views.space,
            "scale_source": views.scale_source,
        },
    )


def final(run: Path) -> Views:
    """The views at the poses that depths and surface belong to: those of transforms.json, which a
    fit writes anew when its rounds have settled them. Raises InputRefused as `load` does."""
    return load(run).with_poses(RunDir(run).cameras().world_from_camera)


def load(run: Path) -> Views:
    """Read what `save` wrote: the poses that the rounds begin with. Raises InputRefused when a part
    is missing or damaged."""
    import cv2

    try:
        v = json.loads((run / "views.json").read_text("utf-8"))
        names = [f"{int(i):06d}.png" for i in v["frame_index"]]
        images, masks = [], []
        for name in names:
            image = cv2.imread(str(run / "frames" / name), cv2.IMREAD_COLOR)
            mask = cv2.imread(str(run / "masks" / name), cv2.IMREAD_GRAYSCALE)
            if image is None or mask is None:
                raise ValueError(f"{name} cannot be read")
            images.append(image[..., ::-1])
            masks.append(mask > 127)
        with np.load(run / "sparse" / "points.npz", allow_pickle=False) as p:
            points = SparsePoints(p["xyz"], p["error_px"], p["point_of"], p["view_of"], p["uv"])
        width, height, fx, fy, cx, cy = v["camera"]
        return Views(
            Camera(int(width), int(height), fx, fy, cx, cy),
            np.stack(images),
            np.stack(masks),
            np.array(v["world_from_camera"], float),
            np.array(v["frame_index"], int),
            np.array(v["time_s"], float),
            points,
            v["unit"],
            v["space"],
            v["scale_source"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"The frames or poses of this run are damaged ({error})",
            "delete the run folder and run again",
            run,
        ) from error
