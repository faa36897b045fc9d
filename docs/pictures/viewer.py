"""The pictures viewer-*.png: every layer and tool of the viewer on one run.

    python docs/pictures/viewer.py RUN [CT] [--out DIR]

RUN is `demo`'s run (or any registered run of the sinus phantom), CT its CT. A run of a real video
has neither registration nor CT, and its pictures are to be looked at, not to be kept here: give
--out a folder outside of the project, as for all pictures of patients or of data sets.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from endorecon.viewer.case import open_case
from endorecon.viewer.headless import beside, view_pixels
from endorecon.viewer.keys import press
from endorecon.viewer.session import Session, make_plotter

MOST_BYTES = 300_000
CT_LAYERS = {
    "CT slices": "ct-slices", "CT volume": "ct-volume", "CT bone": "ct-bone",
    "CT air-tissue surface": "ct-surface", "landmarks": "landmarks",
}  # fmt: skip
ENDS = ((0.2, 0.45), (0.37, 0.75))  # of a distance, in the endoscope's view


def keep(folder: Path, name: str, image: np.ndarray) -> None:
    """Write a picture, smaller and in 256 colours where it would be large."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    for share in (1.0, 0.8, 0.6):
        size = (round(share * picture.width), round(share * picture.height))
        out = io.BytesIO()
        small = picture if share == 1 else picture.resize(size).quantize(256)
        small.save(out, "PNG", optimize=True)
        if len(out.getvalue()) <= MOST_BYTES:
            break
    (folder / f"viewer-{name}.png").write_bytes(out.getvalue())


def opened(run: Path, ct: Path | None = None) -> Session:
    """A session without a window."""
    s = Session(make_plotter((960, 640)), open_case(run), ct)
    s.on_render = lambda: None
    return s


def clicks(s: Session, tool: str, *places: tuple[float, float]) -> None:
    """Take a tool and click at shares of the view's width and height, from below."""
    W, H = s.renderer.GetSize()
    s.hands.use(tool)  # type: ignore[arg-type]
    for x, y in places:
        s.hands.click(W * x, H * y)


def main(run: Path, ct: Path | None, folder: Path) -> None:
    """Write all pictures of a run into `folder`."""
    s = opened(run, ct)

    def shot(name: str, words: str | None = "") -> None:
        s.frame_moved()
        if words is not None:
            s.say(words)
        keep(folder, name, view_pixels(s))

    shot("photo")
    for colour in ("plain", "sigma", "status", "depth"):
        s.colour(colour)
        shot(colour)
    if ct:
        s.colour("ct")
        shot("distance-to-ct")
    s.colour("photo")
    for layer, name in (CT_LAYERS if ct else {}).items():
        s.show(layer, True)
        shot(name)
        s.show(layer, False)
    s.scope.step(s.scope.count // 2)
    s.show("camera path", True)
    s.reset_view()
    shot("camera-path")
    s.show("camera path", False)
    s.reset_view()
    press(s, "?")
    shot("keys")
    press(s, "?")
    s.set_clip("view", 0.4)
    shot("clip", "Clipping: view")
    s.set_clip("box", box=[0.2, 0.8, 0.1, 0.7, 0.0, 1.0])
    shot("box", "Clipping: box")
    s.set_clip("off")
    s.look_inside(True)
    shot("inside")
    s.look_inside(False)
    s.scope.fly()
    video = s.scope.image()
    assert video is not None
    keep(folder, "endoscope-beside", beside(view_pixels(s), video))
    s.scope.mix(0.5)
    shot("endoscope-blended", None)
    s.scope.mix(0.0)
    measure(s)
    shot("tools", None)
    s.hands.use(None)
    s.scope.leave()
    shot("tools-outside")
    s.toggle_compare()
    keep(folder, "compare-rounds", view_pixels(s))
    s.plotter.close()


def measure(s: Session) -> None:
    """One of each tool, by clicks in the endoscope's view."""
    ring = np.linspace(0, 2 * np.pi, 10)[:-1]
    clicks(s, "point", (0.72, 0.62))
    clicks(s, "angle", (0.42, 0.72), (0.5, 0.65), (0.58, 0.74))
    clicks(s, "area", *((0.475 + 0.12 * np.cos(a), 0.26 + 0.18 * np.sin(a)) for a in ring))
    s.hands.close_outline()
    s.hands.ask_note = lambda: "look again in a year"
    clicks(s, "note", (0.35, 0.55))
    clicks(s, "distance", *ENDS)


def unregistered(run: Path, folder: Path) -> None:
    """The same run before it was held against a CT: no millimetre anywhere."""
    with tempfile.TemporaryDirectory() as place_:
        place = Path(place_) / run.name
        place.mkdir()
        for part in run.iterdir():
            if part.name != "evaluation":
                (place / part.name).symlink_to(part.resolve())
        s = opened(place)
        s.scope.step(s.scope.count // 2)
        s.scope.fly()
        clicks(s, "distance", *ENDS)
        keep(folder, "unregistered", view_pixels(s))
        s.plotter.close()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("run", type=Path)
    p.add_argument("ct", type=Path, nargs="?")
    p.add_argument("--out", type=Path, default=Path(__file__).parent)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    main(a.run, a.ct, a.out)
    unregistered(a.run, a.out)
