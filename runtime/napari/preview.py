"""Live preview: cells of the visible part of the image, at the thresholds that are being set."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer

from runtime.errors import SegmenterError
from runtime.napari.layers import PREVIEW, remove_layer, show_preview
from runtime.napari.session import Session
from runtime.napari.steps import StepwiseSegmenter
from runtime.napari.tasks import notify

KIND = "preview"

PAUSE_MS = 150
"""Time without a change before cells are computed again."""


class LivePreview:
    """Shows outlines of cells while thresholds change or the view moves; a new change drops the work for earlier ones.

    Moving the view encodes another part of the image. Thresholds need only the mask decoder.
    """

    def __init__(self, session: Session) -> None:
        """Prepare the preview, which is off."""
        self._session = session
        self._segmenter = StepwiseSegmenter()
        self._on = False
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self.refresh)
        viewer = session.viewer
        for emitter in (viewer.camera.events.center, viewer.camera.events.zoom, viewer.dims.events.current_step):
            emitter.connect(self.schedule)

    def switch(self, on: bool) -> None:
        """Switch the preview on or off."""
        self._on = on
        if on:
            self.refresh()
        else:
            self.clear()

    def schedule(self, *_: object) -> None:
        """Compute the preview again, after a short pause without another change."""
        if self._on:
            self._session.tasks.cancel(KIND)
            self._timer.start()

    def clear(self) -> None:
        """Drop the preview; it returns with the next change if it is on."""
        self._timer.stop()
        self._session.tasks.cancel(KIND)
        remove_layer(self._session.viewer, PREVIEW)

    def refresh(self) -> None:
        """Compute the preview now."""
        try:
            image, part = self._session.image(), self._session.part_for_preview()
        except SegmenterError as error:
            notify(error)
            return

        def show(result: Any) -> None:
            if image in self._session.viewer.layers:
                show_preview(self._session.viewer, image, part, result.labels, PREVIEW)
                self._session.report(f"Cells in the preview: {len(result)}.")

        work = self._session.task(
            lambda segmenter, config, stale: self._segmenter.segment(segmenter, part, config, stale)
        )
        self._session.tasks.submit(KIND, work, show)

    def close(self) -> None:
        """Stop watching the viewer."""
        self._on = False
        self._timer.stop()
        viewer = self._session.viewer
        for emitter in (viewer.camera.events.center, viewer.camera.events.zoom, viewer.dims.events.current_step):
            emitter.disconnect(self.schedule)
