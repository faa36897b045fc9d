"""A real desktop viewer for the Xvfb test: opens a run, and writes what the user would see.

    python viewer_desktop_process.py RUN CT STATE.json

The state (texts of the table, message, where the view lies on the screen) is written four times a
second; nothing is called from outside: mouse and keys come from the X server alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(run: str, ct: str, state: str) -> None:
    from PySide6 import QtCore, QtWidgets

    from endorecon.viewer.case import open_case
    from endorecon.viewer.desktop import make_window

    app = QtWidgets.QApplication(["endorecon"])
    window = make_window(open_case(Path(run)), Path(ct) if ct else None)
    window.resize(1000, 700)
    window.move(0, 0)
    window.show()
    session, view = window.session, window.view.interactor
    table = window.panels["Measurements"].table

    def write() -> None:
        corner = view.mapToGlobal(QtCore.QPoint(0, 0))
        frame = window.panels["Video frame"].picture
        at = frame.mapToGlobal(QtCore.QPoint(0, 0))
        shown = frame.pixmap().size()
        rows = [[table.item(r, c).text() for c in range(table.columnCount())]
                for r in range(table.rowCount())]  # fmt: skip
        camera = session.camera
        data = {
            "view": [corner.x(), corner.y(), view.width(), view.height()],
            "frame": [at.x(), at.y(), frame.width(), frame.height(), shown.width(), shown.height()],
            "size": list(session.renderer.GetSize()), "rows": rows, "message": session.message,
            "title": window.windowTitle(), "frame_index": session.scope.frame_index,
            "flying": session.scope.flying, "position": list(camera.GetPosition()),
            "distance": camera.GetDistance(), "helping": session.overlay.helping,
        }  # fmt: skip
        part = Path(state + ".part")
        part.write_text(json.dumps(data))
        part.replace(state)

    clock = QtCore.QTimer()
    clock.timeout.connect(write)
    clock.start(250)
    app.exec()


if __name__ == "__main__":
    main(*sys.argv[1:4])
