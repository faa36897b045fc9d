"""What a video tells of the focal length: asked on synthetic models with exact truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endorecon import sfm_focal
from endorecon.evaluate.scales import lens_sigma

FOCAL = 300.0


def model(travel: float, turn: float, noise_px: float) -> Any:
    """12 cameras that move by `travel` to each side of a scene 0.6 to 3 away and turn to it."""
    import pycolmap as pc

    rng = np.random.default_rng(0)
    xyz = rng.uniform([-0.9, -0.7, 0.6], [0.9, 0.7, 3.0], (400, 3))
    out = pc.Reconstruction()
    camera = pc.Camera(
        model="SIMPLE_PINHOLE", width=320, height=240, params=[FOCAL, 160, 120], camera_id=1
    )
    out.add_camera_with_trivial_rig(camera)
    tracks = [pc.Track() for _ in xyz]
    for k, s in enumerate(np.linspace(-1, 1, 12), 1):
        angle = -turn * s
        R = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        centre = np.array([travel * s, 0.2 * travel * s * s, 0.1 * travel * s])
        local = (xyz - centre) @ R.T
        uv = np.asarray(camera.img_from_cam(local)) + rng.normal(0, noise_px, (len(xyz), 2))
        inside = ((uv > 0) & (uv < [320, 240])).all(1)
        pose = pc.Rigid3d(pc.Rotation3d(R), -R @ centre)
        image = pc.Image(name=f"{k:06d}.png", camera_id=1, image_id=k, keypoints=uv[inside])
        out.add_image_with_trivial_frame(image, pose)
        for keypoint, row in enumerate(np.flatnonzero(inside)):
            tracks[row].add_element(k, keypoint)
    for point, track in zip(xyz, tracks, strict=True):
        if track.length() > 2:
            out.add_point3D(point, track)
    return out


def focal_of(found: Any) -> float:
    return float(next(iter(found.cameras.values())).mean_focal_length())


def test_a_camera_that_moves_round_its_subject_tells_the_focal_length() -> None:
    found = model(travel=0.6, turn=0.5, noise_px=0.3)
    play = sfm_focal.believe(found, usual=250.0, threads=1)
    assert play < 0.08
    assert abs(focal_of(found) / FOCAL - 1) < 0.02


def test_a_camera_that_hardly_moves_does_not_and_the_usual_lens_counts() -> None:
    found = model(travel=0.06, turn=0.0, noise_px=0.4)
    play = sfm_focal.believe(found, usual=250.0, threads=1)
    assert play > 0.15
    assert 250.0 <= focal_of(found) < 0.97 * FOCAL
    assert np.log(FOCAL / focal_of(found)) < play  # the truth stays inside


@pytest.mark.parametrize(("grown", "most"), [(1.5, 0.1), (1.02, 0.4)])
def test_the_sharper_the_misses_grow_the_less_is_left_open(grown: float, most: float) -> None:
    shift, play = sfm_focal.weigh(0.5, 0.5 * grown, 0.5 * grown, usual=0.3)
    assert 0 < shift < 0.3 and 0 < play < most
    assert sfm_focal.weigh(0.5, 0.5, 0.5, usual=0.3)[0] == pytest.approx(0.3)


def test_lengths_are_no_surer_than_a_lens_that_nobody_calibrated() -> None:
    assert lens_sigma({"poses": {"focal_play": 0.196}}) == pytest.approx(0.05)
    assert lens_sigma({"poses": {"focal_play": 0.0}}) == 0.0
    assert lens_sigma({}) == 0.0
