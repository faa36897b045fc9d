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
    keyframe_motion: float = 0.0005
    """A frame that moved less (median optical flow, share of the content width) is a duplicate."""
    image_rate: float = 30.0
    """Frames a second assumed for a folder of images, which has no times of its own."""


@dataclass(frozen=True)
class PosesConfig:
    """Structure from motion (pycolmap, in a process of its own)."""

    sift_peak: float = 0.002
    """SIFT contrast threshold; low, because mucosa is smooth."""
    max_features: int = 4096
    """SIFT features a frame."""
    first_octave: int = 0
    """SIFT's first octave; -1 doubles the image first (four times slower, few more true points)."""
    guided: bool = False
    """Match again along the epipolar lines found (slower, denser)."""
    sharpen: bool = True
    """Move observations to where the pictures themselves agree, to a fraction of a pixel."""
    overlap: int = 6
    """Frames matched ahead (sequential, plus quadratic: 1, 2, 4, ... 2^overlap)."""
    camera_model: str = "OPENCV"
    """Model refined when no calibration is given: PINHOLE, OPENCV or OPENCV_FISHEYE."""
    min_registered: float = 0.5
    """Refuse when less than this share of the frames is in the largest model."""
    min_angle_deg: float = 1.0
    """Refuse when the median triangulation angle is smaller: no parallax."""
    min_parallax_px: float = 1.5
    """Refuse when matches of no two frames move more than this beyond a turn of the camera."""


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
    learning_rate: float = 2e-2
    """Adam's rate for the grid; the nets take a fifth of it. Decays over the run."""
    open_first: int = 48
    """Levels of up to this many cells learn from the start of round 0; finer ones open later ..."""
    open_until: float = 1.0
    """... the last at this share of round 0: too early, and they learn sparse points by heart."""
    rate_last: float = 0.1
    """The learning rate falls to this share of its start within each fit."""
    rate_later: float = 0.5
    """Later rounds start at this share of the first round's rate."""
    warm_up: int = 20
    """Steps over which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the nets' gradient; a larger one scales the whole step down."""
    near_light: bool = True
    """The light sits on the camera: radiance = net / t^2."""
    response: float = 0.4545
    """Exponent of the camera's response at the start (learnt): display = radiance^response."""
    charbonnier: float = 0.05
    """Colour misses (display values, 0..1) above this count linearly, not squared."""
    spread: float = 0.003
    """Weight of the variance of log depth along a ray."""
    sparse_depth: float = 0.1
    """Weight of sparse SfM depths; 0 switches them off."""
    sparse_share: float = 0.25
    """Share of the rays that go through sparse points while these have weight."""
    sparse_sigma: float = 0.01
    """Standard deviation of a good sparse depth as a share of the depth."""
    dense_depth: float = 1.0
    """Weight of stereo depths in later rounds; 0 switches them off."""
    near: float = 0.3
    """Rays start at this share of the 1st percentile of the sparse depths."""
    box_margin: float = 0.1
    """The box is this share of its edge larger than points and cameras on every side."""
    proposal: int = 128
    """Cells along an edge of the density grid that proposes samples."""
    march: int = 160
    """Steps of the coarse march through that grid."""
    refresh: int = 20
    """Steps between two refreshes of that grid."""
    uniform_first: float = 0.6
    """Share of a ray's samples spread evenly at the start of round 0 ..."""
    uniform_last: float = 0.15
    """... and at its end and later."""
    band_share: float = 0.65
    """Share of a ray's samples in the narrow band round a known depth."""
    band_least: float = 0.03
    """Least half width of that band as a share of the depth."""


@dataclass(frozen=True)
class StereoConfig:
    """The virtual binocular and its matcher."""

    enabled: bool = True
    """False leaves the virtual pair out (a control, not a way to work)."""
    matcher: str = "sweep"
    """Which matcher: a word of stereo.MATCHERS."""
    supersample: float = 2.0
    """Virtual views are rendered at this multiple of the training size."""
    baseline: float = 0.08
    """Baseline of the first round as a share of the view's median depth."""
    baseline_growth: float = 1.3
    """Each round multiplies the baseline by this ..."""
    baseline_max: float = 0.14
    """... up to this share of the median depth."""
    left_right_px: float = 1.0
    """Left-right check: largest disagreement in pixels."""
    sigma_px: float = 0.3
    """Standard deviation of a good match in pixels, that of the rendering included."""
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
    neighbours: int = 10
    """Real frames that each depth is compared with."""
    machine: str = "cpu"
    """Where frames are swept: cpu or cuda; a run on a CUDA device sets it."""
    band: float = 0.08
    """Half width of the first search, as a share of depth."""
    band_later: float = 0.7
    """Later rounds search this share of it."""
    steps: int = 41
    """Hypotheses in the band."""
    radius: int = 4
    """Half width of the matching window in pixels."""
    noise: float = 0.004
    """Noise of a grey value (0..1) below which texture does not count."""
    smooth_small: float = 80.0
    """Semi-global penalty, in 1/1000 NCC, of one step between neighbouring pixels."""
    smooth_large: float = 500.0
    """Semi-global penalty of a jump."""
    jump: float = 0.05
    """Relative step of the prior depth across which nothing is smoothed."""
    min_score: float = 0.35
    """NCC below which the real frames say nothing."""
    cost_noise: float = 0.004
    """Noise of the cost; relative sigma of a depth is sqrt(cost_noise / curvature)."""
    sigma_floor: float = 0.0008
    """Smallest relative sigma of a depth: poses and lens are never perfect."""
    checkers: int = 12
    """Depth maps of other frames that each map is held against."""
    agree: float = 0.008
    """Relative depth difference within which two maps agree."""
    independent: float = 4.0
    """Averaging counts as at most this many independent maps."""
    edge_step: float = 0.04
    """Relative step of depth within a window that makes an edge: its depths are less sure."""
    unconfirmed: float = 0.12
    """Smallest relative sigma of a depth that no real frame confirms."""
    sigma_scale: float = 2.2
    """Calibration of sigma on phantoms: 95 % of the errors lie within 1.96 of it."""
    usable_trust: float = 0.1
    """A prior trusted less gives way to its better neighbours before a sweep starts."""


@dataclass(frozen=True)
class LoopConfig:
    """When to stop."""

    max_rounds: int = 4
    """Rounds after round 0, at most."""
    tolerance: float = 0.005
    """Converged when the median relative change of depth falls below this."""
    diverging: float = 0.05
    """A change above this that is also twice the last one is divergence."""
    score_drop: float = 0.03
    """Fall of the NCC in held-out real frames that is divergence."""
    min_agreement: float = 0.05
    """A round is refused when the matcher agrees with the field on fewer of its pixels."""
    max_relative_sigma: float = 0.15
    """A final depth less sure than this share of itself is no measurement: it is left unknown."""


@dataclass(frozen=True)
class SurfaceConfig:
    """Fusion of the depth maps."""

    voxel: float = 0.0
    """Voxel edge in the run's unit; 0 chooses about one pixel at the median depth."""
    max_voxels: int = 60_000_000
    """The voxel edge grows until the volume has at most this many."""
    min_trust: float = 0.25
    """Depths trusted less are not fused."""
    truncation: float = 4.0
    """Truncation in voxels; small, so that thin walls keep both sides."""
    min_faces: int = 200
    """Connected parts of fewer faces are dropped."""
    observed_views: int = 3
    """A vertex is observed (not weak) when at least this many maps agree on it ..."""
    weak_sigma: float = 0.02
    """... and its sigma is below this share of the median depth."""
    independent_views: float = 3.0
    """Averaging counts as at most this many independent maps in a vertex's sigma."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Registration and measurement against CT."""

    air_hu: float = -400.0
    """Iso-value of the CT surface; -400 is air to tissue, about 250 is bone."""
    margin_mm: float = 1.0
    """TOST equivalence margin of the summary; 0.625 and 0.5 mm are tested beside it."""
    roi_margin_mm: float = 12.0
    """The CT surface is taken this far round the reconstruction; 0 takes all of it."""
    min_island: float = 0.002
    """CT surface parts smaller than this share of the largest are removed."""
    landmark_distance_mm: float = 3.0
    """CT landmarks farther from the CT surface than this (in the median) are refused."""
    max_fre_mm: float = 4.0
    """Landmarks that fit worse than this are refused."""
    max_scale_error: float = 0.25
    """Refuse when the fitted scale differs more than this from the run's own millimetres."""
    min_overlap: float = 0.2
    """Refuse when less than this share of the observed surface lies on the CT."""
    inlier_mm: float = 1.0
    """A point nearer to the CT than this counts as lying on it."""
    points: int = 6000
    """Surface points that a registration uses."""
    search_trials: int = 40000
    """RANSAC trials a scale, when there are no landmarks to start from."""
    click_sigma_px: float = 1.0
    """Assumed click noise in source pixels where repeats are too few to estimate it."""
    update_ct: bool = False
    """Also write the CT with what the video opened set to air (NRRD and DICOM)."""
    update_margin_mm: float = 0.0
    """CT update: open only what lies this far before the observed surface."""
    seed: int = 0
    """Seed of sampling, search and bootstrap."""


@dataclass(frozen=True)
class PhantomConfig:
    """The rendered phantom: anatomy, optics, motion, CT. Frozen before accuracy is judged on it."""

    side_mm: float = 0.3
    """Voxel edge of the marching cubes in mm; vertices are then moved on to the exact surface."""
    size: float = 1.0
    """Factor on the anatomy's size."""
    asymmetry: float = 1.0
    """How far a seed's anatomy departs from the mean."""
    roughness: float = 1.0
    """Factor on the unevenness of the wall."""
    texture: float = 1.0
    """Factor on the contrast of the mucosa's colour."""
    vessels: float = 1.1
    """How dark the vessels are, 0..1.2."""
    relief: float = 1.0
    """Factor on the micro-relief that breaks up highlights."""
    lens: str = "pinhole"
    """pinhole, brown or fisheye."""
    field_of_view_deg: float = 78.0
    """Angle across the round picture."""
    content_radius: float = 0.485
    """Radius of the round picture as a share of the image height."""
    round_content: bool = True
    """False fills the whole frame."""
    scope_deg: float = 0.0
    """Angle of the optics to the shaft: 0 or 30."""
    light_offset_mm: float = 1.6
    """Distance of either fibre from the lens."""
    light_falloff: float = 1.2
    """The fibres' lobe: cosine to this power."""
    light_power: float = 100.0
    """Radiant intensity, arbitrary: the exposure takes it up."""
    wetness: float = 1.0
    """Strength of the mirror-like film."""
    gloss_roughness: float = 0.30
    """Roughness of the film (alpha = its square)."""
    translucency: float = 0.16
    """How far red light leaks round a shadow's edge; green and blue leak less."""
    bounce: float = 0.12
    """Light from wall to wall, as a share."""
    vignetting: float = 2.0
    """The lens darkens towards the edge as cosine to this power."""
    exposure_target: float = 0.115
    """Linear brightness the automatic exposure aims at."""
    exposure_speed: float = 0.25
    """Share of the way (in log) to the right exposure that one frame makes."""
    gamma: float = 2.2
    """Display gamma."""
    white: float = 0.97
    """Display value that glare saturates at."""
    shot_noise: float = 0.009
    """Standard deviation at linear value 1."""
    read_noise: float = 0.0006
    """Standard deviation in the dark, linear."""
    blur_px: float = 0.6
    """Blur of lens and demosaicing, one standard deviation in pixels."""
    shutter: float = 0.15
    """Share of the frame time that the shutter is open (motion blur)."""
    frames_per_second: float = 10.0
    """Frame rate of the video."""
    crf: int = 16
    """Quality of the h264 stream."""
    sweep_mm: float = 3.5
    """How far the tip sweeps across the cavity."""
    sweep_period_s: float = 3.0
    """Seconds of one sweep."""
    look_deg: float = 9.0
    """How far the view turns away from the shaft."""
    roll_deg: float = 12.0
    """Rotation about the shaft."""
    speed_mm_s: float = 6.0
    """Mean speed of advancing and retracting."""
    tremor: float = 1.0
    """Factor on the hand's tremor."""
    clearance_mm: float = 4.0
    """The tip stays this far from the wall."""
    ct_pixel_mm: float = 0.4
    """Pixel of the CT slices."""
    ct_slice_mm: float = 0.6
    """Slice thickness and distance of the CT."""
    ct_blur_mm: float = 0.3
    """The scanner's blur in the plane, one standard deviation."""
    ct_noise_hu: float = 20.0
    """Noise of the CT."""
    patient_cell_mm: float = 0.5
    """A real CT is resampled to this before its airway is taken."""
    patient_reach_mm: float = 45.0
    """Half the edge of the box round the seed point."""
    patient_iso_hu: float = -450.0
    """What is darker is air."""
    patient_smooth_mm: float = 0.45
    """Smoothing of the airway's wall."""
    patient_flight_mm: float = 40.0
    """The endoscope goes at most this far from the seed point."""
    observers: int = 2
    """Simulated observers who click the landmarks."""
    repeats: int = 3
    """How often each observer clicks everything."""
    click_frames: int = 5
    """Frames in which a landmark is clicked, where it is seen in as many."""
    click_px: float = 1.2
    """Unsteadiness of a click, one standard deviation in pixels."""
    observer_mm: float = 0.12
    """How far an observer's idea of a landmark lies from the landmark, along the wall."""


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
    phantom: PhantomConfig = dataclasses.field(default_factory=PhantomConfig)


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
