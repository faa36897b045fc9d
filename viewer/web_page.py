"""The page: layers on the left, the view in the middle, video, slices and table on the right.

Plain elements and Vuetify's controls; no icons, so that no icon font is needed. Large type,
near-black ground.
"""

from __future__ import annotations

from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vtk as vtk_widgets
from trame.widgets import vuetify3 as v3

from .keys import ACTIONS, BUTTONS
from .session import Session
from .slices import WINDOWS
from .style import BACKGROUND
from .surface_layer import COLOURINGS

CLIPS = (("off", "Clip: off"), ("view", "Plane facing me"), ("x", "Plane left-right"),
         ("y", "Plane front-back"), ("z", "Plane up-down"), ("box", "Box"))  # fmt: skip
CSS = f"""
html {{ overflow: hidden !important; }}
.er {{ background: {BACKGROUND}; color: #f4f6f8; font: 17px/1.35 sans-serif; height: 100vh;
      display: grid; grid-template: auto 1fr / 270px 1fr 320px; outline: none; }}
.er-bar {{ grid-column: 1 / 4; display: flex; flex-wrap: wrap; gap: 4px; padding: 6px;
          border-bottom: 1px solid #2c3640; }}
.er button {{ background: #1c232b; color: #f4f6f8; border: 1px solid #46525e; border-radius: 4px;
             padding: 4px 11px; font-size: 17px; }}
.er button:hover, .er button.on {{ background: #2f5d7c; }}
.er-side {{ overflow-y: auto; padding: 8px; min-height: 0; }}
.er-side img {{ width: 100%; display: block; margin-bottom: 6px; cursor: crosshair; }}
.er-view {{ position: relative; min-width: 0; min-height: 0; }}
.er select, .er input[type=text] {{ width: 100%; background: #1c232b; color: #f4f6f8; padding: 5px;
      border: 1px solid #46525e; border-radius: 4px; font-size: 17px; margin: 4px 0; }}
.er input[type=range] {{ width: 100%; accent-color: #4cc9f0; }}
.er input[type=checkbox] {{ width: 18px; height: 18px; accent-color: #4cc9f0; }}
.er-layer {{ display: grid; grid-template-columns: 24px 1fr 70px; align-items: center; gap: 4px; }}
.er table {{ border-collapse: collapse; width: 100%; font-size: 15px; }}
.er td {{ border-top: 1px solid #2c3640; padding: 3px 4px; vertical-align: top; }}
.er-grey {{ color: #8a949e; }}
"""
# How a slider or a list tells its value; the handler gets it as a number or a word.
VALUE = "[$event.target.value]"


def build(server: Any, session: Session, page: Any) -> None:
    """Make the page of a server."""
    state = server.state
    state.update({"note_text": "", "slices": [], "curve_url": "", "frame_url": "", "on": []})
    help_of = {key: what for keys, what, _ in ACTIONS for key in keys}
    with VAppLayout(server, theme="dark") as layout:
        client.Style(CSS)
        with html.Div(
            classes="er", tabindex="0", id="er",
            keydown=(page.key, "[$event.key, $event.ctrlKey]"),
        ):  # fmt: skip
            with html.Div(classes="er-bar"):
                for words, key in BUTTONS:
                    html.Button(
                        words.strip(), click=(page.key, f"['{key}']"), tabindex="-1",
                        classes=(f"on.includes('{key}') ? 'on' : ''",),
                        title=f"{help_of[key]} ({'space' if key == ' ' else key})",
                    )  # fmt: skip
            with html.Div(classes="er-side"):
                _left(session, page)
            with html.Div(classes="er-view", id="er-view"):
                page.view = vtk_widgets.VtkRemoteView(
                    session.plotter.render_window, interactive_ratio=1, still_quality=92,
                    interactive_quality=70, style="width: 100%; height: 100%;",
                )  # fmt: skip
            with html.Div(classes="er-side"):
                _right(session, page)
    page.layout = layout


def _left(session: Session, page: Any) -> None:
    with html.Div(classes="er-layer", v_for="x in layers", key=("x.name",), title=("x.why",)):
        html.Input(
            type="checkbox", checked=("x.visible",), disabled=("!!x.why",), tabindex="-1",
            id=("'layer-' + x.name",),
            change=(session.show, "[x.name, $event.target.checked]"),
        )  # fmt: skip
        html.Span("{{ x.name }}", classes=("x.why ? 'er-grey' : ''",))
        html.Input(
            type="range", min="0.05", max="1", step="0.05", value=("x.opacity",), v_if="x.fades",
            tabindex="-1", change=(_number(session.fade), "[x.name, $event.target.value]"),
        )  # fmt: skip
    _choice("colouring", COLOURINGS.items(), session.colour)
    with html.Label():
        html.Input(type="checkbox", checked=("inside",), tabindex="-1",
                   change=(session.look_inside, "[$event.target.checked]"))  # fmt: skip
        html.Span(" look inside")
    _choice("window", [(w, f"CT window: {w}") for w in WINDOWS], session.set_window)
    _choice("clip_mode", CLIPS, session.set_clip)
    html.Input(
        type="range", min="0", max="1", step="0.01", value=("clip_at",), tabindex="-1",
        v_if="clip_mode !== 'off' && clip_mode !== 'box'",
        input=(lambda at: session.set_clip(session.clip_mode, float(at)), VALUE),
    )  # fmt: skip
    with html.Div(v_if="clip_mode === 'box'"):
        html.Input(
            type="range", min="0", max="1", step="0.01", v_for="b, k in box", key=("k",),
            value=("b",), tabindex="-1", change=(page.box_moved, "[k, $event.target.value]"),
        )  # fmt: skip
    with html.Div(style="display: flex; gap: 4px; margin: 8px 0;"):
        for letter in "LRAPSI":
            html.Button(letter, click=(session.reset_view, f"['{letter}']"), tabindex="-1",
                        title=f"look from {letter}")  # fmt: skip
    html.Input(
        type="text", placeholder="text of the next note", v_model="note_text",
        raw_attrs=["@keydown.stop", '@change="flushState(\'note_text\')"'],
    )  # fmt: skip


def _number(call: Any) -> Any:
    return lambda name, value: call(name, float(value))


def _choice(name: str, options: Any, call: Any) -> None:
    with html.Select(value=(name,), id=f"er-{name}", change=(call, VALUE), tabindex="-1"):
        for key, words in options:
            html.Option(words, value=key)


def _right(session: Session, page: Any) -> None:
    at = ("[$event.offsetX / $event.target.clientWidth, "
          "$event.offsetY / $event.target.clientHeight]")  # fmt: skip
    html.Img(src=("frame_url",), id="er-frame", v_if="frame_url", click=(page.frame_clicked, at))
    html.Div("{{ frame_words }}", id="er-frame-words")
    html.Input(
        type="range", min="0", max=("Math.max(frame_count - 1, 0)",), step="1", tabindex="-1",
        value=("frame_k",), id="er-frames", input=(page.frame_moved, VALUE),
    )  # fmt: skip
    html.Div("video over 3D")
    html.Input(
        type="range", min="0", max="1", step="0.05", value=("blend",), tabindex="-1",
        change=(lambda b: session.scope.mix(float(b)), VALUE),
    )  # fmt: skip
    html.Img(src=("curve_url",), v_if="curve_url", id="er-curve")
    with html.Table(v_if="rows.length", id="er-table"):  # noqa: SIM117 (a tree, not two locks)
        with html.Tr(v_for="r in rows", key=("r.name",)):
            html.Td("{{ r.name }}")
            with html.Td(classes=("mm ? '' : 'er-grey'",)):
                html.Div("{{ r.value }}", classes="er-value")
                html.Div("along {{ r.along }}", v_if="r.along")
                html.Div("{{ r.note }}", v_if="r.note")
            html.Td("{{ r.on }}")
            with html.Td():
                html.Button("x", click=(session.hands.remove, "[r.name]"), tabindex="-1")
    html.Button(
        "CSV to this computer", v_if="rows.length", tabindex="-1",
        click="utils.download('measurements.csv', trigger('csv'), 'text/csv')",
    )  # fmt: skip
    page.server.trigger("csv")(page.download_csv)
    html.Img(
        v_for="p in slices", key=("p.name",), src=("p.url",), v_show="p.url",
        raw_attrs=[':id="\'slice-\' + p.name"'],
        click=(page.slice_clicked, "[p.name, " + at[1:]),
    )  # fmt: skip
    html.Div("{{ message }}", id="er-message", v_show="false")
    v3.VSpacer()
