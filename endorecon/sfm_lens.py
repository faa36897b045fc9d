"""What a video can tell of an unknown lens, and what it cannot (part of the SfM child process).

On smooth mucosa light and glare travel with the endoscope, and a lens with free coefficients takes
that up: on a rectified nasal video (f = 597 px, no distortion) two radial coefficients came out as
a pincushion and f as 617 to 666, a free principal point went 30 to 80 px astray; without them f was
574, and the rotations were a third nearer the reference. What no endoscope has is not believed.
"""

from __future__ import annotations

from typing import Any

_WITH_RADIAL = ("SIMPLE_RADIAL", "RADIAL", "OPENCV")
_FURTHEST_CENTRE = 0.03  # of the picture's width: principal points lie nearer its middle than this


def is_pincushion(camera: Any) -> bool:
    """Whether a lens magnifies more at the rim than in its middle; wide lenses never do."""
    if camera.model.name not in _WITH_RADIAL:
        return False
    rim = float(camera.cam_from_img([[float(camera.width), camera.principal_point_y]])[0][0])
    seen = float(camera.width) - camera.principal_point_x
    return seen > camera.mean_focal_length() * rim


def without_distortion(camera: Any) -> None:
    """Make `camera` a pinhole with square pixels, its centre in the middle of the picture."""
    import pycolmap as pc

    focal = camera.mean_focal_length()
    camera.model = pc.CameraModelId.SIMPLE_PINHOLE
    camera.params = [focal, 0.0, 0.0]
    centre(camera)


def has_stray_centre(camera: Any) -> bool:
    """Whether the principal point lies farther from the middle than a lens would put it."""
    off = max(
        abs(camera.principal_point_x - camera.width / 2),
        abs(camera.principal_point_y - camera.height / 2),
    )
    return bool(off > _FURTHEST_CENTRE * camera.width)


def centre(camera: Any) -> None:
    """Put the principal point back into the middle."""
    camera.principal_point_x, camera.principal_point_y = camera.width / 2, camera.height / 2
