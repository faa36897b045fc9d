"""The nouns of endorecon: frozen, checked when made, numpy at rest.

Conventions: OpenCV camera axes (x right, y down, z forward), `world_from_camera`, pixel centres
at (0.5, 0.5), z-depth, disparity = x_left - x_right >= 0. `unit` is "mm" only when scale has a
source; otherwise "unitless", and nothing may print "mm" of it. `space` is "reconstruction" until
registered, then "LPS". Arrays must not be written to after a noun has been made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from endorecon import geometry

Unit = Literal["mm", "unitless"]
Space = Literal["reconstruction", "LPS"]
CameraModel = Literal["PINHOLE", "OPENCV", "OPENCV_FISHEYE"]
Array = NDArray[Any]

OBSERVED, WEAK, GUESSED = 0, 1, 2  # Surface.status


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one lens and image size, in pixels.

    distortion: () for PINHOLE; (k1, k2, p1, p2[, k3[, k4, k5, k6]]) for OPENCV;
    (k1, k2, k3, k4) for OPENCV_FISHEYE (Kannala-Brandt).
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: CameraModel = "PINHOLE"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(self.width > 0 and self.height > 0, "a camera needs a positive image size")
        _require(self.fx > 0 and self.fy > 0, "focal lengths must be positive")
        counts = {"PINHOLE": (0,), "OPENCV": (4, 5, 8), "OPENCV_FISHEYE": (4,)}
        _require(self.model in counts, f"unknown camera model {self.model!r}")
        wanted, found = counts[self.model], len(self.distortion)
        _require(found in wanted, f"{self.model} takes {wanted} distortion numbers, got {found}")

    @property
    def K(self) -> Array:
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def scaled(self, factor_x: float, factor_y: float | None = None) -> Camera:
        """The same lens on an image resized by the factors (sizes are rounded)."""
        fy = factor_x if factor_y is None else factor_y
        return replace(
            self,
            width=max(1, round(self.width * factor_x)),
            height=max(1, round(self.height * fy)),
            fx=self.fx * factor_x,
            fy=self.fy * fy,
            cx=self.cx * factor_x,
            cy=self.cy * fy,
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The same lens seen through a window whose first pixel is (left, top)."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)


@dataclass(frozen=True)
class FrameRecord:
    """What became of one frame of the source: kept, or dropped for a reason."""

    frame_index: int  # 0-based in the source
    time_s: float
    kept: bool
    reason: str = ""  # "", "black", "white", "blurred", "duplicate", "frozen", "out-of-body", ...
    sharpness: float = float("nan")
    brightness: float = float("nan")  # mean of the content area, 0..1
    saturated: float = float("nan")  # share of the content area
    motion_px: float = float("nan")  # median optical flow from the last kept frame


@dataclass(frozen=True)
class Frames:
    """A screened video at working size. `source_from_working` maps pixels (3, 3)."""

    images: Array  # (n, h, w, 3) uint8 RGB
    masks: Array  # (n, h, w) bool, True = usable
    frame_index: Array  # (n,) int
    time_s: Array  # (n,) float
    records: tuple[FrameRecord, ...]
    source_width: int
    source_height: int
    source_from_working: Array  # (3, 3): crop and scale only
    camera: Camera | None = None  # at working size, with its distortion, when it is known
    summary: tuple[str, ...] = ()  # plain-language sentences on the quality of the video
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.images)
        _require(self.images.ndim == 4 and self.images.dtype == np.uint8, "images: (n,h,w,3) uint8")
        _require(self.masks.shape == self.images.shape[:3], "masks must match the images")
        _require(len(self.frame_index) == n and len(self.time_s) == n, "one index and time a frame")
        _require(bool((np.diff(self.frame_index) > 0).all()), "frame_index must increase")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class SparsePoints:
    """Triangulated points and the pixels that saw them. Observation k: point, view, uv."""

    xyz: Array  # (m, 3)
    error_px: Array  # (m,) mean reprojection error
    point_of: Array  # (k,) int, index into xyz
    view_of: Array  # (k,) int, index into the views
    uv: Array  # (k, 2) pixels, centres at .5

    def __post_init__(self) -> None:
        _require(self.xyz.ndim == 2 and self.xyz.shape[1] == 3, "xyz: (m, 3)")
        _require(len(self.point_of) == len(self.view_of) == len(self.uv), "one row an observation")

    def depths(self, world_from_camera: Array) -> Array:
        """z-depth (k,) of every observation in its own view."""
        R, c = world_from_camera[self.view_of, :3, 2], world_from_camera[self.view_of, :3, 3]
        return np.einsum("ki,ki->k", self.xyz[self.point_of] - c, R)

    def with_poses(self, world_from_camera: Array, K: Array) -> SparsePoints:
        """The points triangulated anew with poses (n, 4, 4) near those that they are from."""
        at = (self.point_of, self.view_of, world_from_camera, K)
        xyz = geometry.triangulate(self.uv, *at, self.xyz)
        return replace(self, xyz=xyz)


@dataclass(frozen=True)
class Views:
    """Undistorted frames with poses: all that the field is made from."""

    camera: Camera  # PINHOLE, shared by all views
    images: Array  # (n, h, w, 3) uint8 RGB
    masks: Array  # (n, h, w) bool, True = usable
    world_from_camera: Array  # (n, 4, 4) float64, rigid
    frame_index: Array  # (n,) int
    time_s: Array  # (n,) float
    points: SparsePoints
    unit: Unit = "unitless"
    space: Space = "reconstruction"
    scale_source: str | None = None  # where millimetres come from

    def __post_init__(self) -> None:
        n = len(self.images)
        _require(self.camera.model == "PINHOLE", "views are undistorted: PINHOLE only")
        _require(
            self.images.shape == (n, self.camera.height, self.camera.width, 3),
            "images must have the camera's size",
        )
        _require(self.masks.shape == self.images.shape[:3], "masks must match the images")
        _require(self.world_from_camera.shape == (n, 4, 4), "one pose a view")
        R = self.world_from_camera[:, :3, :3]
        _require(bool(np.isfinite(self.world_from_camera).all()), "poses must be finite")
        _require(
            bool(np.allclose(R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-5))
            and bool((np.linalg.det(R) > 0).all()),
            "poses must be rigid and right-handed",
        )
        _require((self.unit == "mm") == (self.scale_source is not None), "mm needs a scale source")

    def __len__(self) -> int:
        return len(self.images)

    def with_poses(self, world_from_camera: Array) -> Views:
        """The same views at other poses (n, 4, 4) near the old, their points triangulated anew; at
        the same poses nothing changes."""
        if np.allclose(world_from_camera, self.world_from_camera, rtol=0, atol=1e-12):
            return self
        return replace(
            self,
            world_from_camera=world_from_camera,
            points=self.points.with_poses(world_from_camera, self.camera.K),
        )


@dataclass(frozen=True)
class StereoPair:
    """A rectified virtual pair: equal K, right eye at +baseline along the left camera's x axis."""

    left: Array  # (h, w, 3) uint8
    right: Array  # (h, w, 3) uint8
    z_left: Array  # (h, w) depth of the field in the left eye, NaN where unknown (a seed, no truth)
    K: Array  # (3, 3)
    baseline: float  # > 0, in the run's unit
    world_from_left: Array  # (4, 4)

    def __post_init__(self) -> None:
        _require(self.left.shape == self.right.shape, "both eyes have one size")
        _require(self.baseline > 0, "the baseline must be positive")


@dataclass(frozen=True)
class Disparity:
    """x_left - x_right >= 0 in pixels of the left eye; NaN where unknown; one sigma a pixel."""

    d: Array  # (h, w) float32
    sigma: Array  # (h, w) float32

    def __post_init__(self) -> None:
        _require(self.d.shape == self.sigma.shape, "one sigma a pixel")


@dataclass(frozen=True)
class DepthMap:
    """z-depth with its standard deviation and trust in [0, 1], in one pinhole camera."""

    z: Array  # (h, w) float32, NaN = unknown
    sigma: Array  # (h, w) float32, one standard deviation, the unit of z
    trust: Array  # (h, w) float32 in [0, 1]
    K: Array  # (3, 3)
    world_from_camera: Array  # (4, 4)
    frame_index: int

    def __post_init__(self) -> None:
        _require(self.z.shape == self.sigma.shape == self.trust.shape, "z, sigma, trust: one shape")
        _require(bool((self.z[np.isfinite(self.z)] > 0).all()), "depths must be positive")

    @property
    def camera(self) -> Camera:
        """The pinhole whose pixels these are."""
        h, w = self.z.shape
        return Camera(w, h, self.K[0, 0], self.K[1, 1], self.K[0, 2], self.K[1, 2])


@dataclass(frozen=True)
class Surface:
    """A triangle mesh with colour, status (OBSERVED, WEAK, GUESSED) and sigma a vertex."""

    vertices: Array  # (v, 3) float64
    faces: Array  # (f, 3) int
    colors: Array  # (v, 3) uint8
    status: Array  # (v,) uint8
    sigma: Array  # (v,) float32, the unit of the vertices
    unit: Unit = "unitless"
    space: Space = "reconstruction"

    def __post_init__(self) -> None:
        v = len(self.vertices)
        _require(self.vertices.shape == (v, 3), "vertices: (v, 3)")
        _require(self.faces.size == 0 or int(self.faces.max()) < v, "faces point past the vertices")
        _require(len(self.colors) == len(self.status) == len(self.sigma) == v, "one value a vertex")
        _require(bool(np.isfinite(self.vertices).all()), "vertices must be finite")


@dataclass(frozen=True)
class Landmarks:
    """Named points in one space; NaN rows are refused."""

    names: tuple[str, ...]
    xyz: Array  # (n, 3) float64
    unit: Unit = "mm"
    space: Space = "LPS"
    covariance: Array | None = None  # (n, 3, 3)

    def __post_init__(self) -> None:
        _require(len(set(self.names)) == len(self.names), "landmark names must differ")
        _require(self.xyz.shape == (len(self.names), 3), "one point a name")
        _require(bool(np.isfinite(self.xyz).all()), "landmarks must be set")

    def __getitem__(self, name: str) -> Array:
        return self.xyz[self.names.index(name)]


@dataclass(frozen=True)
class Registration:
    """`ct_from_recon` with what is known of its quality. FRE is no accuracy; TRE is held out."""

    ct_from_recon: Array  # (4, 4) similarity, det > 0
    kind: Literal["rigid", "similarity"]
    scale: float
    fre_mm: float
    tre_mm: float  # leave-one-out, NaN without landmarks
    residual_mm: float  # RMS point-to-plane of the inliers
    overlap: float  # share of the observed surface that lies on the CT
    covariance: Array = field(default_factory=lambda: np.full((7, 7), np.nan))
    used: tuple[str, ...] = ()  # landmarks the fit has seen
    held_out: tuple[str, ...] = ()
    ambiguous: bool = False

    def __post_init__(self) -> None:
        _require(
            float(np.linalg.det(self.ct_from_recon[:3, :3])) > 0, "a registration never mirrors"
        )


@dataclass(frozen=True)
class Measurement:
    """One distance (or area, angle, ...) on CT and reconstruction, with its 95 % interval."""

    name: str
    kind: str
    observer: str
    repeat: int
    ct: float
    recon: float
    low: float
    high: float
    status: str  # "ok", or why it was refused
    held_out: bool
    unit: str = "mm"
