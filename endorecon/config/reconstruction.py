"""Defaults of what `endorecon fit` does, in the order in which it does it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


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
    double_below: int = 640
    """Frames narrower than this are doubled before SIFT: 2.5 times the points on smooth mucosa."""
    guided: bool = False
    """Match again along the epipolar lines found (slower, denser)."""
    sharpen: bool = True
    """Move observations to where the pictures themselves agree, to a fraction of a pixel."""
    overlap: int = 6
    """Frames matched ahead (sequential, plus quadratic: 1, 2, 4, ... 2^overlap)."""
    threads: int = 0
    """Threads of matching, mapping and bundle adjustment. With 0 they are all the cores, and the
    last digits of poses differ from run to run; with 1 a run repeats every bit."""
    camera_model: str = "RADIAL"
    """Model refined when no calibration is given: PINHOLE, RADIAL (square pixels, two coefficients:
    what a video can tell), OPENCV or OPENCV_FISHEYE."""
    min_registered: float = 0.5
    """Refuse when less than this share of the frames is in the largest model."""
    min_angle_deg: float = 1.0
    """Refuse when the median triangulation angle is smaller: no parallax."""
    min_parallax_px: float = 1.5
    """Refuse when matches of no two frames move more than this beyond a turn of the camera."""
    least_link: float = 0.65
    """Warn when the poses explain the matches across one place of the path this much worse."""
    focal_play: float = 0.15
    """Warn when the focal length may be off by this share (95 % interval of an unknown lens)."""
    given_miss: float = 0.0008
    """Warn when given poses miss the matches by more than this share of the width ..."""
    given_miss_times: float = 1.4
    """... and by this many times what the pairs of frames for themselves miss them by."""


@dataclass(frozen=True)
class FieldConfig:
    """The radiance field and its training."""

    kind: str = "nerf"
    """Which field: a word of field.FIELDS."""
    backend: str = "auto"
    """What does its arithmetic: auto, kernels, tinycudann or torch; by name it serves or fails."""
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
    steps_first: int = 300
    """Steps of round 0. More draw walls that few frames see towards the camera: each frame explains
    its own noise by fog before its lens (benchmarks/results/accuracy-cpu.md)."""
    sisters: int = 3
    """Fields of round 0, each from a seed of its own; their mean depth is where round 1 begins."""
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
    white: float = 0.85
    """Display value (0..1) from which a pixel only says "at least so bright": cameras clip."""
    ceiling: float = 1.5
    """No surface is brighter than this many times the brightest twentieth of the sparse points,
    each at its distance from the light; 0: no such limit."""
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
    sweep_smooth_small: float = 80.0
    """Matcher 'sweep': semi-global penalty, in 1/1000 NCC, of one step between neighbours ..."""
    sweep_smooth_large: float = 500.0
    """Matcher 'sweep': ... and of a jump."""
    sweep_score: float = 0.7
    """Matcher 'sweep': NCC below which a match is dropped."""
    weights: str = ""
    """Matcher 'weights': path of a local TorchScript file."""


@dataclass(frozen=True)
class CertaintyConfig:
    """Log of the relative error that 95 % of the depths stay below, as a sum over the evidence.

    The first opinion, by which the maps are weighed when they are compared; the last word has the
    net of refine/certainty.json. Made by benchmarks/calibrate.py on phantoms of both families.
    Knee and bend are by hand: over all pixels none is needed, but the last tenths want one.
    """

    constant: float = 4.268
    edge: float = 0.115
    wide: float = 0.237
    support: float = 0.689
    residual: float = 0.293
    prior: float = 0.09
    agree: float = -0.433
    against: float = 0.29
    score: float = 0.543
    knee: float = -2.8
    """Where the sum is above this ..."""
    bend: float = 0.5
    """... it rises by this much more."""


@dataclass(frozen=True)
class RefineConfig:
    """Depths sharpened and judged in real neighbour frames."""

    enabled: bool = True
    """False leaves the real frames out (a control, not a way to work)."""
    width: int = 640
    """Width of the refined depth maps in pixels."""
    rim: float = 0.011
    """Depth is told so far (share of the width) beyond the masks: they are drawn in from the
    lens's bright border by 0.012, but a surface is seen there and windows reach it."""
    wide_width: int = 320
    """Round 1 begins with a wide search on photos reduced to this width ..."""
    wide_band: float = 0.3
    """... over this half width, as a share of depth (0: no such search) ..."""
    wide_steps: int = 77
    """... in this many hypotheses."""
    search_width: int = 480
    """The next pass of a round searches photos reduced to this width, where they are wider."""
    neighbours: int = 12
    """Real frames that each depth is compared with."""
    machine: str = "cpu"
    """Where frames are swept: cpu or cuda; a run on a CUDA device sets it."""
    band: float = 0.08
    """Half width of that search, as a share of depth."""
    band_later: float = 0.7
    """Later rounds search this share of it."""
    band_second: float = 0.25
    """The last pass of a round, from a better prior, searches this share of it."""
    steps: int = 41
    """Hypotheses in the band."""
    radius: int = 3
    """Half width of the matching window in pixels."""
    finer: int = 2
    """Pictures are read between their pixels after cubic enlargement so many times."""
    noise: float = 0.004
    """Noise of a grey value (0..1) below which texture does not count."""
    smooth_small: float = 5.0
    """Semi-global penalty, in 1/1000 NCC, of one step between neighbouring pixels: a little, the
    surface is smoothed afterwards by how sure each depth is ..."""
    smooth_large: float = 100.0
    """... and of a jump."""
    wide_smooth_small: float = 80.0
    """The same in the wide search, whose answers need their neighbours' support ..."""
    wide_smooth_large: float = 500.0
    """... and of a jump, ..."""
    wide_score: float = 0.35
    """... and this NCC ..."""
    wide_views: int = 1
    """... in so many frames that agree."""
    jump: float = 0.05
    """Relative step of the prior depth across which nothing is smoothed."""
    smooth: float = 0.02
    """Standard deviation of the smoothing window as a share of the width; 0.4 mm at 10 mm."""
    smooth_tolerance: float = 0.03
    """A depth that misses the smooth surface by this share belongs to another one."""
    smooth_sigma_least: float = 0.002
    """No depth counts more in the smoothing than one with this relative sigma."""
    min_score: float = 0.1
    """NCC below which the real frames say nothing. Smooth tissue answers faintly: such depths count
    by their sigma, if those of another frame agree."""
    min_views: int = 0
    """Frames that must agree clearly for an answer to count."""
    cost_noise: float = 0.004
    """Noise of the cost; relative sigma of a depth is sqrt(cost_noise / curvature)."""
    sigma_floor: float = 0.0008
    """Smallest relative sigma of a depth: poses and lens are never perfect."""
    checkers: int = 16
    """Depth maps of other frames that each map is held against."""
    agree: float = 0.012
    """Relative depth difference within which two maps agree."""
    independent: float = 4.0
    """Averaging counts as at most this many independent maps."""
    sources: int = 32
    """Other depth maps (64 at most) that are asked for each pixel before a level's are final."""
    edge_step: float = 0.04
    """Relative step of depth within a window that makes an edge: its depths are less sure."""
    edge_near: float = 0.01
    """Pixels so near an occlusion edge (share of the width) are asked which side they are on ..."""
    edge_jump: float = 0.1
    """... where the depth steps by this share of itself, or more ..."""
    edge_window: float = 0.022
    """... by the colours of a window of this half width (share of the width) ..."""
    edge_likeness: float = 0.05
    """... and this standard deviation of the display values (0..1) of one surface."""
    strip: float = 0.07
    """Dark strips of at most this width (share of the picture's) beside an occlusion edge are put
    behind it, where light and edges of the picture say so (0: they stay) ..."""
    strip_jump: float = 0.15
    """... if the depth steps by this share of itself, or more."""
    settle: bool = True
    """After the first search of round 1 the poses are adjusted to what all pictures show ..."""
    settle_stride: float = 0.021
    """... at places so far apart (share of the width) ..."""
    settle_sigma: float = 0.03
    """... whose depth is as sure as this, relatively ..."""
    settle_links: int = 48
    """... in so many other frames ..."""
    settle_radius: int = 4
    """... by windows of this half width in pixels."""
    unconfirmed: float = 0.12
    """Smallest relative sigma of a depth that no real frame confirms."""
    certainty: CertaintyConfig = dataclasses.field(default_factory=CertaintyConfig)
    """How sure a depth is."""
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
    min_trust: float = 0.05
    """Depths trusted less are not fused."""
    truncation: float = 4.0
    """Truncation in voxels; small, so that thin walls keep both sides."""
    min_faces: int = 200
    """Connected parts of fewer faces are dropped."""
    observed_views: int = 3
    """A vertex is observed (not weak) when at least this many maps agree on it ..."""
    weak_sigma: float = 0.022
    """... and its sigma is below this share of the median depth."""
    independent_views: float = 3.0
    """Averaging counts as at most this many independent maps in a vertex's sigma."""
