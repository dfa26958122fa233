"""Box prompts: a cell for each rectangle that is drawn, previewed, then confirmed or dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

from napari.layers import Shapes
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from runtime.errors import SegmenterError
from runtime.napari.layers import (
    BOX_PREVIEW,
    BOXES,
    cells_of,
    ensure_boxes,
    ensure_cells,
    find_layer,
    outlines_on,
    paint,
    plane_labels,
    remove_layer,
    show_preview,
)
from runtime.napari.painting import added
from runtime.napari.parts import ImagePart
from runtime.napari.preview import PAUSE_MS
from runtime.napari.session import Session
from runtime.napari.steps import BoxDecoder, boxes_in_part
from runtime.napari.tasks import notify
from runtime.types import I32

KIND = "boxes"


class _Shown(NamedTuple):
    """Cells that wait for confirmation."""

    image: Any
    part: ImagePart
    labels: I32


class BoxTool(QWidget):
    """Buttons to draw boxes, to confirm their cells, and to undo.

    Confirmed cells are one step of the history of the Labels layer, so Ctrl+Z of napari undoes them as well.
    """

    def __init__(self, session: Session) -> None:
        """Create the buttons."""
        super().__init__()
        self._session = session
        self._decoder = BoxDecoder()
        self._watched: Any = None
        self._shown: _Shown | None = None
        self.draw_button, self.confirm_button = QPushButton("Draw boxes"), QPushButton("Confirm")
        self.undo_button = QPushButton("Undo")
        self.draw_button.setToolTip("Draw a rectangle around each cell that is missing.")
        self.confirm_button.setToolTip("Add the cells of the boxes to the labels.")
        self.undo_button.setToolTip("Undo the last change of the labels, as Ctrl+Z in the Labels layer does.")
        self.confirm_button.setEnabled(False)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for button, action in (
            (self.draw_button, self.draw),
            (self.confirm_button, self.confirm),
            (self.undo_button, self.undo),
        ):
            button.clicked.connect(lambda *_, action=action: action())
            row.addWidget(button)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self.refresh)

    def draw(self) -> None:
        """Select the layer of the boxes, and the tool that draws rectangles."""
        try:
            layer = ensure_boxes(self._session.viewer, self._session.image())
        except SegmenterError as error:
            notify(error)
            return
        if layer is not self._watched:
            layer.events.data.connect(self.schedule)
            self._watched = layer

    def schedule(self, *_: object) -> None:
        """Decode the boxes after a short pause without another change."""
        if self._watched is not None:
            self._session.tasks.cancel(KIND)
            self._set_shown(None)
            self._timer.start()

    def refresh(self) -> None:
        """Decode the boxes, and show their cells."""
        session = self._session
        layer = find_layer(session.viewer, BOXES, Shapes)
        try:
            image, part = session.image(), session.part_for_boxes()
        except SegmenterError as error:
            notify(error)
            return
        boxes = boxes_in_part([] if layer is None else outlines_on(image, layer), part)
        if not len(boxes):
            self._clear()
            return

        def show(result: Any) -> None:
            if image in session.viewer.layers:
                show_preview(session.viewer, image, part, result.labels, BOX_PREVIEW)
                self._set_shown(_Shown(image, part, result.labels))
                session.report(f"Boxes with a cell: {len(result)} of {len(boxes)}. Confirm adds the cells.")

        work = session.task(
            lambda segmenter, config, stale: self._decoder.decode(segmenter, part, boxes, config, stale)
        )
        session.tasks.submit(KIND, work, show)

    def confirm(self) -> None:
        """Add the cells of the boxes to the labels where no cell is yet, and remove the boxes."""
        if self._shown is None:
            return
        image, part, found = self._shown
        layer = ensure_cells(self._session.viewer, image)
        change = added(plane_labels(layer, part.plane), found, part.extent)
        paint(layer, part.plane, change)
        self._session.report(f"Cells added to {layer.name!r}: {len(set(change.values.tolist()))}.")
        boxes = find_layer(self._session.viewer, BOXES, Shapes)
        if boxes is not None:
            boxes.data = []
        self._clear()

    def undo(self) -> None:
        """Undo the last change of the labels."""
        try:
            layer = cells_of(self._session.viewer, self._session.image())
        except SegmenterError as error:
            notify(error)
            return
        if layer is not None:
            layer.undo()

    def _clear(self) -> None:
        self._timer.stop()
        self._session.tasks.cancel(KIND)
        self._set_shown(None)
        remove_layer(self._session.viewer, BOX_PREVIEW)

    def _set_shown(self, shown: _Shown | None) -> None:
        self._shown = shown
        self.confirm_button.setEnabled(shown is not None)
