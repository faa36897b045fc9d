"""The run folder: the one place where a run keeps state, and the contract others script against.

`run.json`, `transforms.json`, `frames/`, `masks/`, `frames.csv`, `rounds/NN/`, `depth/NNNNNN.npz`,
`surface.ply`, `events.jsonl` (design.md, section 8). Every file is written whole or not at all. A
round folder is the checkpoint: it appears by one rename, with the SHA-256 of each file beside it.
Poses in transforms.json are camera-to-world in OpenGL axes (nerfstudio); here they come back in
OpenCV axes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import InputRefused, OutOfResources
from endorecon.io import atomic
from endorecon.io.plyfile import read_surface, write_surface
from endorecon.scene import DepthMap, Surface

Array = NDArray[Any]
SCHEMA = 1
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Cameras:
    """Undistorted pinhole cameras of a run, OpenCV axes."""

    frame_index: Array  # (n,)
    time_s: Array  # (n,)
    world_from_camera: Array  # (n, 4, 4)
    K: Array  # (3, 3)
    width: int
    height: int
    files: tuple[str, ...]  # image paths, relative to the run


class RunDir:
    """A run folder, opened for reading; `create` and `lock` make it writable."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    # -- reading -----------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def info(self) -> dict[str, Any]:
        """run.json. Raises InputRefused when it is absent, damaged or of another version."""
        file = self.path / "run.json"
        if not file.is_file():
            raise InputRefused(
                "This is not a run folder (it has no run.json)",
                "give the folder that `endorecon fit` wrote",
                self.path,
            )
        try:
            info = json.loads(file.read_text("utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise InputRefused("run.json is damaged", "run `endorecon fit` again", file) from error
        if not isinstance(info, dict) or info.get("schema", SCHEMA) != SCHEMA:
            found = info.get("schema") if isinstance(info, dict) else "none"
            raise InputRefused(
                f"The run folder has schema {found}, this program writes schema {SCHEMA}",
                "use the version that made it, or run `endorecon fit` again",
                self.path,
            )
        return info

    def surface(self) -> Surface:
        """surface.ply. Raises InputRefused when there is none or it is damaged."""
        return read_surface(self.path / "surface.ply")

    def depth_indices(self) -> list[int]:
        """Frame indices that have a depth map, in order."""
        folder = self.path / "depth"
        return sorted(int(f.stem) for f in folder.glob("*.npz") if f.stem.isdigit())

    def depth(self, frame_index: int) -> DepthMap:
        """The final depth map of one frame."""
        return read_depth(self.path / "depth" / f"{frame_index:06d}.npz")

    def frame_image(self, frame_index: int) -> Path:
        """Path of the undistorted working image of one frame."""
        for suffix in ("png", "jpg"):
            file = self.path / "frames" / f"{frame_index:06d}.{suffix}"
            if file.is_file():
                return file
        raise InputRefused(f"Frame {frame_index} is not in this run", "", self.path)

    def cameras(self) -> Cameras:
        """transforms.json in OpenCV axes. Raises InputRefused when absent or damaged."""
        file = self.path / "transforms.json"
        try:
            t = json.loads(file.read_text("utf-8"))
            frames = sorted(t["frames"], key=lambda f: f["frame_index"])
            poses = np.array([f["transform_matrix"] for f in frames], float).reshape(-1, 4, 4)
            return Cameras(
                np.array([f["frame_index"] for f in frames], int),
                np.array([f.get("time_s", np.nan) for f in frames], float),
                poses @ _OPENGL_FROM_OPENCV,
                np.array([[t["fl_x"], 0, t["cx"]], [0, t["fl_y"], t["cy"]], [0, 0, 1.0]]),
                int(t["w"]),
                int(t["h"]),
                tuple(f["file_path"] for f in frames),
            )
        except FileNotFoundError as error:
            raise InputRefused(
                "The run has no poses yet (no transforms.json)", "let `endorecon fit` go on", file
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputRefused(
                "transforms.json is damaged", "run `endorecon fit` again", file
            ) from error

    def events(self) -> list[dict[str, Any]]:
        """All whole lines of events.jsonl; a line cut by a crash is skipped."""
        file = self.path / "events.jsonl"
        events = []
        for line in (
            file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
        ):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def rounds(self) -> list[int]:
        """Finished rounds, in order."""
        folder = self.path / "rounds"
        return sorted(int(f.name) for f in folder.glob("[0-9][0-9]") if f.is_dir())

    def round_depths(self, round_: int) -> list[DepthMap]:
        """Depth maps of one round."""
        folder = self.path / "rounds" / f"{round_:02d}" / "depth"
        return [read_depth(f) for f in sorted(folder.glob("*.npz"))]

    def load_round_metrics(self, round_: int) -> dict[str, Any]:
        """metrics.json of a finished round; {} when it cannot be read."""
        file = self.path / "rounds" / f"{round_:02d}" / "metrics.json"
        try:
            found = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def check_round(self, round_: int) -> None:
        """Raises InputRefused when a file of a round is missing or does not match its hash."""
        folder = self.path / "rounds" / f"{round_:02d}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            for name, digest in manifest.items():
                if hash_file(folder / name) != digest:
                    raise ValueError(f"{name} does not match its hash")
        except (OSError, ValueError, AttributeError) as error:
            raise InputRefused(f"Round {round_} is damaged ({error})", "", folder) from error

    def load_round(self, round_: int) -> tuple[dict[str, Array], list[DepthMap], dict[str, Any]]:
        """State, depth maps and metrics of a round; InputRefused when a hash does not match."""
        from safetensors.numpy import load

        self.check_round(round_)
        folder = self.path / "rounds" / f"{round_:02d}"
        try:
            state = load((folder / "field.safetensors").read_bytes())
            metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
            return state, self.round_depths(round_), metrics
        except (OSError, ValueError, KeyError, InputRefused) as error:
            raise InputRefused(f"Round {round_} is damaged ({error})", "", folder) from error

    # -- writing -----------------------------------------------------------------------------

    def update_info(self, **changes: Any) -> None:
        """Merge keys into run.json."""
        info = self.info() if self.exists else {"schema": SCHEMA}
        info.update(changes)
        atomic.write_json(self.path / "run.json", info)

    def append_events(self, events: Iterable[dict[str, Any]]) -> None:
        """Append to events.jsonl; each line is whole or skipped by readers."""
        text = "".join(json.dumps(e, sort_keys=True) + "\n" for e in events)
        try:
            with open(self.path / "events.jsonl", "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise atomic.as_resource_error(error, self.path) from error

    def save_depth(self, depth: DepthMap) -> None:
        """Write one final depth map."""
        write_depth(self.path / "depth" / f"{depth.frame_index:06d}.npz", depth)

    def save_surface(self, surface: Surface, comments: tuple[str, ...] = ()) -> None:
        """Write surface.ply."""
        write_surface(self.path / "surface.ply", surface, comments)

    def save_round(
        self, round_: int, state: dict[str, Array], depths: list[DepthMap], metrics: dict[str, Any]
    ) -> None:
        """Write a round folder; it appears by one rename, and is then the checkpoint."""
        from safetensors.numpy import save

        final = self.path / "rounds" / f"{round_:02d}"
        folder = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            whole = {k: np.ascontiguousarray(v) for k, v in state.items()}
            atomic.write_bytes(folder / "field.safetensors", save(whole))
            for depth in depths:
                write_depth(folder / "depth" / f"{depth.frame_index:06d}.npz", depth)
            atomic.write_json(folder / "metrics.json", metrics)
            names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
            atomic.write_json(
                folder / "manifest.json", {name: hash_file(folder / name) for name in names}
            )
            shutil.rmtree(final, ignore_errors=True)
            os.rename(folder, final)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise atomic.as_resource_error(error, final) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def forget_round(self, round_: int) -> None:
        """Remove a damaged round and all later ones."""
        for k in [r for r in self.rounds() if r >= round_]:
            shutil.rmtree(self.path / "rounds" / f"{k:02d}", ignore_errors=True)

    def forget_field(self, round_: int) -> None:
        """Drop the weights of an old round (its depths stay), so that disk use stays flat."""
        folder = self.path / "rounds" / f"{round_:02d}"
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        if manifest.pop("field.safetensors", None) is not None:
            atomic.write_json(folder / "manifest.json", manifest)
        (folder / "field.safetensors").unlink(missing_ok=True)

    def lock(self) -> RunLock:
        """The exclusive right to write here, until the process ends or `release`."""
        return RunLock(self.path)


class RunLock:
    """flock on RUN/.lock: the kernel frees it when the process dies, so it is never stale."""

    def __init__(self, folder: Path) -> None:
        import fcntl

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
        except FileExistsError as error:
            raise InputRefused("The run folder's name is taken by a file", "", folder) from error
        except OSError as error:
            raise atomic.as_resource_error(error, folder) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise OutOfResources(
                f"The run folder is in use by {owner}",
                "wait for it to end, or choose another folder with --out",
                folder,
            ) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        """Give the folder back."""
        self._file.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_depth(path: Path, depth: DepthMap) -> None:
    """One depth map as npz: z, sigma, trust (h, w) float32, K, world_from_camera.

    Entries have a fixed date, so that the same depth gives the same bytes.
    """
    arrays = {
        "z": depth.z.astype(np.float32),
        "sigma": depth.sigma.astype(np.float32),
        "trust": depth.trust.astype(np.float32),
        "K": np.asarray(depth.K, np.float64),
        "world_from_camera": np.asarray(depth.world_from_camera, np.float64),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic.write_bytes(path, buffer.getvalue())


def read_depth(path: Path) -> DepthMap:
    """Read what `write_depth` wrote. Raises InputRefused when absent or damaged."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as d:
            return DepthMap(
                d["z"], d["sigma"], d["trust"], d["K"], d["world_from_camera"], int(path.stem)
            )
    except FileNotFoundError as error:
        raise InputRefused(f"There is no depth map of frame {path.stem}", "", path) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputRefused("The depth map is damaged", "run `endorecon fit` again", path) from error


def iterate_depths(run: RunDir) -> Iterator[DepthMap]:
    """All final depth maps of a run, one at a time."""
    for index in run.depth_indices():
        yield run.depth(index)
