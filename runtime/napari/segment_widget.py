"""The widget: segments the chosen image into a Labels layer, with preview, boxes and projects."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QGroupBox, QLabel, QPushButton, QVBoxLayout, QWidget

from runtime.errors import SegmenterError
from runtime.jobs.segmenter_spec import SegmenterSpec
from runtime.napari.box_tool import BoxTool
from runtime.napari.controls import Controls
from runtime.napari.engine_loading import EngineChoice
from runtime.napari.layers import Viewer, ensure_cells, images_of, paint, plane_labels
from runtime.napari.painting import segmented_again
from runtime.napari.parts import ImagePart
from runtime.napari.preview import LivePreview
from runtime.napari.project_panel import ProjectPanel
from runtime.napari.session import Session
from runtime.napari.tasks import Tasks, notify
from runtime.results import Segmentation
from runtime.segmenter import Segmenter

DOING = {
    "load": "Loading the engines ...",
    "segment": "Segmenting ...",
    "preview": "Computing the preview ...",
    "boxes": "Decoding the boxes ...",
    "save": "Saving the project ...",
}
"""Text by kind of task."""


class SegmentWidget(QWidget):
    """Dock widget with everything that this plugin does to layers."""

    def __init__(self, napari_viewer: Viewer) -> None:
        """Create the widget, and load the built-in model in a thread."""
        super().__init__()
        self.viewer = napari_viewer
        self.tasks = Tasks(self._show_task)
        self.engines = EngineChoice(self.tasks, self._show_engines)
        self.controls = Controls(self._on_change)
        self.controls.show_config(SegmenterSpec().default_config())
        self.session = Session(self.viewer, self.tasks, self.engines, self.controls, self._report)
        self.preview = LivePreview(self.session)
        self.boxes = BoxTool(self.session)
        self.project = ProjectPanel(self.session)
        self.live, self.segment_button = QCheckBox("Live preview"), QPushButton("Segment")
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.live.toggled.connect(self.preview.switch)
        self.segment_button.clicked.connect(lambda *_: self.segment())
        self._lay_out()
        for emitter in self._layer_events():
            emitter.connect(self._list_images)
        self._list_images()
        self.destroyed.connect(self.tasks.close)
        QTimer.singleShot(0, self.engines.load)

    def segment(self) -> None:
        """Segment the chosen region in a thread; its cells replace those that the Labels layer has there."""
        try:
            image, part = self.session.image(), self.session.part()
        except SegmenterError as error:
            notify(error)
            return
        self.preview.clear()
        work = self.session.task(lambda segmenter, config, _: segmenter(part.read(), config=config))
        self.tasks.submit("segment", work, lambda result: self._write(image, part, result))

    def closeEvent(self, event: Any) -> None:  # noqa: N802
        """Stop the work of this widget."""
        self.tasks.close()
        self.preview.close()
        for emitter in self._layer_events():
            emitter.disconnect(self._list_images)
        self.project.improve.close_process()
        super().closeEvent(event)

    def _write(self, image: Any, part: ImagePart, result: Segmentation) -> None:
        if image not in self.viewer.layers:
            return
        self.preview.clear()
        layer = ensure_cells(self.viewer, image)
        paint(layer, part.plane, segmented_again(plane_labels(layer, part.plane), result.labels, part.extent))
        diameter = result.appearance.diameter_px
        seen = "" if diameter is None else f", median diameter {diameter:.0f} px"
        doubt = " The diameter is doubtful; give it if you know it." if result.appearance.doubtful else ""
        self._report(f"Cells: {len(result)}{seen}.{doubt}")

    def _on_change(self) -> None:
        self.preview.schedule()
        self.boxes.schedule()

    def _list_images(self, *_: object) -> None:
        images = images_of(self.viewer)
        self.controls.set_images([layer.name for layer in images])
        for layer in images:  # connecting twice would call twice
            layer.events.name.disconnect(self._list_images)
            layer.events.name.connect(self._list_images)

    def _layer_events(self) -> list[Any]:
        events = self.viewer.layers.events
        return [events.inserted, events.removed, events.reordered]

    def _show_engines(self, segmenter: Segmenter) -> None:
        self.controls.show_config(segmenter.config)
        self._report(f"Engines loaded: {self.engines.spec.directory.name}, backend {segmenter.backend}.")

    def _show_task(self, kind: str | None) -> None:
        if kind is not None:
            self._report(DOING[kind])
        elif self.status.text() in DOING.values():
            self._report("")

    def _report(self, text: str) -> None:
        self.status.setText(text)

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        for title, widgets in (
            ("Model", [self.engines]),
            ("Segment", [self.controls, self.live, self.segment_button]),
            ("Boxes", [self.boxes]),
            ("Project", [self.project]),
        ):
            group = QGroupBox(title)
            inside = QVBoxLayout(group)
            for widget in widgets:
                inside.addWidget(widget)
            column.addWidget(group)
        column.addWidget(self.status)
        column.addStretch(1)
