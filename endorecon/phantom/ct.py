"""The phantom's CT: Hounsfield units from the implicit anatomy, as DICOM series and NIfTI.

Conventions: hu is indexed (k, j, i) = (z, y, x); lps_from_index maps (i, j, k, 1) to LPS mm. The
tissue behind a wall is layered by depth: mucosa, bone, then soft tissue (sinus), or bowel wall
and fat (colon). Partial volume is real: the layered volume is made on the fine grid of the anatomy
with fractional coverage at the interface, blurred by the scanner's point spread and the slice
profile, and only then sampled at the voxels; noise is correlated in the plane as filtered
back-projection leaves it. Everything in the DICOM files is fixed by the seed: no date of today,
no patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.config import PhantomConfig
from endorecon.phantom.implicit import Volume

Array = NDArray[Any]

AIR = -1000.0
# (depth in mm below which the layer begins, HU)
LAYERS: dict[str, tuple[tuple[float, float], ...]] = {
    "sinus": ((0.0, 40.0), (1.2, 900.0), (2.8, 30.0)),
    "colon": ((0.0, 45.0), (3.0, -95.0)),
}
_UID_ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's root for generated UIDs


def layered(depth: Array, layers: tuple[tuple[float, float], ...], cell: float) -> Array:
    """HU of points at `depth` mm below the wall (negative = air), each step spread over a cell."""
    hu = np.full(depth.shape, AIR, np.float32)
    before = AIR
    for start, value in layers:
        hu += (value - before) * np.clip((depth - start) / cell + 0.5, 0.0, 1.0).astype(np.float32)
        before = value
    return hu


def make_ct(
    volume: Volume, family: str, rng: np.random.Generator, config: PhantomConfig
) -> tuple[Array, Array]:
    """hu (k, j, i) int16 and lps_from_index (4, 4) of a cavity given as a distance volume."""
    from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

    fine = layered(-volume.values, LAYERS[family], volume.spacing)
    sigma = config.ct_blur_mm / volume.spacing
    fine = gaussian_filter(fine, (sigma, sigma, 0.5 * sigma), mode="nearest")
    slab = max(1, round(config.ct_slice_mm / volume.spacing))
    if slab > 1:
        # An even box is off centre by half a cell; the sampling below takes that back.
        fine = uniform_filter1d(fine, slab, axis=2, mode="nearest")
    centre_shift = 0.5 if slab % 2 == 0 else 0.0
    step = np.array([config.ct_pixel_mm, config.ct_pixel_mm, config.ct_slice_mm])
    margin = 6.0
    # A grid that shares no plane with the marching cubes, as no scanner would.
    low = volume.origin - margin + 0.37 * step
    span = volume.spacing * (np.array(volume.values.shape) - 1) + 2 * margin
    n = np.floor(span / step).astype(int)
    axes = [
        (low[i] + step[i] * np.arange(n[i]) - volume.origin[i]) / volume.spacing for i in range(3)
    ]
    axes[2] = axes[2] + centre_shift
    hu = np.zeros((n[2], n[1], n[0]), np.float32)
    for k in range(n[2]):
        i, j = np.meshgrid(axes[0], axes[1], indexing="xy")
        at = np.stack([i, j, np.full_like(i, axes[2][k])])
        plane = map_coordinates(fine, at, order=1, mode="nearest", output=np.float32)
        noise = gaussian_filter(rng.standard_normal(plane.shape, np.float32), 0.7)
        hu[k] = plane + config.ct_noise_hu * noise / noise.std()
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.diag(step)
    lps_from_index[:3, 3] = low
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16), lps_from_index


def write_nifti(path: Path, hu: Array, lps_from_index: Array) -> None:
    """ct.nii.gz; the gzip header carries no time, so that the bytes repeat."""
    import gzip
    import struct

    # NIfTI-1 by hand: RAS affine, int16, no extensions (nifti1.h, 348-byte header + 4).
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps_from_index
    nz, ny, nx = hu.shape
    spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, nx, ny, nz, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)  # int16
    # qfac = 1; the quaternion below is a turn of 180 degrees about z, i.e. diag(-1, -1, 1).
    struct.pack_into("<8f", head, 76, 1.0, *spacing, 1.0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)  # vox_offset, slope, intercept
    struct.pack_into("<B", head, 123, 2)  # mm
    head[148 : 148 + 42] = b"endorecon phantom, not for clinical use   "
    struct.pack_into("<2h", head, 252, 1, 1)  # scanner coordinates
    struct.pack_into("<6f", head, 256, 0.0, 0.0, 1.0, *ras[:3, 3])
    for row in range(3):
        struct.pack_into("<4f", head, 280 + 16 * row, *ras[row])
    head[344:348] = b"n+1\0"
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        packed.write(bytes(head))
        packed.write(np.ascontiguousarray(hu, "<i2").tobytes())


def write_dicom(folder: Path, hu: Array, lps_from_index: Array, seed: int, family: str) -> None:
    """One CT Image Storage file a slice, complete enough for dicom-validator."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    step = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    # The content is part of the name: two phantoms never share a UID, the same one always does.
    source = [family, str(seed), str(hu.shape), str(int(hu.astype(np.int64).sum()))]

    def uid(*words: str) -> Any:
        return generate_uid(prefix=_UID_ROOT, entropy_srcs=[*source, *words])

    for k in range(len(hu)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid("slice", str(k))
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID = uid("study"), uid("series")
        d.FrameOfReferenceUID, d.PositionReferenceIndicator = uid("frame"), ""
        d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        d.DerivationDescription = "computed from a procedural phantom"
        d.Modality, d.Manufacturer = "CT", "endorecon phantom"
        d.SeriesDescription = f"{family} phantom, not for clinical use"
        d.PatientName, d.PatientID = f"PHANTOM^{family.upper()}", f"PHANTOM-{seed}"
        d.PatientBirthDate = d.PatientSex = ""
        d.PatientIdentityRemoved, d.DeidentificationMethod = "YES", "there never was a patient"
        d.StudyDate, d.StudyTime = "20000101", "000000"
        d.ContentDate, d.ContentTime = "20000101", "000000"
        d.AccessionNumber = d.ReferringPhysicianName = ""
        d.StudyID, d.SeriesNumber, d.InstanceNumber, d.AcquisitionNumber = "1", 1, k + 1, 1
        d.PatientPosition, d.KVP = "HFS", "120"
        d.BodyPartExamined = {"sinus": "HEAD", "colon": "COLON"}[family]  # neither is paired
        position = lps_from_index[:3, 3] + k * lps_from_index[:3, 2]
        d.ImagePositionPatient = [f"{x:.6f}" for x in position]
        d.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        d.PixelSpacing = [f"{step[1]:.6f}", f"{step[0]:.6f}"]
        d.SliceThickness, d.SliceLocation = f"{step[2]:.6f}", f"{position[2]:.6f}"
        d.Rows, d.Columns = hu.shape[1:]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleIntercept, d.RescaleSlope, d.RescaleType = "0", "1", "HU"
        d.WindowCenter, d.WindowWidth = "300", "2000"
        d.PixelData = np.ascontiguousarray(hu[k], "<i2").tobytes()
        pydicom.dcmwrite(folder / f"{k:05d}.dcm", d, enforce_file_format=True)
