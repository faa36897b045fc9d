"""`endorecon view RUN`: one door to the window, the browser, the picture and the turntable.

Without a display the window gives way to a picture beside the run, and says so (fault 40). A
port is opened only by --web, on 127.0.0.1 unless asked otherwise, and then with a token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from endorecon.errors import EnvironmentFault, UsageError

from .case import Case, open_case


def view(
    run: Path,
    ct: Path | None = None,
    web: bool = False,
    follow: bool = False,
    screenshot: Path | None = None,
    turntable: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    colour: str = "photo",
    frame: int | None = None,
    compare: Path | None = None,
    size: tuple[int, int] = (1400, 900),
    say: Callable[[str], None] = lambda words: None,
) -> None:
    """Show a run until the window (or server) is closed, or write a picture or video of it.

    `frame` flies to that frame; `compare` puts another run beside it; `say` is told what the user
    should read (the address, the file written). port 0 takes a free one; the token is made when
    the host is not loopback and none is given. Raises InputRefused for what cannot be opened,
    EnvironmentFault when Qt or trame is missing, UsageError for a colouring that does not exist.
    """
    from .surface_layer import COLOURINGS

    colour = {"distance": "ct"}.get(colour, colour)

    if colour not in COLOURINGS:
        raise UsageError(f"There is no colouring {colour!r}", f"choose of {', '.join(COLOURINGS)}")
    case = open_case(Path(run), waiting=follow)
    other = None if compare is None else open_case(Path(compare))
    for note in case.notes:
        say(note)
    if screenshot is None and turntable is None and not web:
        from .display import why_no_window

        why_not = why_no_window()
        if not why_not:
            _open_window(case, ct, follow, colour, frame, other)
            return
        screenshot = case.run.path / "viewer" / "view.png"
        say(f"{why_not}: a picture is written instead (or use --web)")
    if web:
        from .web import serve

        serve(case, ct, follow, host, port, token, colour, frame, other, say)
        return
    from .headless import write_picture, write_turntable
    from .session import Session, make_plotter, prepare

    session = Session(make_plotter(size), case, ct)
    try:
        session.on_render = lambda: None  # the picture is drawn once, when it is written
        prepare(session, colour, frame, other)
        if screenshot is not None:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            write_picture(session, Path(screenshot))
            say(f"Written: {screenshot}")
        if turntable is not None:
            write_turntable(session, Path(turntable))
            say(f"Written: {turntable}")
    finally:
        session.plotter.close()


def _open_window(
    case: Case, ct: Path | None, follow: bool, colour: str, frame: int | None, other: Case | None
) -> None:
    try:
        from .desktop import open_window
    except ImportError as error:
        raise EnvironmentFault(
            f"The desktop viewer needs PySide6 and pyvistaqt ({error})",
            "pip install 'endorecon[desktop]', or use --web",
        ) from error
    open_window(case, ct, follow, colour, frame, other)
