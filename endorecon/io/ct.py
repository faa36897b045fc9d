"""CT volumes in, surfaces out. LPS, millimetres, HU; nothing of the patient but the anatomy.

`hu` is indexed (k, j, i); `lps_from_index` maps (i, j, k, 1) to LPS mm and may be oblique, so a
tilted gantry needs no resampling. Iso-surfaces are sub-voxel marching cubes (Lewiner, 2003) with
normals that point to the air side. DICOM folders, NIfTI, NRRD, MHD and `.seg.nrrd` are read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused
from endorecon.geometry import apply
from endorecon.io import dicom
from endorecon.io.meshes import FORMATS as MESH_FORMATS
from endorecon.io.meshes import as_surface, read_mesh
from endorecon.io.slicer import affine_of_image, read_segment
from endorecon.scene import Surface

Array = NDArray[Any]
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mhd", ".mha")
_THICK_MM = 1.5


@dataclass(frozen=True)
class CtVolume:
    """A CT in HU with its exact grid. `study` is a hash of content, the only name it has."""

    hu: Array  # (k, j, i) float32
    lps_from_index: Array  # (4, 4), index order (i, j, k), mm
    thickness_mm: float
    kernel: str
    study: str
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> Array:
        """Voxel edges (3,) in mm along i, j, k."""
        return np.linalg.norm(self.lps_from_index[:3, :3], axis=0)


def read_ct(path: Path, series: str | None = None) -> CtVolume:
    """A CT volume from a DICOM folder or a NIfTI, NRRD or MHD file.

    Raises InputRefused for what is not one sound CT series (ecosystem.md, faults 25-29).
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.exists():
        raise InputRefused("The CT does not exist", "check the name", path)
    kernel = ""
    notes: tuple[str, ...] = ()
    sitk.ProcessObject.GlobalWarningDisplayOff()
    try:
        if path.is_dir():
            chosen, notes = dicom.choose_series(path, series)
            files, affine = dicom.ordered_geometry(chosen, path)
            kernel = _kernel(chosen.headers[0].get("ConvolutionKernel"))
            thickness = chosen.thickness_mm
            hu = _read_slices(files)
        elif path.name.lower().endswith(_VOLUMES):
            image = sitk.ReadImage(str(path))
            if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
                raise InputRefused("The volume is not one 3D grey image", "export the CT", path)
            hu = sitk.GetArrayFromImage(image).astype(np.float32)
            affine = affine_of_image(image)
            thickness = float(image.GetSpacing()[2])
        else:
            raise InputRefused(
                "This is no CT that I can read",
                f"give a DICOM folder, {', '.join(_VOLUMES)}, or a {', '.join(MESH_FORMATS)} mesh",
                path,
            )
    except RuntimeError as error:  # SimpleITK's only exception; its text may name files and tags
        raise InputRefused(
            "The CT cannot be decoded, or does not say how it lies in the patient",
            "export it as NIfTI, NRRD in LPS or RAS, or uncompressed DICOM",
            path,
        ) from error
    if not np.isfinite(hu).all():
        raise InputRefused("The CT holds values that are not numbers", "export it again", path)
    hu = np.maximum(hu, -1024.0)  # padding outside the scan's circle may be -2000 or less
    size = np.array(hu.shape[::-1]) * np.linalg.norm(affine[:3, :3], axis=0)
    if not 5 <= size.max() <= 2500:
        raise InputRefused(
            f"The CT is {size.max():.4g} mm long, so its spacing is not in millimetres",
            "correct the spacing",
            path,
        )
    if not hu.min() < -500 or not hu.max() > -200:
        raise InputRefused(
            f"The values run from {hu.min():.0f} to {hu.max():.0f}: no air beside tissue, so "
            "these are not Hounsfield units",
            "check slope and intercept",
            path,
        )
    if thickness > _THICK_MM:
        notes = (
            *notes,
            f"CT slices are {thickness:g} mm thick: no distance is known better than that",
        )
    digest = hashlib.sha256(np.ascontiguousarray(hu.astype("<i2")).tobytes())
    digest.update(affine.astype("<f8").tobytes())
    return CtVolume(hu, affine, float(thickness), kernel, digest.hexdigest()[:16], tuple(notes))


def _kernel(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _read_slices(files: tuple[Path, ...]) -> Array:
    import SimpleITK as sitk

    planes = []
    for file in files:  # one by one: each slice has its own slope, and order is ours
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        planes.append(sitk.GetArrayFromImage(reader.Execute())[0].astype(np.float32))
    return np.stack(planes)


def ct_surface(
    ct: CtVolume,
    iso_hu: float,
    roi: tuple[Array, Array] | None = None,
    min_island: float = 0.01,
) -> tuple[Surface, int]:
    """Iso-surface in LPS mm, normals towards lower HU, and how many islands were removed.

    `roi`: two opposite corners (3,) in LPS mm; `min_island`: islands smaller than this share of
    the area of the largest part are removed. Raises InputRefused when the surface is empty.
    """
    from skimage.measure import marching_cubes

    hu, start = ct.hu, np.zeros(3, int)
    if roi is not None:
        hu, start = _crop(ct, roi)
    if min(hu.shape) < 2 or not hu.min() < iso_hu < hu.max():
        raise InputRefused(
            f"The CT has no surface at {iso_hu:g} HU in the region of interest",
            "check the threshold, the region, and that these are Hounsfield units",
        )
    # 'ascent' winds the triangles so that the right-hand normal points to lower values
    vertices, faces, _, _ = marching_cubes(
        hu, iso_hu, gradient_direction="ascent", allow_degenerate=False
    )
    index = vertices[:, ::-1] + start  # (k, j, i) -> (i, j, k) mirrors once
    faces = faces[:, ::-1].astype(np.int64)
    if np.linalg.det(ct.lps_from_index[:3, :3]) < 0:
        faces = faces[:, ::-1]
    points = apply(ct.lps_from_index, index.astype(float))
    points, faces, removed = remove_islands(points, faces, min_island)
    return as_surface(points, faces), removed


def edge_hu(ct: CtVolume, roi: tuple[Array, Array] | None = None) -> float:
    """The HU at which the borders of air are steepest: half way between air and what is behind.

    There a blurred border lies where the true one is; any other threshold moves the whole surface,
    by about 0.06 mm for 80 HU at half-millimetre voxels. Found from the volume, because the tissue
    behind (mucosa, plastic, bone) is not known. Raises InputRefused where nothing borders on air.
    """
    from scipy import ndimage

    hu = ct.hu if roi is None else _crop(ct, roi)[0]
    if min(hu.shape, default=0) < 5:
        raise InputRefused("The CT does not cover the region of interest", "give the right CT")
    inner = (slice(1, -1),) * 3
    near = (ndimage.minimum_filter(hu, 3) < -700) & (hu > -900) & (hu < 600)
    place = np.argwhere(near[inner]) + 1  # (n, 3) as (k, j, i)
    place = place[:: max(1, len(place) // 300_000)]
    slope = np.zeros((len(place), 3))  # along i, j, k
    for axis in range(3):
        step = np.eye(3, dtype=int)[2 - axis]
        slope[:, axis] = (hu[tuple((place + step).T)] - hu[tuple((place - step).T)]) / 2
    steep = np.linalg.norm(slope @ np.linalg.inv(ct.lps_from_index[:3, :3]), axis=1)
    edges = np.arange(-900.0, 601.0, 50.0)
    which = np.digitize(hu[tuple(place.T)], edges) - 1
    typical = np.zeros(len(edges) - 1)
    for k in range(len(typical)):
        mine = steep[which == k]
        typical[k] = np.median(mine) if len(mine) >= 50 else 0.0
    if not typical.any():
        raise InputRefused(
            "Nothing borders on air in this part of the CT", "check that it is the right CT"
        )
    # The first hill from the air; a later one is bone behind the mucosa. Its middle, not its top:
    # the top is flat and wanders with the noise.
    top = next(k for k in range(len(typical)) if typical[k] >= typical[k : k + 5].max())
    hill = np.flatnonzero(typical < 0.95 * typical[top])
    first = int(hill[hill < top].max(initial=-1)) + 1
    end = int(hill[hill > top].min(initial=len(typical)))
    centres = edges[:-1] + 25.0
    return float(np.average(centres[first:end], weights=typical[first:end]))


def _crop(ct: CtVolume, roi: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = np.minimum(*roi), np.maximum(*roi)
    corners = np.array(np.meshgrid(*zip(low, high))).reshape(3, -1).T
    index = apply(np.linalg.inv(ct.lps_from_index), corners)
    size = np.array(ct.hu.shape[::-1])
    a = np.clip(np.floor(index.min(0)).astype(int), 0, size)
    b = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, size)
    return ct.hu[a[2] : b[2], a[1] : b[1], a[0] : b[0]], a


def remove_islands(vertices: Array, faces: Array, min_share: float) -> tuple[Array, Array, int]:
    """The mesh without parts smaller than `min_share` of the largest part's area."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(faces) == 0:
        return vertices, faces, 0
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), [len(vertices)] * 2)
    count, label = connected_components(graph, directed=False)
    corners = vertices[faces]
    areas = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    total = np.bincount(label[faces[:, 0]], areas, minlength=count)
    keep = total >= min_share * total.max()
    kept = faces[keep[label[faces[:, 0]]]]
    used = np.unique(kept)
    renumber = np.zeros(len(vertices), np.int64)
    renumber[used] = np.arange(len(used))
    return vertices[used], renumber[kept], int(((~keep) & (total > 0)).sum())


def read_ct_surface(
    path: Path,
    iso_hu: float,
    series: str | None = None,
    segment: str | None = None,
    roi: tuple[Array, Array] | None = None,
    min_island: float = 0.01,
) -> tuple[Surface, CtVolume | None, tuple[str, ...]]:
    """The CT side of an evaluation: surface in LPS mm, the volume if there is one, warnings."""
    path = Path(path)
    if path.suffix.lower().lstrip(".") in MESH_FORMATS:
        mesh = read_mesh(path)
        if mesh.unit != "mm" or mesh.space != "LPS":
            raise InputRefused(
                "The CT mesh is a reconstruction, not in LPS millimetres", "give the CT", path
            )
        return mesh, None, ()
    if path.name.lower().endswith(".seg.nrrd"):
        mask, affine = read_segment(path, segment)
        if not mask.any() or mask.all():
            raise InputRefused("The segment is empty", "choose another segment", path)
        hu = np.where(np.pad(mask, 1), 1000.0, -1000.0).astype(np.float32)
        padded = affine.copy()
        padded[:3, 3] = apply(affine, np.array([-1.0, -1.0, -1.0]))
        volume = CtVolume(hu, padded, float("nan"), "", "segmentation")
        surface, removed = ct_surface(volume, 0.0, roi, min_island)
        note = "the CT surface comes from a segmentation: its steps are voxels, not HU"
        return surface, None, (note,)
    volume = read_ct(path, series)
    surface, removed = ct_surface(volume, iso_hu, roi, min_island)
    notes = volume.warnings
    if removed:
        notes = (*notes, f"{removed} small islands of the CT surface were removed")
    return surface, volume, notes


def write_ct(path: Path, ct: CtVolume) -> None:
    """Write NRRD or NIfTI by suffix, or a DICOM series into a folder (no suffix).

    Raises ValueError when the grid is oblique (tilted gantry).
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.suffix:
        dicom.write_series(path, ct.hu, ct.lps_from_index, ct.study)
        return
    axes = ct.lps_from_index[:3, :3] / ct.spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
        raise ValueError("a tilted grid cannot be written without resampling")
    image = sitk.GetImageFromArray(np.round(ct.hu).clip(-32768, 32767).astype(np.int16))
    image.SetSpacing([float(s) for s in ct.spacing])
    image.SetDirection([float(x) for x in axes.ravel()])
    image.SetOrigin([float(x) for x in ct.lps_from_index[:3, 3]])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
