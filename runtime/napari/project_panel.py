"""Buttons that save the layers as a project, and improve the model with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QPushButton, QVBoxLayout, QWidget

from runtime.errors import InputError, SegmenterError
from runtime.napari.improve_button import ImproveButton
from runtime.napari.layer_data import noted
from runtime.napari.layers import cells_of, images_of
from runtime.napari.session import Session
from runtime.napari.tasks import notify
from runtime.napari.writer import LabelledImage, save_project


class ProjectPanel(QWidget):
    """Saves every image that has cells as a project, and improves the model with it."""

    def __init__(self, session: Session) -> None:
        """Create the buttons."""
        super().__init__()
        self._session = session
        self._directory: Path | None = None
        self.save_button = QPushButton("Save project")
        self.save_button.setToolTip("Save the images and their corrected cells as a project.")
        self.save_button.clicked.connect(self._ask_and_save)
        self.improve = ImproveButton(self._project)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.save_button)
        column.addWidget(self.improve)

    def save(self, directory: Path) -> None:
        """Save the project in a thread."""
        try:
            images = self._labelled()
        except SegmenterError as error:
            notify(error)
            return

        def saved(path: Path) -> None:
            self._directory = path.parent
            show_info(f"Images saved in {path.parent}: {len(images)}")

        self._session.tasks.submit("save", lambda _: save_project(directory, images), saved)

    def _labelled(self) -> list[LabelledImage]:
        """Return the images with cells.

        Raises:
            InputError: there is none, or one is a stack.
        """
        viewer = self._session.viewer
        pairs = [(image, cells_of(viewer, image)) for image in images_of(viewer)]
        found = [_labelled(image, cells, viewer) for image, cells in pairs if cells is not None]
        if not found:
            raise InputError(
                "no image has cells; expected a Labels layer with the cells of an image. Segment an image first.",
                kind="missing",
            )
        return found

    def _ask_and_save(self) -> None:
        before = "" if self._directory is None else str(self._directory)
        chosen = QFileDialog.getExistingDirectory(self, "Project directory, new or existing", before)
        if chosen:
            self.save(Path(chosen))

    def _project(self) -> Path | None:
        if self._directory is not None:
            return self._directory
        chosen = QFileDialog.getExistingDirectory(self, "Project directory")
        return Path(chosen) if chosen else None


def _labelled(image: Any, cells: Any, viewer: Any) -> LabelledImage:
    data = image.data[0] if image.multiscale else image.data
    if cells.data.ndim != 2:
        raise InputError(
            f"layer {image.name!r} is a stack of shape {data.shape}; expected a plane (H, W). Save "
            "its planes as images.",
            kind="wrong_shape",
        )
    return LabelledImage(
        name=image.name,
        pixels=np.asarray(data),
        labels=np.array(cells.data, np.int32),  # a copy, since the thread reads it later
        path=_file_of(image, viewer),
    )


def _file_of(image: Any, viewer: Any) -> Path | None:
    """Return the file that contains an image layer and nothing else; None if the layer must be written to a file."""
    given = noted(image.metadata, "path") or image.source.path
    if given is None or sum(other.source.path == image.source.path for other in images_of(viewer)) > 1:
        return Path(given) if noted(image.metadata, "path") else None
    return Path(given)
