"""Features and verified matches of the frames (part of the SfM child process)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from endorecon.sfm_progress import say


def pairs_to_match(count: int, overlap: int) -> list[tuple[int, int]]:
    """Pairs of frames: neighbours, distances 2^k, and a coarse grid of all pairs for loops."""
    steps = set(range(1, overlap + 1))
    step = 1
    while step < count:
        steps.add(step)
        step *= 2
    pairs = {(i, i + s) for s in steps for i in range(count - s)}
    grid = np.unique(np.linspace(0, count - 1, min(count, 24)).round().astype(int)).tolist()
    pairs |= {(a, b) for a in grid for b in grid if a < b}
    return sorted(pairs)


def extract_and_match(job: dict[str, Any], database: Path) -> None:
    """SIFT features under the masks and verified matches of the chosen pairs."""
    import pycolmap as pc

    names: list[str] = job["names"]
    reader = pc.ImageReaderOptions()
    reader.camera_model = job["camera"]["model"]
    reader.camera_params = ",".join(f"{v:.17g}" for v in job["camera"]["params"])
    reader.mask_path = job["masks"]
    extraction = pc.FeatureExtractionOptions()
    extraction.num_threads = job["threads"]
    extraction.sift.max_num_features = job["max_features"]
    extraction.sift.peak_threshold = job["sift_peak"]
    extraction.sift.first_octave = job["first_octave"]
    say("features", 0, len(names))
    single = pc.CameraMode.SINGLE
    pc.extract_features(database, job["images"], names[:1], single, reader, extraction)
    reader.existing_camera_id = _enter_frames(database, names[1:])
    chunk = max(4, -(-len(names) // 10))
    for k in range(1, len(names), chunk):
        say("features", k, len(names))
        part = names[k : k + chunk]
        pc.extract_features(database, job["images"], part, single, reader, extraction)
    matching = pc.FeatureMatchingOptions()
    # Two threads that index descriptors at once spoil an index now and then (2 of 600 matchings).
    matching.num_threads = job["solver_threads"]
    matching.guided_matching = job["guided"]
    verification = pc.TwoViewGeometryOptions()
    verification.ransac.max_error = 2.0
    verification.ransac.random_seed = job["seed"]
    verification.detect_watermark = False
    pairs = pairs_to_match(len(names), job["overlap"])
    chunk = max(50, -(-len(pairs) // 10))
    listing = pc.ImportedPairingOptions()
    for k in range(0, len(pairs), chunk):
        say("matching", k, len(pairs))
        file = database.with_name("pairs.txt")
        file.write_text("".join(f"{names[a]} {names[b]}\n" for a, b in pairs[k : k + chunk]))
        listing.match_list_path = str(file)
        pc.match_image_pairs(database, matching, listing, verification)


def _enter_frames(database: Path, names: list[str]) -> int:
    """Give frames their numbers in the database, in order; returns the id of the one camera.

    Left to the extractor, they are numbered as its threads finish, and all that comes after (the
    order of pairs, the seeds of their RANSAC) differs from run to run.
    """
    import pycolmap as pc

    with pc.Database.open(database) as db:
        camera_id: int = next(iter(db.read_all_cameras())).camera_id
        rig_id = next(iter(db.read_all_rigs())).rig_id
        sensor = pc.sensor_t(pc.SensorType.CAMERA, camera_id)
        for name in names:
            image_id = db.write_image(pc.Image(name=name, camera_id=camera_id))
            frame = pc.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(pc.data_t(sensor, image_id))
            db.write_frame(frame)
    return camera_id
