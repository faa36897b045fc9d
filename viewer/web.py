"""The viewer in a browser: trame round the same session, drawn on this machine.

One session for all who look: what one does the others see (a ward and a theatre on one case).
Nothing listens beyond 127.0.0.1 unless asked; then every request, the web socket's included,
must carry the token (a cookie after the first visit). Pages of other origins and names are turned
away always. Nothing is fetched from elsewhere: scripts and fonts come from the installed wheels.
"""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from endorecon.errors import EndoreconError, EnvironmentFault, OutOfResources

from .case import Case
from .keys import SWITCHES, press
from .mouse import Mouse
from .rounds import curve
from .session import Session, make_plotter, prepare
from .slices import PLANES

Array = NDArray[Any]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "endorecon_token"
TICK_S = 0.25
SLICE = 240


def data_url(image: Array | None, quality: int = 88) -> str:
    """A picture as a JPEG data URL, "" for none."""
    from PIL import Image

    if image is None:
        return ""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def guard(host: str, token: str | None) -> Any:
    """aiohttp middleware: own origin and name only, and the token where there is one."""
    from aiohttp import web
    from yarl import URL

    @web.middleware
    async def check(request: Any, handler: Any) -> Any:
        name = URL(f"http://{request.host}").host or ""
        origin = request.headers.get("Origin")
        foreign = (
            origin is not None and URL(origin).authority != URL(f"http://{request.host}").authority
        )
        if foreign or (host in LOOPBACK and name not in LOOPBACK):
            return web.Response(status=403, text="This page may not talk to the viewer.")
        if token is None:
            return await handler(request)
        given = request.query.get("token") or request.cookies.get(COOKIE) or ""
        if not secrets.compare_digest(given.encode(), token.encode()):
            return web.Response(
                status=401, text="A token is needed: open the address that endorecon view printed."
            )
        if request.query.get("token") and "Upgrade" not in request.headers:
            # Off the address bar and out of the history, into a cookie scripts cannot read.
            response = web.HTTPFound("/index.html")
            response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
            return response
        return await handler(request)

    return check


def serve(
    case: Case, ct: Path | None, follow: bool, host: str, port: int, token: str | None,
    colour: str, frame: int | None, other: Case | None, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Serve until interrupted. EnvironmentFault without trame, OutOfResources for the port."""
    try:
        from trame.app import get_server

        from .web_page import build
    except ImportError as error:
        raise EnvironmentFault(
            "The viewer in the browser needs trame", "pip install 'endorecon[web]'"
        ) from error
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(24)
    server = get_server(f"endorecon-{secrets.token_hex(4)}", client_type="vue3")
    session = Session(make_plotter((1200, 800)), case, ct)
    interactor = session.plotter.render_window.GetInteractor() or _interactor(session)
    session.mouse = Mouse(session, interactor)  # type: ignore[attr-defined]
    session.rounds.following = follow
    prepare(session, colour, frame, other)
    page = Page(server, session)
    build(server, session, page)
    page.refresh()
    session.listeners.append(page.refresh)
    session.on_render = page.draw
    server.controller.on_server_bind.add(lambda s: s.app.middlewares.append(guard(host, token)))

    def ready(**_: Any) -> None:
        shown = f"[{host}]" if ":" in host else host
        query = f"/?token={token}" if token else "/"
        say(f"http://{shown}:{server.port}{query}")
        if host not in LOOPBACK:
            say("Open to the network, unencrypted: use it inside a trusted network only")
        asyncio.get_event_loop().create_task(page.tick())

    server.controller.on_server_ready.add(ready)
    try:
        # trame reads the command line by itself; ours is none of its business.
        with mock.patch.object(sys, "argv", ["endorecon"]), _quiet_start():
            server.start(
                port=port, host=host, open_browser=False, show_connection_info=False,
                disable_logging=True, timeout=0,
            )  # fmt: skip
    except OSError as error:
        raise OutOfResources(
            f"The port {port} on {host} cannot be opened ({error.strerror or error})",
            "choose another, or none",
        ) from error
    finally:
        session.plotter.close()


def _quiet_start() -> Any:
    import os

    return mock.patch.dict(os.environ, {"WSLINK_READY_MSG": ""})


def _interactor(session: Session) -> Any:
    from vtkmodules.vtkRenderingUI import vtkGenericRenderWindowInteractor

    made = vtkGenericRenderWindowInteractor()
    made.SetRenderWindow(session.plotter.render_window)
    return made


class Page:
    """The state the browser sees, and what it may ask for."""

    def __init__(self, server: Any, session: Session) -> None:
        self.server, self.session = server, session
        self.view: Any = None  # the remote view, set when the page is built
        self._shown: dict[str, Any] = {}
        session.hands.ask_note = lambda: str(self.server.state.note_text or "")

    def draw(self) -> None:
        """A new picture for every browser."""
        if self.view is not None and self.server.running:
            self.view.update()

    def refresh(self) -> None:
        """Bring the browser's state in line with the session's; only what changed is sent."""
        s, state = self.session, self.server.state
        tools = s.hands.tools
        new: dict[str, Any] = {
            "trame__title": f"endorecon · {s.case.title}",
            "message": s.message,
            "bad": s.bad,
            "colouring": s.colouring,
            "window": s.window,
            "inside": s.inside,
            "clip_mode": s.clip_mode,
            "clip_at": round(s.clip_at, 2),
            "box": [round(b, 2) for b in s.box],
            "on": [key for key, is_on in SWITCHES.items() if is_on(s)],
            "mm": s.case.mm,
            "flying": s.scope.flying,
            "blend": round(s.scope.blend, 2),
            "frame_k": s.scope.k,
            "frame_count": s.scope.count,
            "frame_words": "no posed frame yet" if s.scope.frame_index is None
                           else f"frame {s.scope.frame_index}",
            "layers": [
                {"name": n, "visible": x.visible, "opacity": round(x.opacity, 2),
                 "fades": x.fades, "why": x.why_not}
                for n, x in s.layers.all.items()
            ],
            "rows": [
                {"name": t.name, "value": tools.value_text(t), "along": tools.along_text(t),
                 "on": "weak" if t.weak else "seen", "note": t.text}
                for t in tools.taken
            ],
        }  # fmt: skip
        self._pictures(new)
        changed = {k: v for k, v in new.items() if self._shown.get(k) != v or k not in self._shown}
        self._shown.update(changed)
        state.update(changed)
        if self.server.running:
            state.flush()

    def _pictures(self, new: dict[str, Any]) -> None:
        """Pictures are made only when what they show has changed."""
        s = self.session
        key: Any = (s.case.run.path, s.scope.frame_index)
        if self._shown.get("_frame") != key:
            self._shown["_frame"] = key
            new["frame_url"] = data_url(s.scope.image())
        key = (tuple(s.cursor), s.window, s.case.mm)
        if self._shown.get("_slices") != key:
            self._shown["_slices"] = key
            try:
                new["slices"] = [
                    {"name": n, "url": data_url(s.slice_picture(n, SLICE))} for n in PLANES
                ]
            except EndoreconError as error:
                new["slices"] = []
                new["message"], new["bad"] = error.what, True
        if s.rounds.following:
            key = (len(s.rounds.all), len(s.case.run.events()))
            if self._shown.get("_curve") != key:
                self._shown["_curve"] = key
                new["curve_url"] = data_url(curve(s.case.run), 95)

    async def tick(self) -> None:
        """The clock of playing and following."""
        while True:
            await asyncio.sleep(TICK_S)
            self.session.tick()

    # -- what the browser asks for -----------------------------------------------------------------

    def key(self, key: str, ctrl: bool = False) -> None:
        press(self.session, f"ctrl+{key.lower()}" if ctrl else key)

    def frame_clicked(self, x: float, y: float) -> None:
        """A click at shares (x, y) of the frame's width and height."""
        cameras = self.session.case.cameras
        if cameras is not None:
            self.session.hands.click_frame(float(x) * cameras.width, float(y) * cameras.height)

    def slice_clicked(self, name: str, x: float, y: float) -> None:
        self.session.cursor_from_slice(str(name), float(x) * SLICE, float(y) * SLICE, SLICE)

    def frame_moved(self, k: float) -> None:
        self.session.scope.step(int(k) - self.session.scope.k)

    def box_moved(self, k: int, value: float) -> None:
        box = list(self.session.box)
        box[int(k)] = float(value)
        self.session.set_clip("box", box=box)

    def download_csv(self) -> str:
        return self.session.hands.tools.csv()
