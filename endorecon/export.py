"""A finished run in other programs' formats. Space and unit are those of the run, and said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from endorecon.errors import InputRefused, UsageError
from endorecon.io import colmap, meshes, slicer, trajectories, viewstore
from endorecon.io.rundir import RunDir
from endorecon.scene import Surface


def export_run(folder: Path, kind: str, out: Path) -> None:
    """Write the run's surface or cameras as `kind` to `out`.

    slicer: a folder with surface.ply in LPS mm by the run's registration, and the transform.
    Raises UsageError (unknown kind), InputRefused (not a run, or not registered where need be).
    """
    run = RunDir(folder)
    run.info()
    if kind in ("ply", "stl", "obj", "glb"):
        file = out if out.suffix.lower() == f".{kind}" else out / f"surface.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        meshes.write_mesh(file, run.surface())
    elif kind == "nerfstudio":
        views = viewstore.final(folder)
        files = [str((folder / f).resolve()) for f in run.cameras().files]
        out.mkdir(parents=True, exist_ok=True)
        trajectories.write_transforms(out / "transforms.json", views, files=files)
    elif kind == "colmap":
        views = viewstore.final(folder)
        names = [f"{int(i):06d}.png" for i in views.frame_index]
        out.mkdir(parents=True, exist_ok=True)
        colmap.write_colmap(out, colmap.colmap_from_views(views, names))
    elif kind == "tum":
        cameras = run.cameras()
        trajectories.write_tum(out, cameras.world_from_camera, cameras.time_s)
    elif kind == "slicer":
        _for_slicer(run, out)
    else:
        raise UsageError(f"There is no export format {kind!r}", "see `endorecon export --help`")


def _for_slicer(run: RunDir, out: Path) -> None:
    import json

    file = run.path / "evaluation" / "registration.json"
    if not file.is_file():
        raise InputRefused(
            "The run is not registered to a CT, so it has no place in Slicer's space",
            "run `endorecon evaluate` first",
            run.path,
        )
    matrix = np.array(json.loads(file.read_text("utf-8"))["ct_from_recon"], float)
    s = run.surface()
    moved = s.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    surface = Surface(moved, s.faces, s.colors, s.status, s.sigma * scale, "mm", "LPS")
    out.mkdir(parents=True, exist_ok=True)
    meshes.write_mesh(out / "surface.ply", surface)
    slicer.write_transform(out / "ct_from_recon.tfm", matrix)
