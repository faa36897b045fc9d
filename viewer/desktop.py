"""The desktop window: Qt (PySide6) round pyvistaqt's interactor. It owns no logic of its own.

Large type on a dark ground. Panels can be moved and closed; every button has a key.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from pyvistaqt import QtInteractor

from endorecon.errors import EndoreconError

from .case import Case, open_case
from .keys import ACTIONS, BUTTONS, SWITCHES, press
from .mouse import Mouse
from .panels import FramePanel, LayersPanel, SlicesPanel, TablePanel
from .session import Session, prepare
from .style import BACKGROUND

TICK_MS = 250
SHEET = f"""
* {{ font-size: 12pt; color: #f4f6f8; background: {BACKGROUND}; }}
QToolBar QToolButton {{ padding: 6px 10px; border-radius: 4px; }}
QToolButton:checked, QPushButton:checked {{ background: #2f5d7c; }}
QToolButton:hover, QPushButton:hover {{ background: #24384a; }}
QPushButton, QComboBox {{ padding: 4px 8px; border: 1px solid #46525e; border-radius: 4px; }}
QDockWidget::title {{ background: #1c232b; padding: 5px; }}
QHeaderView::section {{ background: #1c232b; padding: 4px; border: none; }}
QTableWidget {{ gridline-color: #2c3640; }}
QSlider::groove:horizontal {{ height: 6px; background: #46525e; border-radius: 3px; }}
QSlider::handle:horizontal {{ width: 16px; margin: -6px 0; background: #4cc9f0; border-radius: 8px; }}
QCheckBox::indicator {{ width: 18px; height: 18px; border: 1px solid #8a949e; border-radius: 3px; }}
QCheckBox::indicator:checked {{ background: #4cc9f0; }}
"""  # noqa: E501


def open_window(
    case: Case, ct: Path | None, follow: bool, colour: str = "photo", frame: int | None = None,
    other: Case | None = None,
) -> None:  # fmt: skip
    """Show the window and return when it is closed."""
    if sys.platform == "linux":
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")  # under Wayland, too: VTK draws by X11
    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["endorecon"])
    window = make_window(case, ct, follow)
    window.show()
    # After the first look of `make_window`, which would undo a flight to a frame.
    QtCore.QTimer.singleShot(0, lambda: prepare(window.session, colour, frame, other))
    app.exec()


def make_window(case: Case, ct: Path | None = None, follow: bool = False) -> Any:
    """The window, not yet shown; `window.session` is the session."""
    window: Any = QtWidgets.QMainWindow()
    window.setWindowTitle(f"endorecon view · {case.title}")
    window.setStyleSheet(SHEET)
    window.resize(1500, 940)
    view = QtInteractor(window, shape=(1, 2), border=False, auto_update=False)
    window.setCentralWidget(view.interactor)
    session = Session(view, case, ct)
    mouse = Mouse(session, view.iren.interactor)
    session.rounds.following = follow
    window.session, window.view, window.mouse = session, view, mouse

    def ask_note() -> str:
        text, good = QtWidgets.QInputDialog.getText(window, "Note", "What is to be noted here?")
        return str(text) if good else ""

    session.hands.ask_note = ask_note
    right, left, bottom = (QtCore.Qt.DockWidgetArea.RightDockWidgetArea,
                           QtCore.Qt.DockWidgetArea.LeftDockWidgetArea,
                           QtCore.Qt.DockWidgetArea.BottomDockWidgetArea)  # fmt: skip
    panels: list[tuple[str, Any, Any]] = [
        ("Layers", LayersPanel(session), left),
        ("Video frame", FramePanel(session), right),
        ("Measurements", TablePanel(session), bottom),
        ("CT slices", SlicesPanel(session), bottom),
    ]
    for title, panel, area in panels:
        dock = QtWidgets.QDockWidget(title, window)
        dock.setObjectName(title)
        dock.setWidget(panel)
        window.addDockWidget(area, dock)
        if title == "CT slices" and ct is None and not follow:
            dock.hide()
    window.panels = {title: panel for title, panel, _ in panels}
    _add_toolbar(window, session)
    _add_menu(window, session)
    for keys, _, _ in ACTIONS:
        for key in keys:
            shortcut = QtGui.QShortcut(QtGui.QKeySequence(_qt_key(key)), window)
            shortcut.activated.connect(lambda k=key: press(session, k))
            if key == "enter":  # the one on the number pad
                more = QtGui.QShortcut(QtGui.QKeySequence("Enter"), window)
                more.activated.connect(lambda k=key: press(session, k))
    # Panels follow once the event loop is idle, however many changes one action made.
    later = QtCore.QTimer(window)
    later.setSingleShot(True)
    later.timeout.connect(lambda: [panel.refresh() for _, panel, _ in panels])
    later.timeout.connect(
        lambda: [window.buttons[key].setChecked(is_on(session)) for key, is_on in SWITCHES.items()]
    )
    session.listeners.append(lambda: later.start(30))
    clock = QtCore.QTimer(window)
    clock.timeout.connect(session.tick)
    clock.start(TICK_MS)
    window.clock = clock
    later.start(0)
    QtCore.QTimer.singleShot(0, session.reset_view)  # now the view knows its size
    return window


def _qt_key(key: str) -> str:
    names = {"arrowright": "Right", "arrowleft": "Left", " ": "Space", "escape": "Esc",
             "enter": "Return", "ctrl+z": "Ctrl+Z"}  # fmt: skip
    return names.get(key, key.upper() if len(key) == 1 else key)


def _add_toolbar(window: Any, session: Session) -> None:
    window.buttons = {}
    bar = QtWidgets.QToolBar("Tools", window)
    bar.setMovable(False)
    help_of = {key: what for keys, what, _ in ACTIONS for key in keys}
    for words, key in BUTTONS:
        action = bar.addAction(words)
        action.setToolTip(f"{help_of[key]} ({'space' if key == ' ' else key})")
        action.triggered.connect(lambda _=False, k=key: press(session, k))
        action.setCheckable(key in SWITCHES)
        window.buttons[key] = action
    window.addToolBar(QtCore.Qt.ToolBarArea.TopToolBarArea, bar)


def _add_menu(window: Any, session: Session) -> None:
    ask = QtWidgets.QFileDialog
    markups = "Markups (*.mrk.json)"

    def save_to(kind: str, name: str, kinds: str, write: Any) -> None:
        chosen, _ = ask.getSaveFileName(window, kind, str(session.hands.folder / name), kinds)
        if chosen:
            write(Path(chosen))

    def load() -> None:
        chosen, _ = ask.getOpenFileName(window, "Load", str(session.hands.folder), markups)
        if chosen:
            session.hands.load(Path(chosen))

    def compare() -> None:
        chosen = ask.getExistingDirectory(window, "Run to compare with")
        if chosen:
            try:
                session.compare(open_case(Path(chosen)))
            except EndoreconError as error:
                session.say(str(error), bad=True)

    hands = session.hands
    menu = window.menuBar().addMenu("File")
    for words, call in (
        ("Save measurements as ...",
         lambda: save_to("Save", "measurements.mrk.json", markups, hands.save)),
        ("Load measurements ...", load),
        ("Table as CSV ...",
         lambda: save_to("Table", "measurements.csv", "CSV (*.csv)", hands.export_csv)),
        ("Picture as ...", lambda: save_to("Picture", "view.png", "PNG (*.png)", hands.screenshot)),
        ("Turntable video ...",
         lambda: save_to("Video", "turntable.mp4", "MP4 (*.mp4)", hands.turntable)),
        ("Compare with another run ...", compare),
        ("Close", window.close),
    ):  # fmt: skip
        menu.addAction(words).triggered.connect(lambda _=False, c=call: c())
    view = window.menuBar().addMenu("View")
    for letter, words in zip("LRAPSI", ("left", "right", "front (anterior)", "behind (posterior)",
                                        "above (superior)", "below (inferior)")):  # fmt: skip
        view.addAction(f"From {words}").triggered.connect(
            lambda _=False, w=letter: session.reset_view(w)
        )
    view.addSeparator()
    for dock in window.findChildren(QtWidgets.QDockWidget):
        view.addAction(dock.toggleViewAction())
