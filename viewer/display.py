"""Whether a window can be opened on this machine, asked before Qt is: it would abort the process.

Imports neither Qt nor VTK.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

XCB = "libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-xinerama0 libxkbcommon-x11-0"


def why_no_window() -> str:
    """Why no window can be opened here, "" when one can. Qt itself would abort without a word."""
    if sys.platform != "linux":
        return ""
    if os.environ.get("QT_QPA_PLATFORM", "") in ("offscreen", "minimal"):
        return "Qt is told to draw off screen (QT_QPA_PLATFORM)"
    if not os.environ.get("DISPLAY"):  # VTK draws by X11 only: Wayland needs its Xwayland
        return "There is no display here"
    missing = missing_library()
    if missing:
        return f"The window system's library {missing} is missing (apt-get install {XCB})"
    xcb: Any = ctypes.CDLL("libxcb.so.1")
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    failed = bool(xcb.xcb_connection_has_error(connection))
    xcb.xcb_disconnect(connection)
    return f"The display {os.environ['DISPLAY']} does not answer" if failed else ""


def missing_library() -> str:
    """Name of the first library that Qt's X11 plugin does not find, "" when all are there."""
    spec = importlib.util.find_spec("PySide6")
    if spec is None or spec.origin is None:
        return ""  # the window itself says what to install
    plugin = Path(spec.origin).parent / "Qt/plugins/platforms/libqxcb.so"
    try:
        for library in (str(plugin) if plugin.is_file() else "", "libxcb.so.1"):
            if library:
                ctypes.CDLL(library)
    except OSError as error:
        return str(error).split(":")[0]
    return ""
