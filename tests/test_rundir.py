"""The run folder: whole or absent, hashed, locked, never half-read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from endorecon.errors import InputRefused, OutOfResources
from endorecon.io import atomic
from endorecon.io.plyfile import read_surface, write_surface
from endorecon.io.rundir import RunDir, read_depth, write_depth
from endorecon.scene import DepthMap, Surface


def make_depth(index: int = 7) -> DepthMap:
    rng = np.random.default_rng(index)
    z = rng.uniform(3, 9, (5, 7)).astype(np.float32)
    z[0, 0] = np.nan
    return DepthMap(z, z * 0.01, np.ones_like(z), np.eye(3), np.eye(4), index)


def make_surface() -> Surface:
    rng = np.random.default_rng(0)
    return Surface(
        rng.normal(size=(4, 3)) * 1e-3 + 12.3456789012,
        np.array([[0, 1, 2], [1, 2, 3]]),
        rng.integers(0, 255, (4, 3)).astype(np.uint8),
        np.array([0, 1, 0, 2], np.uint8),
        rng.uniform(0, 1, 4).astype(np.float32),
        "mm",
        "LPS",
    )


def test_a_surface_comes_back_bit_for_bit_with_unit_and_space(tmp_path: Path) -> None:
    surface = make_surface()
    write_surface(tmp_path / "s.ply", surface, ("seed=1",))
    back = read_surface(tmp_path / "s.ply")
    for name in ("vertices", "faces", "colors", "status", "sigma"):
        np.testing.assert_array_equal(getattr(back, name), getattr(surface, name))
    assert (back.unit, back.space) == ("mm", "LPS")
    assert b"comment SPACE=LPS" in (tmp_path / "s.ply").read_bytes()


def test_trimesh_reads_the_surface_as_we_wrote_it(tmp_path: Path) -> None:
    import trimesh

    surface = make_surface()
    write_surface(tmp_path / "s.ply", surface)
    mesh = trimesh.load(tmp_path / "s.ply", process=False)
    np.testing.assert_allclose(mesh.vertices, surface.vertices)
    np.testing.assert_array_equal(mesh.faces, surface.faces)


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_cut_surface_is_refused_in_one_sentence(tmp_path: Path, cut: int) -> None:
    write_surface(tmp_path / "s.ply", make_surface())
    data = (tmp_path / "s.ply").read_bytes()
    (tmp_path / "s.ply").write_bytes(data[:-cut])
    with pytest.raises(InputRefused):
        read_surface(tmp_path / "s.ply")


def test_a_round_is_the_checkpoint_and_a_flipped_byte_is_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    state = {"grid": np.arange(12, dtype=np.float32), "step": np.array([3])}
    run.save_round(0, state, [make_depth(3), make_depth(9)], {"change": None})
    back, depths, metrics = run.load_round(0)
    np.testing.assert_array_equal(back["grid"], state["grid"])
    assert [d.frame_index for d in depths] == [3, 9] and metrics == {"change": None}
    file = tmp_path / "rounds/00/field.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputRefused, match="Round 0 is damaged"):
        run.load_round(0)
    run.forget_round(0)
    assert run.rounds() == []


def test_an_old_round_without_its_weights_is_still_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for k in range(3):
        run.save_round(k, {"grid": np.ones(4, np.float32)}, [make_depth(3)], {"round": k})
    run.forget_field(0)
    run.check_round(0)
    assert not (tmp_path / "rounds/00/field.safetensors").exists()
    assert run.load_round_metrics(0) == {"round": 0}
    with pytest.raises(InputRefused):
        run.load_round(0)
    (tmp_path / "rounds/00/depth/000003.npz").write_bytes(b"x")
    with pytest.raises(InputRefused, match="Round 0 is damaged"):
        run.check_round(0)


def test_the_same_depth_gives_the_same_bytes(tmp_path: Path) -> None:
    write_depth(tmp_path / "000007.npz", make_depth())
    first = (tmp_path / "000007.npz").read_bytes()
    write_depth(tmp_path / "000007.npz", make_depth())
    assert (tmp_path / "000007.npz").read_bytes() == first
    np.testing.assert_array_equal(read_depth(tmp_path / "000007.npz").z, make_depth().z)


def test_an_object_array_is_refused_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "000001.npz", z=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputRefused):
        read_depth(tmp_path / "000001.npz")


def test_a_second_process_is_refused_at_once_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from endorecon.io.rundir import RunDir;"
        "lock = RunDir(Path(sys.argv[1])).lock(); print('have', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline().strip() == "have"
    with pytest.raises(OutOfResources, match=f"in use by process {other.pid}"):
        RunDir(tmp_path).lock()
    other.kill()
    other.wait()
    RunDir(tmp_path).lock().release()


def test_a_full_disk_keeps_the_old_file_and_says_one_sentence(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from endorecon.io import atomic\n"
        "from endorecon.errors import OutOfResources\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: atomic.write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OutOfResources as e: print(e); sys.exit(e.exit_code)\n"
    )
    file = tmp_path / "a.bin"
    atomic.write_bytes(file, b"old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 6 and "disk is full" in done.stdout
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_line_cut_by_a_crash_is_skipped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_events([{"kind": "a"}, {"kind": "b"}])
    with open(tmp_path / "events.jsonl", "a") as f:
        f.write('{"kind": "c"')
    assert [e["kind"] for e in run.events()] == ["a", "b"]
