"""Every default of the program, once. Numbers and words only: this module imports nobody.

A config names a backend by a word; the dictionary word -> module stands with the backends
(`field/__init__.py`, `stereo/__init__.py`). Order: defaults < preset YAML < flags; the resolved
tree is written to run.json. Lengths inside the field are relative to depth, so that the same
numbers serve a scene in millimetres and a scene without unit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VideoConfig:
    """Decoding, screening, masks, keyframes."""

    max_width: int = 960
    """Working width in pixels of the content area's bounding box; larger frames are reduced."""
    max_frames: int = 400
    """Keep at most this many keyframes; the parallax threshold rises until they fit."""
    min_frames: int = 8
    """Refuse a video with fewer usable frames than this."""
    accept_partial: bool = False
    """Go on with a damaged video as far as it can be read, and say so in the report."""
    keyframe_motion: float = 0.004
    """Median optical flow, as a share of the image width, that makes the next keyframe."""


@dataclass(frozen=True)
class PosesConfig:
    """Structure from motion (pycolmap, in a process of its own)."""

    sift_peak: float = 0.002
    """SIFT contrast threshold; low, because mucosa is smooth."""
    max_features: int = 4096
    """SIFT features a frame."""
    overlap: int = 8
    """Frames matched ahead (sequential, plus quadratic: 1, 2, 4, ... 2^overlap)."""
    camera_model: str = "OPENCV"
    """Model refined when no calibration is given: PINHOLE, OPENCV or OPENCV_FISHEYE."""
    min_registered: float = 0.5
    """Refuse when less than this share of the frames is in the largest model."""
    min_angle_deg: float = 1.0
    """Refuse when the median triangulation angle is smaller: no parallax."""


@dataclass(frozen=True)
class FieldConfig:
    """The radiance field and its training."""

    kind: str = "nerf"
    """Which field: a word of field.FIELDS."""
    levels: int = 12
    """Levels of the hash grid, two features each."""
    log2_table: int = 17
    """Rows a level, as a power of two."""
    coarsest: int = 16
    """Grid cells across the scene at the coarsest level."""
    finest: int = 512
    """Grid cells across the scene at the finest level."""
    width: int = 320
    """Width of the training images in pixels."""
    rays: int = 4096
    """Rays a step."""
    samples: int = 32
    """Samples a ray."""
    steps_first: int = 600
    """Steps of round 0."""
    steps_round: int = 200
    """Steps of each later round."""
    learning_rate: float = 1e-2
    """Adam's rate for the grid; the nets take a fifth of it. Decays over the run."""
    near_light: bool = True
    """The light sits on the camera: radiance = net / t^2."""
    sparse_depth: float = 0.1
    """Weight of sparse SfM depths in round 0; 0 switches them off."""
    dense_depth: float = 0.1
    """Weight of stereo depths in later rounds; 0 switches them off."""


@dataclass(frozen=True)
class StereoConfig:
    """The virtual binocular and its matcher."""

    enabled: bool = True
    """False leaves the virtual pair out (a control, not a way to work)."""
    matcher: str = "sgbm"
    """Which matcher: a word of stereo.MATCHERS."""
    supersample: float = 2.0
    """Virtual views are rendered at this multiple of the training size."""
    baseline: float = 0.06
    """Baseline of the first round as a share of the view's median depth."""
    baseline_growth: float = 1.3
    """Each round multiplies the baseline by this ..."""
    baseline_max: float = 0.12
    """... up to this share of the median depth."""
    left_right_px: float = 1.0
    """Left-right check: largest disagreement in pixels."""
    sigma_px: float = 0.2
    """Standard deviation of a good match in pixels."""
    min_contrast: float = 3.0
    """Local contrast (of 255, after equalising) below which a match means nothing."""
    nearest_baselines: float = 4.0
    """Surfaces nearer than this many baselines are not searched."""
    farthest_baselines: float = 24.0
    """Surfaces farther than this many baselines are not searched."""
    sweep_band: float = 0.1
    """Matcher 'sweep': half width of the search, as a share of depth."""
    sweep_steps: int = 33
    """Matcher 'sweep': hypotheses in the band."""
    sweep_radius: int = 3
    """Matcher 'sweep': half width of the window in pixels."""
    sweep_noise: float = 0.002
    """Matcher 'sweep': grey noise of a render (0..1) below which texture does not count."""
    sweep_score: float = 0.7
    """Matcher 'sweep': NCC below which a match is dropped."""
    weights: str = ""
    """Matcher 'weights': path of a local TorchScript file."""


@dataclass(frozen=True)
class RefineConfig:
    """Depths sharpened and judged in real neighbour frames."""

    enabled: bool = True
    """False leaves the real frames out (a control, not a way to work)."""
    width: int = 640
    """Width of the refined depth maps in pixels."""
    neighbours: int = 8
    """Real frames that each depth is compared with."""
    band: float = 0.08
    """Half width of the first search, as a share of depth; later rounds narrow it."""
    steps: int = 41
    """Hypotheses in the band."""
    radius: int = 3
    """Half width of the matching window in pixels."""
    noise: float = 0.004
    """Noise of a grey value (0..1) below which texture does not count."""
    smooth_small: float = 30.0
    """Semi-global penalty, in 1/1000 NCC, of one step between neighbouring pixels."""
    smooth_large: float = 250.0
    """Semi-global penalty of a jump."""
    jump: float = 0.05
    """Relative step of the prior depth across which nothing is smoothed."""


@dataclass(frozen=True)
class LoopConfig:
    """When to stop."""

    max_rounds: int = 4
    """Rounds after round 0, at most."""
    tolerance: float = 0.005
    """Converged when the median relative change of depth falls below this."""


@dataclass(frozen=True)
class SurfaceConfig:
    """Fusion of the depth maps."""

    voxel: float = 0.0
    """Voxel edge in the run's unit; 0 chooses about one pixel at the median depth."""
    max_voxels: int = 60_000_000
    """The voxel edge grows until the volume has at most this many."""
    min_trust: float = 0.25
    """Depths trusted less are not fused."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Registration and measurement against CT."""

    air_hu: float = -400.0
    """Air-tissue iso-value."""
    margin_mm: float = 1.0
    """TOST equivalence margin."""


@dataclass(frozen=True)
class Config:
    """The whole program."""

    video: VideoConfig = dataclasses.field(default_factory=VideoConfig)
    poses: PosesConfig = dataclasses.field(default_factory=PosesConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    stereo: StereoConfig = dataclasses.field(default_factory=StereoConfig)
    refine: RefineConfig = dataclasses.field(default_factory=RefineConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    surface: SurfaceConfig = dataclasses.field(default_factory=SurfaceConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def as_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain dictionaries (for run.json and YAML)."""
    return dataclasses.asdict(config)


def with_differences(config: Any, differences: dict[str, Any], where: str = "") -> Any:
    """`config` with nested differences applied; an unknown key names the nearest right one.

    Raises KeyError (unknown key) or TypeError (wrong type), each with the full key in the text.
    """
    import difflib

    known = {f.name: f for f in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for key, value in differences.items():
        name = f"{where}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f", did you mean {where}{near[0]}?" if near else f"; known: {', '.join(known)}"
            raise KeyError(f"unknown setting {name}{hint}")
        old = getattr(config, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise TypeError(f"{name} is a section, not a value")
            changes[key] = with_differences(old, value, f"{name}.")
            continue
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(old):
            raise TypeError(f"{name} must be {type(old).__name__}, got {value!r}")
        changes[key] = value
    return dataclasses.replace(config, **changes)
