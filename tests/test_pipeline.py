"""The corridor as a program: killed and resumed, refused when it must be, nothing lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from endorecon import pipeline
from endorecon.cli import config_of
from endorecon.errors import InputRefused
from endorecon.io import viewstore
from endorecon.io.rundir import RunDir, hash_file
from endorecon.scene import DepthMap, FrameRecord

from made_views import made_views  # isort: skip

PRESET = """
field: {sisters: 1, steps_first: 120, steps_round: 30, rays: 1024, proposal: 48, march: 64}
refine: {neighbours: 5, steps: 21}
stereo: {supersample: 1.0}
loop: {max_rounds: 2, tolerance: 0.0}
"""


def prepared(folder: Path, name: str, frames: int = 7) -> list[str]:
    """A run folder whose poses are finished, and the command that goes on with it."""
    source, preset = folder / "v.mp4", folder / "small.yaml"
    source.write_bytes(b"stands for a video: the poses are finished already")
    preset.write_text(PRESET)
    out = folder / name
    views, _ = made_views(frames)
    job = pipeline.Job(source, out, config_of(str(preset)), preset=str(preset))
    out.mkdir()
    pipeline._open_run(RunDir(out), job)
    viewstore.write_records(out, [FrameRecord(i, i / 10, True) for i in range(frames)])
    viewstore.save(out, views)
    return [
        sys.executable, "-m", "endorecon.cli", "fit", str(source), "--out", str(out), "--config",
        str(preset), "--device", "cpu",
    ]  # fmt: skip


def products(run: Path) -> dict[str, str]:
    """Hash of every product whose bits must not depend on interruptions."""
    files = [*run.glob("rounds/*/depth/*.npz"), *run.glob("depth/*.npz"), run / "surface.ply"]
    files.append(run / "transforms.json")
    files += run.glob("rounds/*/field.safetensors")
    return {str(f.relative_to(run)): hash_file(f) for f in files}


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_the_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = prepared(tmp_path, "whole")
    begun = time.monotonic()
    subprocess.run(whole, check=True, capture_output=True, timeout=300)
    span = time.monotonic() - begun
    broken = prepared(tmp_path, "broken")
    rng = random.Random(7)
    kills = 0
    for _ in range(5):
        process = subprocess.Popen(broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 0.9) * span)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    done = subprocess.run(broken, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert kills >= 1
    assert products(tmp_path / "broken") == products(tmp_path / "whole")
    assert not list((tmp_path / "broken").rglob("*.tmp"))
    info = RunDir(tmp_path / "broken").info()
    assert info["status"] in ("converged", "stopped") and info["rounds"] == 3
    assert RunDir(tmp_path / "broken").surface().unit == "unitless"


def test_no_depth_is_surer_than_the_poses_that_were_given() -> None:
    z = np.array([[10.0, 20.0, np.nan, 10.0]], np.float32)
    sigma = np.array([[0.1, 0.2, np.nan, 1.45]], np.float32)
    trust = np.ones_like(z)
    depth = DepthMap(z, sigma, trust, np.eye(3), np.eye(4), 0)
    kept = pipeline._measured(depth, 0.15, 0.0)
    assert np.allclose(kept.sigma, sigma, equal_nan=True) and np.isfinite(kept.z[0, 3])
    unsure = pipeline._measured(depth, 0.15, 0.05)
    assert np.allclose(unsure.sigma[0, :2], np.hypot([0.1, 0.2], [0.5, 1.0]))
    assert np.isnan(unsure.z[0, 2:]).all() and not unsure.trust[0, 3]


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_depths_surface_and_exports_are_at_the_settled_poses_and_given_ones_stay(
    tmp_path: Path, given: bool
) -> None:
    command = prepared(tmp_path, "run")
    run = RunDir(tmp_path / "run")
    run.update_info(poses={"given": given})
    subprocess.run([*command, "--loop.max-rounds", "1"], check=True, timeout=300)
    first, final = viewstore.load(run.path).world_from_camera, run.cameras().world_from_camera
    assert np.array_equal(run.round_depths(0)[2].world_from_camera, first[2])
    assert np.allclose(run.depth(2).world_from_camera, final[2], atol=1e-9)
    assert np.allclose(first, final, atol=0.05)
    assert np.allclose(first, final, atol=1e-6) == given
    assert ("settled" in run.load_round_metrics(1)) != given
    views = viewstore.final(run.path)
    assert np.allclose(views.world_from_camera, final)
    assert np.array_equal(views.points.xyz, viewstore.load(run.path).points.xyz) == given


@pytest.mark.slow
def test_a_static_camera_is_refused_with_exit_4_and_says_so(tmp_path: Path) -> None:
    import av

    rng = np.random.default_rng(0)
    picture = made_views(1, 320, 240)[0].images[0]
    with av.open(str(tmp_path / "still.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(24):
            noisy = picture.astype(float) + rng.normal(0, 3, picture.shape)
            frame = av.VideoFrame.from_ndarray(
                np.clip(noisy, 0, 255).astype(np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "endorecon.cli", "fit", str(tmp_path / "still.mp4"), "--out",
         str(out), "--device", "cpu"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    info = json.loads((out / "run.json").read_text())
    assert info["status"] == "failed" and info["exit_code"] == 4


def test_another_setting_or_input_does_not_overwrite_a_run(tmp_path: Path) -> None:
    prepared(tmp_path, "run", 3)
    config = config_of(str(tmp_path / "small.yaml"))
    run = RunDir(tmp_path / "run")
    source = tmp_path / "v.mp4"
    with pytest.raises(InputRefused, match="seed"):
        pipeline._open_run(run, pipeline.Job(source, run.path, config, seed=5))
    with pytest.raises(InputRefused, match=r"field\.steps_first"):
        pipeline._open_run(run, pipeline.Job(source, run.path, config_of("cpu")))
    run.update_info(input_hash=hash_file(source))
    source.write_bytes(b"another video")
    with pytest.raises(InputRefused, match="content of the input"):
        pipeline._open_run(run, pipeline.Job(source, run.path, config))


def test_views_come_back_from_the_folder_bit_for_bit(tmp_path: Path) -> None:
    views, _ = made_views(3)
    viewstore.save(tmp_path, views)
    back = viewstore.load(tmp_path)
    assert back.camera == views.camera
    for name in ("images", "masks", "world_from_camera", "frame_index", "time_s"):
        np.testing.assert_array_equal(getattr(back, name), getattr(views, name))
    np.testing.assert_array_equal(back.points.xyz, views.points.xyz)
    cameras = RunDir(tmp_path).cameras()
    np.testing.assert_allclose(cameras.world_from_camera, views.world_from_camera, atol=1e-9)
    os.remove(tmp_path / "frames/000001.png")
    with pytest.raises(InputRefused, match="damaged"):
        viewstore.load(tmp_path)
