"""The Qt panels: layers, video frame, CT slices, measurements. They show the session's state.

Each has `refresh`, called after a change; what the user does goes straight to the session.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6 import QtCore, QtGui, QtWidgets

from .rounds import curve
from .session import Session
from .slices import PLANES, WINDOWS
from .surface_layer import COLOURINGS

Array = NDArray[Any]
HORIZONTAL = QtCore.Qt.Orientation.Horizontal
CLIPS = {"off": "Clip: off", "view": "Plane facing me", "x": "Plane left-right",
         "y": "Plane front-back", "z": "Plane up-down", "box": "Box"}  # fmt: skip


def pixmap(image: Array) -> QtGui.QPixmap:
    """An RGB picture (h, w, 3) uint8 for Qt."""
    data = np.ascontiguousarray(image)
    h, w = data.shape[:2]
    return QtGui.QPixmap.fromImage(
        QtGui.QImage(data.data, w, h, 3 * w, QtGui.QImage.Format.Format_RGB888).copy()
    )


def slider(low: int, high: int, value: int, moved: Any) -> QtWidgets.QSlider:
    made = QtWidgets.QSlider(HORIZONTAL)
    made.setRange(low, high)
    made.setValue(value)
    made.valueChanged.connect(moved)
    return made


def _quietly(widget: Any, call: Any) -> None:
    widget.blockSignals(True)
    call()
    widget.blockSignals(False)


class LayersPanel(QtWidgets.QScrollArea):
    """Visibility and opacity of each layer, colouring, window preset, clipping."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.setWidgetResizable(True)
        self.setMinimumWidth(280)
        self.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        body = QtWidgets.QWidget()
        self.setWidget(body)
        form = QtWidgets.QGridLayout(body)
        self.boxes: dict[str, QtWidgets.QCheckBox] = {}
        row = 0
        for name, layer in session.layers.all.items():
            box = QtWidgets.QCheckBox(name)
            box.toggled.connect(lambda on, n=name: session.show(n, on))
            fade = slider(5, 100, round(100 * layer.opacity),
                          lambda v, n=name: session.fade(n, v / 100))  # fmt: skip
            fade.setMaximumWidth(80)
            form.addWidget(box, row, 0)
            if layer.fades:
                form.addWidget(fade, row, 1)
            self.boxes[name] = box
            row += 1
        self.colouring = QtWidgets.QComboBox()
        self.colouring.addItems(list(COLOURINGS.values()))
        self.colouring.activated.connect(lambda k: session.colour(list(COLOURINGS)[k]))
        self.window_ = QtWidgets.QComboBox()
        self.window_.addItems([f"CT window: {w}" for w in WINDOWS])
        self.window_.activated.connect(lambda k: session.set_window(list(WINDOWS)[k]))
        self.inside = QtWidgets.QCheckBox("look inside")
        self.inside.toggled.connect(session.look_inside)
        self.clip = QtWidgets.QComboBox()
        self.clip.addItems(list(CLIPS.values()))
        self.clip.activated.connect(lambda k: session.set_clip(list(CLIPS)[k]))
        self.at = slider(0, 100, 50, lambda v: session.set_clip(session.clip_mode, v / 100))
        self.box = [slider(0, 100, 100 * (k % 2), self._box_moved) for k in range(6)]
        for widget in (self.colouring, self.inside, self.window_, self.clip, self.at, *self.box):
            form.addWidget(widget, row, 0, 1, 2)
            row += 1
        form.setRowStretch(row, 1)

    def _box_moved(self) -> None:
        self.session.set_clip("box", box=[s.value() / 100 for s in self.box])

    def refresh(self) -> None:
        s = self.session
        for name, box in self.boxes.items():
            layer = s.layers.all[name]
            _quietly(box, lambda b=box, on=layer.visible: b.setChecked(on))
            box.setEnabled(not layer.why_not)
            box.setToolTip(layer.why_not)
        self.colouring.setCurrentIndex(list(COLOURINGS).index(s.colouring))
        self.window_.setCurrentIndex(list(WINDOWS).index(s.window))
        self.clip.setCurrentIndex(list(CLIPS).index(s.clip_mode))
        _quietly(self.inside, lambda: self.inside.setChecked(s.inside))
        _quietly(self.at, lambda: self.at.setValue(round(100 * s.clip_at)))
        self.at.setVisible(s.clip_mode not in ("off", "box"))
        for one in self.box:
            one.setVisible(s.clip_mode == "box")


class Picture(QtWidgets.QLabel):
    """A picture that keeps its shape and tells where (in its own pixels) it was clicked."""

    def __init__(self, clicked: Any, least: int = 180) -> None:
        super().__init__()
        self.clicked, self.image = clicked, QtGui.QPixmap()
        self.setMinimumSize(least, least * 3 // 4)
        self.setAlignment(QtCore.Qt.AlignmentFlag.AlignCenter)

    def put(self, image: Array | None) -> None:
        self.image = QtGui.QPixmap() if image is None else pixmap(image)
        self._fit()

    def _fit(self) -> None:
        if self.image.isNull():
            self.clear()
            return
        keep = QtCore.Qt.AspectRatioMode.KeepAspectRatio
        smooth = QtCore.Qt.TransformationMode.SmoothTransformation
        self.setPixmap(self.image.scaled(self.size(), keep, smooth))

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def mousePressEvent(self, event: Any) -> None:
        if self.image.isNull() or self.pixmap().isNull():
            return
        shown = self.pixmap().size()
        left, top = (self.width() - shown.width()) / 2, (self.height() - shown.height()) / 2
        # A click's integer position is the middle of a screen pixel.
        u = (event.position().x() + 0.5 - left) / shown.width() * self.image.width()
        v = (event.position().y() + 0.5 - top) / shown.height() * self.image.height()
        if 0 <= u < self.image.width() and 0 <= v < self.image.height():
            self.clicked(u, v)


class FramePanel(QtWidgets.QWidget):
    """The video frame (clicks in it are landmarks), the frame slider, how much of it is blended."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        column = QtWidgets.QVBoxLayout(self)
        self.picture = Picture(self._clicked, 300)
        self.words = QtWidgets.QLabel()
        self.frames = slider(0, max(session.scope.count - 1, 0), 0, self._moved)
        self.blend = slider(0, 100, 0, lambda v: session.scope.mix(v / 100))
        self.curve = Picture(lambda u, v: None, 300)
        for widget in (self.picture, self.words, self.frames, QtWidgets.QLabel("video over 3D"),
                       self.blend, self.curve):  # fmt: skip
            column.addWidget(widget, 3 if isinstance(widget, Picture) else 0)
        column.addStretch(1)
        self.curve.setVisible(session.rounds.following)
        self._shown: Any = None

    def _clicked(self, u: float, v: float) -> None:
        cameras = self.session.case.cameras
        if cameras is not None:
            size = self.picture.image
            self.session.hands.click_frame(
                u * cameras.width / size.width(), v * cameras.height / size.height()
            )

    def _moved(self, k: int) -> None:
        self.session.scope.step(k - self.session.scope.k)

    def refresh(self) -> None:
        s = self.session
        index = s.scope.frame_index
        if index != self._shown:
            self.picture.put(s.scope.image())
            self._shown = index
        self.words.setText("no posed frame yet" if index is None else f"frame {index}")
        _quietly(self.frames, lambda: self.frames.setMaximum(max(s.scope.count - 1, 0)))
        _quietly(self.frames, lambda: self.frames.setValue(s.scope.k))
        _quietly(self.blend, lambda: self.blend.setValue(round(100 * s.scope.blend)))
        if s.rounds.following:
            self.curve.put(curve(s.case.run))


class SlicesPanel(QtWidgets.QWidget):
    """Three CT slices at the cursor; a click in one moves the cursor."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        column = QtWidgets.QHBoxLayout(self)
        self.words = QtWidgets.QLabel("")
        self.words.setWordWrap(True)
        column.addWidget(self.words)
        self.pictures: dict[str, Picture] = {}
        for name in PLANES:
            self.pictures[name] = Picture(lambda u, v, n=name: self._clicked(n, u, v), 210)
            self.pictures[name].setMinimumHeight(210)
            column.addWidget(self.pictures[name])
        self._shown: Any = None

    def _clicked(self, name: str, u: float, v: float) -> None:
        self.session.cursor_from_slice(name, u, v, self._size(name))

    def _size(self, name: str) -> int:
        """Drawn as large as it is shown, so that the letters keep their size."""
        return max(120, min(self.pictures[name].width(), self.pictures[name].height()))

    def refresh(self) -> None:
        s = self.session
        state = (*s.cursor, s.window, s.case.mm, self._size("axial"))
        if not self.isVisible() or state == self._shown:
            return
        self._shown = state
        self.words.setText(s.layers.all["CT slices"].why_not)
        self.words.setVisible(bool(s.layers.all["CT slices"].why_not))
        for name, picture in self.pictures.items():
            picture.put(s.slice_picture(name, self._size(name)))


class TablePanel(QtWidgets.QWidget):
    """The measurements: values with unit and interval, the state they were made in."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        row = QtWidgets.QHBoxLayout(self)
        self.table = QtWidgets.QTableWidget(0, 5)
        self.table.setHorizontalHeaderLabels(["", "value (95 %)", "along surface", "on", "note"])
        self.table.horizontalHeader().setStretchLastSection(True)
        fit = QtWidgets.QHeaderView.ResizeMode.ResizeToContents
        for k in range(4):
            self.table.horizontalHeader().setSectionResizeMode(k, fit)
        self.table.verticalHeader().hide()
        self.table.itemChanged.connect(self._edited)
        self.table.setMinimumHeight(90)
        remove = QtWidgets.QPushButton("Remove")
        remove.clicked.connect(self._remove)
        row.addWidget(self.table)
        row.addWidget(remove)

    def _edited(self, item: Any) -> None:
        if item.column() == 4:
            self.session.hands.annotate(self._name(item.row()), item.text())

    def _name(self, row: int) -> str:
        cell = self.table.item(row, 0)
        return "" if cell is None else cell.text()

    def _remove(self) -> None:
        names = {self._name(i.row()) for i in self.table.selectedIndexes()}
        for name in sorted(names):
            self.session.hands.remove(name)

    def refresh(self) -> None:
        tools = self.session.hands.tools
        grey = QtGui.QBrush(QtGui.QColor("#8a949e"))
        self.table.blockSignals(True)
        self.table.setRowCount(len(tools.taken))
        for r, t in enumerate(tools.taken):
            cells = (t.name, tools.value_text(t), tools.along_text(t),
                     "weak" if t.weak else "seen", t.text)  # fmt: skip
            for c, words in enumerate(cells):
                item = QtWidgets.QTableWidgetItem(words)
                if c != 4:
                    item.setFlags(item.flags() & ~QtCore.Qt.ItemFlag.ItemIsEditable)
                if not tools.case.mm:
                    item.setForeground(grey)
                self.table.setItem(r, c, item)
        self.table.blockSignals(False)
