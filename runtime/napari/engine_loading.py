"""Choice of the engines, which a thread loads when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.napari.steps import Stale
from runtime.napari.tasks import Tasks
from runtime.segmenter import Segmenter


class EngineChoice(QWidget):
    """Field for the engine directory. Empty means the built-in model."""

    def __init__(self, tasks: Tasks, loaded: Callable[[Segmenter], None]) -> None:
        """Create the field.

        Args:
            tasks: where engines are loaded.
            loaded: called with the engines once they are loaded.
        """
        super().__init__()
        self._tasks, self._loaded = tasks, loaded
        self.directory = QLineEdit()
        self.directory.setPlaceholderText("built-in model")
        self.directory.setToolTip("Engine directory, as 'cellsam-engine export' writes it; empty: the built-in model.")
        self.directory.editingFinished.connect(self.load)
        browse = QPushButton("Browse")
        browse.clicked.connect(self._browse)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.directory, 1)
        row.addWidget(browse)
        self._asked_for: SegmenterSpec | None = None

    @property
    def spec(self) -> SegmenterSpec:
        """The engines of the field."""
        text = self.directory.text().strip()
        return SegmenterSpec(engine_dir=Path(text).expanduser() if text else None)

    def load(self) -> None:
        """Load the engines in a thread, unless they are the last that were asked for."""
        spec = self.spec
        if spec != self._asked_for:
            self._asked_for = spec
            self._tasks.submit("load", lambda _: loaded_segmenter(spec), self._loaded)

    def with_segmenter(self, work: Callable[[Segmenter, Stale], Any]) -> Callable[[Stale], Any]:
        """Return a task for the chosen engines; its thread loads them if they are not loaded yet."""
        spec = self.spec
        return lambda stale: work(loaded_segmenter(spec), stale)

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Engine directory", self.directory.text())
        if chosen:
            self.directory.setText(chosen)
            self.load()
