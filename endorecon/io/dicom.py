"""DICOM CT series: what lies in a folder, whether it is one sound volume, and writing one back.

Only an allow-list of tags is kept (`ALLOWED`): names, dates, numbers of patients and free text
never leave this module, except the series description in the sentence that asks which series is
meant. Slices are ordered by position along their normal, never by name or instance number.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused, UsageError

Array = NDArray[Any]
ALLOWED = ("Modality", "SliceThickness", "PixelSpacing", "ConvolutionKernel")
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_NEEDED = (*_GEOMETRY, "RescaleSlope", "RescaleIntercept")
_KEPT = (
    *_NEEDED, *ALLOWED, "ImageType", "NumberOfFrames", "SeriesNumber", "SeriesDescription"
)  # fmt: skip
_UNEVEN = 0.01  # largest relative deviation of one slice gap


@dataclass(frozen=True)
class Series:
    """One DICOM series of a folder, unread."""

    uid: str
    number: int
    description: str
    modality: str
    thickness_mm: float
    files: tuple[Path, ...]
    headers: tuple[dict[str, Any], ...]  # the tags of _KEPT, None where missing; same order

    def line(self) -> str:
        """One line for the list that asks for a choice."""
        return (
            f"number {self.number}, {self.description or 'no description'}, {self.modality}, "
            f"{len(self.files)} slices of {self.thickness_mm:g} mm, --series {self.uid}"
        )


def list_series(folder: Path) -> tuple[list[Series], int]:
    """All image series below a folder, and how many other files were skipped.

    Raises InputRefused when there is no DICOM image, or images of several patients.
    """
    import pydicom

    groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    patients: set[str] = set()
    skipped = 0
    with _quiet():
        for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True)
                uid, patient = str(header.SeriesInstanceUID), str(header.get("PatientID", ""))
                if "Rows" not in header:
                    raise KeyError("no image")
            except Exception:  # not DICOM, no image, or fuzzed: pydicom raises nearly anything
                skipped += 1
                continue
            patients.add(patient)
            kept = {tag: _value(header, tag) for tag in _KEPT}
            kept["cut short"] = _cut_short(file, header)
            groups.setdefault(uid, []).append((file, kept))
    if not groups:
        raise InputRefused(
            f"The folder holds no DICOM images ({skipped} other files)",
            "give the folder of a CT series, a NIfTI, NRRD or MHD file, or a mesh",
            folder,
        )
    if len(patients) > 1:
        raise InputRefused(
            f"The folder mixes images of {len(patients)} patients",
            "give a folder of one patient",
            folder,
        )
    return [_series(uid, items) for uid, items in sorted(groups.items())], skipped


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns and logs with the values of tags, which may name the patient: silence."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _value(header: Any, tag: str) -> Any:
    """A tag as plain text, number or list; None when it is missing or damaged."""
    try:
        value = header.get(tag)
        if value is None or isinstance(value, str | int | float):
            return value
        return [x if isinstance(x, str) else float(x) for x in value]
    except Exception:  # the value is converted here, so it may be anything
        return None


def _cut_short(file: Path, header: Any) -> bool:
    """Whether an uncompressed image holds fewer bytes than its size says (GDCM would pad it)."""
    try:
        if header.file_meta.TransferSyntaxUID.is_compressed:
            return False
        need = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
        return file.stat().st_size < need
    except Exception:
        return False


def _series(uid: str, items: list[tuple[Path, dict[str, Any]]]) -> Series:
    first = items[0][1]
    return Series(
        uid,
        int(_number(first.get("SeriesNumber"), 0)),
        str(first.get("SeriesDescription") or ""),
        str(first.get("Modality") or "of unknown modality"),
        _number(first.get("SliceThickness"), float("nan")),
        tuple(file for file, _ in items),
        tuple(header for _, header in items),
    )


def _number(value: Any, otherwise: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return otherwise


def choose_series(folder: Path, uid: str | None = None) -> tuple[Series, tuple[str, ...]]:
    """The one CT series meant, localizers left out, and what was left out in words.

    Raises InputRefused when several remain and none was named, or the modality is not CT.
    """
    found, skipped = list_series(folder)
    notes = [f"{skipped} files of the CT folder are no DICOM images and were skipped"]
    notes = notes if skipped else []
    if uid is not None:
        named = [s for s in found if s.uid == uid]
        if not named:
            lines = "; ".join(s.line() for s in found)
            raise UsageError(f"There is no series {uid}", f"the folder holds: {lines}", folder)
        chosen = named[0]
    else:
        volumes = [s for s in found if not _is_localizer(s)]
        if not volumes:
            raise InputRefused("The folder holds localizers only", "give the CT series", folder)
        if len(volumes) > 1:
            lines = "; ".join(s.line() for s in volumes)
            raise InputRefused(
                f"The folder holds {len(volumes)} series", f"choose one: {lines}", folder
            )
        if len(found) > 1:
            notes.append(f"{len(found) - 1} localizer series were left out")
        chosen = volumes[0]
    if chosen.modality != "CT":
        raise InputRefused(
            f"The series is {chosen.modality}, not CT", "give a CT: only its HU are known", folder
        )
    return chosen, tuple(notes)


def _is_localizer(series: Series) -> bool:
    words = [str(w).upper() for h in series.headers for w in (h.get("ImageType") or [])]
    return "LOCALIZER" in words or len(series.files) < 3


def ordered_geometry(series: Series, folder: Path) -> tuple[tuple[Path, ...], Array]:
    """Files in order along the normal and `lps_from_index` (4, 4), gantry tilt included.

    Raises InputRefused for missing tags, mixed geometry, missing, duplicate or uneven slices.
    """
    headers = series.headers
    for k, header in enumerate(headers):
        if _number(header.get("NumberOfFrames"), 1) > 1:
            raise InputRefused(
                "The series is an enhanced (multi-frame) CT", "convert it to single slices", folder
            )
        if header["cut short"]:
            raise InputRefused(
                f"Slice {k + 1} of {len(headers)} is cut short and cannot be decoded",
                "export the series again",
                folder,
            )
        for tag in _NEEDED:
            if header.get(tag) in (None, "", []):
                raise InputRefused(
                    f"The tag {tag} is missing in slice {k + 1} of {len(headers)}",
                    "export the series again",
                    folder,
                )
    try:
        position = np.array([h["ImagePositionPatient"] for h in headers], float).reshape(-1, 3)
        orientation = np.array([h["ImageOrientationPatient"] for h in headers], float).reshape(
            -1, 6
        )
        spacing = np.array([h["PixelSpacing"] for h in headers], float).reshape(-1, 2)
        size = np.array([(h["Rows"], h["Columns"]) for h in headers], int)
    except (TypeError, ValueError) as error:
        raise InputRefused("A geometry tag is damaged", "export it again", folder) from error
    for what, values in (("orientation", orientation), ("spacing", spacing), ("size", size)):
        if np.ptp(values, axis=0).max() > 1e-3:
            raise InputRefused(f"The slices differ in {what}", "give one single series", folder)
    row, column = orientation[0, :3], orientation[0, 3:]
    if abs(row @ column) > 1e-3 or abs(np.linalg.norm(row) - 1) > 1e-3 or spacing.min() <= 0:
        raise InputRefused("The orientation of the slices is damaged", "export it again", folder)
    along = position @ np.cross(row, column)
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    step = float(np.median(gaps))
    if (gaps < 0.01 * max(step, 1e-6)).any() or step <= 1e-6:
        count = int((gaps < 0.01 * max(step, 1e-6)).sum())
        raise InputRefused(
            f"{count} slices lie twice at one place", "remove the second reconstruction", folder
        )
    worst = int(np.abs(gaps - step).argmax())
    if abs(gaps[worst] - step) > _UNEVEN * step:
        lost = gaps[worst] / step - 1
        what = f"about {lost:.0f} slices are missing" if lost > 0.5 else "the spacing is uneven"
        raise InputRefused(
            f"Between slices {worst + 1} and {worst + 2} the gap is {gaps[worst]:.3f} mm instead "
            f"of {step:.3f}: {what}",
            "export the whole series again",
            folder,
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacing[0, 1], column * spacing[0, 0]
    first, last = position[order[0]], position[order[-1]]
    affine[:3, 2] = (last - first) / (len(order) - 1)  # oblique when the gantry was tilted
    affine[:3, 3] = first
    drift = position[order] - first - np.arange(len(order))[:, None] * affine[:3, 2]
    if np.abs(drift).max() > 0.1 * step:
        raise InputRefused("The slices do not lie on one line", "export the series again", folder)
    return tuple(series.files[k] for k in order), affine


def write_series(folder: Path, hu: Array, lps_from_index: Array, study: str) -> None:
    """Write HU (k, j, i) as a derived CT series without any patient data.

    Raises ValueError for a sheared (gantry-tilted) grid, which single slices cannot say.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    axes = lps_from_index[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    unit = axes / spacing
    if abs(np.cross(unit[:, 0], unit[:, 1]) @ unit[:, 2]) < 1 - 1e-6:
        raise ValueError("a sheared grid cannot be written as slices")
    uids = {name: generate_uid(entropy_srcs=[study, name]) for name in ("study", "series", "frame")}
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(hu):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[study, "slice", str(k)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID = uids["study"], uids["series"]
        d.FrameOfReferenceUID, d.PositionReferenceIndicator = uids["frame"], ""
        d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        d.Modality, d.SeriesDescription = "CT", "endorecon, not for clinical use"
        d.DerivationDescription = "voxels opened in the video set to air"
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = study, study, "", ""
        d.StudyDate = d.StudyTime = d.AccessionNumber = d.ReferringPhysicianName = d.StudyID = ""
        d.PatientIdentityRemoved, d.DeidentificationMethod = "YES", "written without source tags"
        d.Manufacturer, d.KVP, d.AcquisitionNumber = "endorecon", None, None
        d.ContentDate = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d")
        d.ContentTime = "000000"
        d.SeriesNumber, d.InstanceNumber = 1, k + 1
        place = lps_from_index[:3, 3] + k * axes[:, 2]
        d.ImagePositionPatient = [f"{x:.9g}"[:16] for x in place]
        d.ImageOrientationPatient = [f"{x:.9f}"[:16] for x in (*unit[:, 0], *unit[:, 1])]
        d.PixelSpacing = [f"{spacing[1]:.9g}", f"{spacing[0]:.9g}"]
        d.SliceThickness = f"{spacing[2]:.9g}"
        d.Rows, d.Columns = plane.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleIntercept, d.RescaleSlope, d.RescaleType = 0, 1, "HU"
        d.PixelData = np.round(plane).clip(-32768, 32767).astype("<i2").tobytes()
        pydicom.dcmwrite(folder / f"{k:05d}.dcm", d, enforce_file_format=True)
