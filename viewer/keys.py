"""Every key: what it is called, what it does, what `?` says of it. One table for all front doors.

Names are what Qt and browsers call them, lower case ("?", "escape", "arrowright", "ctrl+z").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .slices import WINDOWS
from .surface_layer import COLOURINGS

if TYPE_CHECKING:
    from .session import Session

Action = Callable[["Session"], object]


def _colour(name: str) -> Action:
    return lambda s: s.colour(name)


def _toggle(layer: str) -> Action:
    return lambda s: s.show(layer, not s.layers.all[layer].visible)


def _next_clip(s: Session) -> None:
    modes = ["off", "view", "x", "y", "z", "box"]
    s.set_clip(modes[(modes.index(s.clip_mode) + 1) % len(modes)])
    names = {"x": "plane left-right", "y": "plane front-back", "z": "plane up-down"}
    s.say(f"Clipping: {names.get(s.clip_mode, s.clip_mode)}")


def _move_clip(by: float) -> Action:
    return lambda s: s.set_clip(s.clip_mode, s.clip_at + by)


def _next_window(s: Session) -> None:
    names = list(WINDOWS)
    s.set_window(names[(names.index(s.window) + 1) % len(names)])
    s.say(f"CT window: {s.window}")


def _next_blend(s: Session) -> None:
    s.scope.mix(0.5 if s.scope.blend < 0.25 else 1.0 if s.scope.blend < 0.75 else 0.0)
    s.say(f"Video over the rendering: {100 * s.scope.blend:.0f} %")


def _escape(s: Session) -> None:
    if s.overlay.helping:
        _help(s)
    elif s.hands.tools.kind is not None:
        s.hands.use(None)
    else:
        s.scope.leave()


def _help(s: Session) -> None:
    s.overlay.help("" if s.overlay.helping else text())
    for name in ("measurements", "landmarks"):  # their labels would lie over the keys
        layer = s.layers.all[name]
        for actor in layer.actors:
            actor.SetVisibility(layer.visible and not s.overlay.helping)
    s.changed()


ACTIONS: tuple[tuple[tuple[str, ...], str, Action], ...] = (
    (("?",), "keys, on and off", _help),
    (("r",), "see everything", lambda s: s.reset_view()),
    *(((str(k + 1),), f"colour: {COLOURINGS[c]}", _colour(c)) for k, c in enumerate(COLOURINGS)),
    (("i",), "look inside: hide near walls", lambda s: s.look_inside(not s.inside)),
    (("c",), "clipping: off, view, x, y, z, box", _next_clip),
    (("[",), "clipping plane back", _move_clip(-0.03)),
    (("]",), "clipping plane on", _move_clip(0.03)),
    (("f",), "endoscope view of this frame", lambda s: s.scope.fly()),
    (("n", "arrowright"), "next frame", lambda s: s.scope.step(1)),
    (("p", "arrowleft"), "previous frame", lambda s: s.scope.step(-1)),
    (("b",), "video over the rendering: 0, 50, 100 %", _next_blend),
    (("h",), "camera path", _toggle("camera path")),
    (("k",), "landmarks", _toggle("landmarks")),
    (("g",), "CT slices", _toggle("CT slices")),
    (("j",), "CT surface (air-tissue)", _toggle("CT air-tissue surface")),
    (("w",), "CT window preset", _next_window),
    (("t",), "tool: point", lambda s: s.hands.use("point")),
    (("d",), "tool: distance", lambda s: s.hands.use("distance")),
    (("a",), "tool: angle", lambda s: s.hands.use("angle")),
    (("o",), "tool: ostium outline, area", lambda s: s.hands.use("area")),
    (("m",), "tool: note", lambda s: s.hands.use("note")),
    (("enter",), "close the outline", lambda s: s.hands.close_outline()),
    (("u", "ctrl+z"), "undo", lambda s: s.hands.undo()),
    (("escape",), "tool down, leave the endoscope", _escape),
    (("s",), "save measurements (.mrk.json)", lambda s: s.hands.save()),
    (("l",), "load measurements", lambda s: s.hands.load()),
    (("x",), "table to CSV", lambda s: s.hands.export_csv()),
    (("q",), "screenshot", lambda s: s.hands.screenshot()),
    (("v",), "compare with the first round", lambda s: s.toggle_compare()),
    ((" ",), "play the rounds", lambda s: s.rounds.play()),
    (("+",), "next round", lambda s: s.rounds.step(1)),
    (("-",), "previous round", lambda s: s.rounds.step(-1)),
)
BUTTONS = ((" 3D ", "r"), ("Point", "t"), ("Distance", "d"), ("Angle", "a"), ("Outline", "o"),
           ("Note", "m"), ("Undo", "u"), ("Endoscope", "f"), ("Inside", "i"), ("Clip", "c"),
           ("Compare", "v"), ("Play", " "), ("Save", "s"), ("Load", "l"), ("CSV", "x"),
           ("Picture", "q"), ("Keys ?", "?"))  # fmt: skip
SWITCHES: dict[str, Callable[[Session], bool]] = {  # buttons that show whether they are on
    "t": lambda s: s.hands.tools.kind == "point",
    "d": lambda s: s.hands.tools.kind == "distance",
    "a": lambda s: s.hands.tools.kind == "angle",
    "o": lambda s: s.hands.tools.kind == "area",
    "m": lambda s: s.hands.tools.kind == "note",
    "f": lambda s: s.scope.flying,
    "i": lambda s: s.inside,
    "c": lambda s: s.clip_mode != "off",
    "v": lambda s: s.compared is not None,
    " ": lambda s: s.rounds.playing,
    "?": lambda s: s.overlay.helping,
}
MOUSE = (
    ("left drag", "turn"),
    ("middle drag", "move (shift + left drag, too)"),
    ("right drag", "zoom (wheel, too)"),
    ("left click", "place a point with the tool"),
    ("shift+move", "CT slices follow on the surface"),
)
NAMES = {"arrowright": "→", "arrowleft": "←", " ": "space", "escape": "Esc", "enter": "Enter"}
_BY_KEY = {key: action for keys, _, action in ACTIONS for key in keys}


def press(session: Session, key: str) -> bool:
    """Do what a key stands for; False when it stands for nothing."""
    action = _BY_KEY.get(key.lower())
    if action is None:
        return False
    action(session)
    return True


def text() -> str:
    """The keys and the mouse in two columns, for the screen."""
    lines = [(", ".join(NAMES.get(k, k) for k in keys), what) for keys, what, _ in ACTIONS]
    lines += [("", ""), ("MOUSE", "as in 3D Slicer"), *MOUSE]
    half = (len(lines) + 1) // 2
    left, right = lines[:half], lines[half:] + [("", "")] * (2 * half - len(lines))
    rows = [f"  {a:<7}{b:<40}{c:<13}{d}" for (a, b), (c, d) in zip(left, right, strict=True)]
    width = max(map(len, rows)) + 2
    return "\n".join(f"{row:<{width}}" for row in ["", "  KEYS (? closes)", "", *rows, ""])
