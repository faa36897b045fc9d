"""Defaults of what a reconstruction is held against: the CT, and the phantom that has one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluateConfig:
    """Registration and measurement against CT."""

    air_hu: float | None = None
    """Iso-value of the CT surface; about 250 is bone. When not given, where this CT's borders of
    air are steepest: half way between air and what is behind, about -480 for tissue."""
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
    max_half_width_mm: float = 1.2
    """A length whose 95 % interval reaches farther than this to either side is refused: with it no
    equivalence test (5 %) at a margin of 1 mm could pass, whatever the difference."""
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
    vessels: float = 0.92
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
    wetness: float = 0.9
    """Strength of the mirror-like film."""
    gloss_roughness: float = 0.22
    """Roughness of the film (alpha = its square)."""
    translucency: float = 0.16
    """How far red light leaks round a shadow's edge; green and blue leak less."""
    bounce: float = 0.12
    """Light from wall to wall, as a share."""
    vignetting: float = 1.2
    """The lens darkens towards the edge as cosine to this power."""
    exposure_target: float = 0.375
    """Linear brightness the automatic exposure aims at."""
    exposure_speed: float = 0.5
    """Share of the way (in log) to the right exposure that one frame makes."""
    gamma: float = 1.95
    """Display gamma."""
    black: float = 0.06
    """Display value that the camera shows as black: darkness is deep, and red rather than grey."""
    bleach: float = 0.85
    """Display value from which bright colours turn white."""
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
    speed_mm_s: float = 10.0
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
