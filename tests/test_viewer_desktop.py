"""The desktop viewer under Xvfb, driven by real mouse and key events (xdotool).

The truth is the analytic cavity: where its coloured spots are, how far apart, and at which pixel
of the window the frame's own camera must show them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewer_run import CENTRE, LENGTH, make_run, radius

from endorecon import geometry
from endorecon.viewer.case import open_case
from endorecon.viewer.display import missing_library

HERE = Path(__file__).parent
needs = [p for p in ("Xvfb", "xdotool") if shutil.which(p) is None]
needs += [missing_library()] if missing_library() else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(needs), reason=f"desktop test needs {', '.join(needs)} (apt-get)"),
]
pytest.importorskip("PySide6", reason="desktop test needs PySide6: pip install endorecon[desktop]")
pytest.importorskip("pyvistaqt", reason="desktop test needs pyvistaqt")


def wall(theta: float, s: float) -> np.ndarray:
    r = float(radius(np.array(theta), np.array(s)))
    return CENTRE + np.array([r * np.cos(theta), s - LENGTH / 2, r * np.sin(theta)])


class Desk:
    """A screen, a viewer on it, and hands."""

    def __init__(self, run: Path, state: Path) -> None:
        self.state = state
        read, write = os.pipe()
        self.x = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x740x24", "-nolisten", "tcp"],
            pass_fds=[write], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(write)
        with os.fdopen(read) as answer:
            display = f":{answer.readline().strip()}"
        self.env = {**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1"}
        self.env.pop("QT_QPA_PLATFORM", None)
        self.app = subprocess.Popen(
            [sys.executable, str(HERE / "viewer_desktop_process.py"), str(run), "", str(state)],
            env=self.env,
        )

    def close(self) -> None:
        for process in (self.app, self.x):
            process.terminate()
            process.wait(20)

    def see(self) -> dict[str, Any]:
        return json.loads(self.state.read_text())

    def until(self, good: Callable[[dict[str, Any]], bool], what: str, seconds: float = 150) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.app.poll() is None, "the viewer died"
            if self.state.is_file() and good(now := self.see()):
                return now
            time.sleep(0.2)
        raise AssertionError(f"{what}: {self.see() if self.state.is_file() else 'no state'}")

    def do(self, *words: Any) -> None:
        subprocess.run(["xdotool", *map(str, words)], env=self.env, check=True, timeout=30)
        time.sleep(0.3)

    def click(self, x: float, y: float) -> None:
        self.do("mousemove", round(x), round(y))
        self.do("click", 1)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    run = make_run(folder / "run", n=4).path
    made = Desk(run, folder / "state.json")
    made.run = run  # type: ignore[attr-defined]
    try:
        made.until(lambda s: s["view"][2] > 300 and s["distance"] > 1, "the window opens", 120)
        time.sleep(2)
        made.whole = made.see()["distance"]  # type: ignore[attr-defined]
        window = subprocess.run(
            ["xdotool", "search", "--name", "endorecon view"], env=made.env, check=True,
            capture_output=True, text=True,
        ).stdout.split()[-1]  # fmt: skip
        made.do("windowfocus", window)
        yield made
    finally:
        made.close()


def place_of(desk: Desk, p: np.ndarray, k: int) -> tuple[float, float]:
    """Where on the screen the frame's camera must show a point."""
    cameras = open_case(desk.run).cameras  # type: ignore[attr-defined]
    assert cameras is not None
    (u, v), z = geometry.project(p, cameras.world_from_camera[k], cameras.K)
    assert z > 0
    left, top, W, H = desk.see()["view"]
    s = min(W / cameras.width, H / cameras.height)
    x = left + W / 2 + s * (u - cameras.width / 2)
    y = top + H / 2 + s * (v - cameras.height / 2)
    assert left < x < left + W and top < y < top + H
    return x - 0.5, y - 0.5  # the middle of a screen pixel


def test_a_distance_taken_by_hand_is_within_a_tenth_of_a_millimetre(desk: Desk) -> None:
    assert "NOT FOR CLINICAL USE" in desk.see()["title"] and "2026-11-23" in desk.see()["title"]
    desk.do("key", "n")
    desk.until(lambda s: s["frame_index"] == 11, "the next frame")
    desk.do("key", "p")
    desk.do("key", "f")
    desk.until(lambda s: s["flying"] and s["frame_index"] == 4, "the flight to frame 4")
    a, b = wall(0.0, 16.0), wall(np.pi / 2, 16.0)
    desk.do("key", "d")
    desk.until(lambda s: "Distance" in s["message"], "the tool in hand")
    desk.click(*place_of(desk, a, 0))
    desk.until(lambda s: s["message"] == "1 picked", "the first point")
    desk.click(*place_of(desk, b, 0))
    now = desk.until(lambda s: len(s["rows"]) == 1, "the distance")
    name, shown, along, on, _ = now["rows"][0]
    value, half = (float(v) for v in re.findall(r"[\d.]+", shown)[:2])
    assert name == "D1" and shown.endswith(" mm") and on == "seen" and "mm" in along
    print("shown", shown, "truth", float(np.linalg.norm(a - b)))
    assert abs(value - float(np.linalg.norm(a - b))) < 0.1
    assert 0.1 < half < 1.0
    assert "TRE 1.1 mm" in now["message"]
    desk.do("key", "s")
    desk.until(lambda s: "Written" in s["message"], "saved")
    desk.do("key", "u")
    desk.until(lambda s: s["message"] == "Undone", "undone")
    desk.do("key", "ctrl+z")
    desk.until(lambda s: s["rows"] == [], "the table is empty")
    desk.do("key", "l")
    again = desk.until(lambda s: len(s["rows"]) == 1, "loaded")
    assert again["rows"] == now["rows"]


def test_the_mouse_turns_and_zooms_as_in_slicer(desk: Desk) -> None:
    desk.do("key", "Escape")
    desk.do("key", "Escape")
    desk.until(lambda s: not s["flying"], "the endoscope left")
    desk.do("key", "r")
    whole = pytest.approx(desk.whole, rel=1e-6)  # type: ignore[attr-defined]
    before = desk.until(lambda s: s["distance"] == whole, "everything in view")
    left, top, W, H = before["view"]
    x, y = left + W // 2, top + H // 2
    desk.do("mousemove", x, y, "mousedown", 1)
    desk.do("mousemove", x + 60, y)
    desk.do("mouseup", 1)
    turned = desk.until(lambda s: s["position"] != before["position"], "turned")
    assert turned["distance"] == pytest.approx(before["distance"], rel=1e-6)
    desk.do("mousemove", x, y, "mousedown", 3)
    desk.do("mousemove", x, y + 30)
    desk.do("mouseup", 3)
    zoomed = desk.until(lambda s: s["distance"] != turned["distance"], "zoomed")
    assert zoomed["distance"] < turned["distance"]  # pulled down: nearer
    desk.do("mousemove", x, y, "click", 4)
    desk.until(lambda s: s["distance"] < zoomed["distance"], "the wheel zooms")
    rows = desk.see()["rows"]
    assert len(rows) <= 1  # none of the drags has placed a point


def test_a_landmark_clicked_in_the_video_frame_appears_in_space(desk: Desk) -> None:
    cameras = open_case(desk.run).cameras  # type: ignore[attr-defined]
    assert cameras is not None
    p, k = wall(0.0, 16.0), 0
    n = len(desk.see()["rows"])
    (u, v), _ = geometry.project(p, cameras.world_from_camera[k], cameras.K)
    x, y, w, h, shown_w, shown_h = desk.see()["frame"]
    desk.click(x + (w - shown_w) / 2 + u * shown_w / cameras.width,
               y + (h - shown_h) / 2 + v * shown_h / cameras.height)  # fmt: skip
    now = desk.until(lambda s: len(s["rows"]) == n + 1, "the landmark")
    found = np.array([float(c) for c in re.findall(r"-?\d+\.\d", now["rows"][-1][1])[:3]])
    assert np.linalg.norm(found - p) < 0.4  # a pixel of the small frame is 0.2 mm here


def test_the_question_mark_lists_the_keys(desk: Desk) -> None:
    desk.do("key", "question")
    desk.until(lambda s: s["helping"], "the keys are listed")
    desk.do("key", "question")
    desk.until(lambda s: not s["helping"], "and go away")
