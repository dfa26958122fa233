"""A correction project behind the routes: images by id, outlines, box prompts, and events after each change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from runtime.config import SegmentConfig
from runtime.correction.edits.draw import Add, Redraw
from runtime.correction.edits.shapes import Shape
from runtime.correction.engine_record import EngineRecord
from runtime.correction.outcomes import ConflictError, EditResult, ImageStatus
from runtime.correction.project import Project
from runtime.ops.masks import label_crops
from runtime.results import Segmentation
from runtime.server.http.failures import RequestError
from runtime.server.images.outlines import Outlines, Traced
from runtime.server.options import ServerOptions
from runtime.server.work.embeddings import Embedding
from runtime.server.work.events import Events
from runtime.server.work.pixels import Pixels
from runtime.server.work.service import Service
from runtime.types import I32

OUTLINED_IMAGES = 8
"""Images whose outlines are kept."""

AUTHOR = "page"
"""Author of changes over HTTP in the journal of the project."""


_NO_CELL = {"label": None, "iou_prediction": None}


class Snapshot(NamedTuple):
    """Labels of an image with their state."""

    status: ImageStatus
    labels: I32


class ServedProject:
    """A project with everything that its routes need."""

    def __init__(self, project: Project, service: Service, events: Events, options: ServerOptions) -> None:
        """Serve an open project.

        Args:
            project: the project.
            service: segments its images.
            events: hears of changes.
            options: the engines and the limits.
        """
        self.project, self.service, self.events = project, service, events
        self.pixels = Pixels(project, options.limits.pixel_bytes)
        self._engines = options.engines
        self._lock = threading.Lock()
        self._outlines: OrderedDict[str, Outlines] = OrderedDict()
        self._diameters: dict[str, float] = {}

    def name(self, key: str) -> str:
        """Return the name of an image by its id.

        Raises:
            RequestError: there is none.
        """
        names = self.project.names
        if key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(names):
            return names[int(key)]
        raise RequestError(
            f"the project has no image {key[:80]!r}; expected one of the ids in /api/project/images. Load the list "
            "again.",
            status=404,
            kind="not_found",
            field="image",
        )

    def key(self, name: str) -> str:
        """Return the id of an image."""
        return str(self.project.names.index(name))

    def describe(self, name: str) -> dict[str, Any]:
        """Describe an image for JSON, from what is known without opening it."""
        return self._describe(self.project.status(name), self.key(name))

    def describe_all(self) -> list[dict[str, Any]]:
        """Describe all images."""
        return [self._describe(status, str(place)) for place, status in enumerate(self.project.statuses())]

    @staticmethod
    def _describe(status: ImageStatus, key: str) -> dict[str, Any]:
        return {
            "id": key,
            "name": status.name,
            "state": status.state,
            "size_hw": list(status.size_hw),
            "cells": status.cells,
            "revision": status.revision,
            "can_undo": status.undo_steps > 0,
            "can_redo": status.redo_steps > 0,
            "problem": status.problem,
        }

    def snapshot(self, name: str) -> Snapshot:
        """Return the labels of an image with the state that belongs to them."""
        while True:
            status = self.project.status(name)
            labels = self.project.labels(name)
            if self.project.status(name).revision == status.revision:
                return Snapshot(status, labels)

    def traced(self, name: str) -> Traced:
        """Return the outlines of the present cells of an image."""
        with self._lock:
            outlines = self._outlines.setdefault(name, Outlines())
            self._outlines.move_to_end(name)
            while len(self._outlines) > OUTLINED_IMAGES:
                self._outlines.popitem(last=False)
        status, labels = self.snapshot(name)
        return outlines.update(status.revision, labels)

    def change(self, name: str, make: Callable[[], EditResult]) -> dict[str, Any]:
        """Make a change, tell all pages, and describe the change for JSON."""
        result = make()
        described = self.describe(name)
        self.events.send("image", described)
        return changed(result, described)

    def config(self, name: str) -> SegmentConfig:
        """Return the settings for box prompts in an image: those of the model, at the size of the image's cells."""
        base = self.service.segmenter.config
        diameter = self._diameters.get(name)
        if diameter is None or base.view_diameter_px is None:
            return base
        return replace(base, diameter_px=diameter, diameter_um=None)

    def encode(self, name: str) -> Future[Embedding]:
        """Queue an image to encode for box prompts, unless it is cached."""
        return self.service.encode(self._embedding_key(name), lambda: self.project.read(name), self.config(name))

    def is_encoded(self, name: str) -> bool:
        """Return whether a box prompt in this image can be decoded at once."""
        return self.service.embeddings.get(self._embedding_key(name)) is not None

    def _embedding_key(self, name: str) -> str:
        sha256 = {image.name: image.sha256 for image in self.project.images}[name]
        return f"{sha256} {self.config(name)!r}"

    def check_revision(self, name: str, revision: int) -> ImageStatus:
        """Return the state of an image if its revision is the one that the caller shows.

        Raises:
            ConflictError: it is not.
        """
        status = self.project.status(name)
        if status.revision != revision:
            raise ConflictError(
                f"{name} is at revision {status.revision}; expected {revision}. Load the image again, then repeat the "
                "change.",
                status.revision,
                status.author,
            )
        return status

    def add_cell(self, name: str, result: Segmentation, revision: int, replaced: int | None = None) -> dict[str, Any]:
        """Add the cell that a box prompt found, where no other cell is.

        Args:
            name: the image.
            result: the cell, or none if no mask passed.
            revision: revision that the caller shows.
            replaced: label of the cell that takes the new shape; None adds a cell.

        Returns:
            A description of the change, with the label of the cell, or None.
        """
        crops = label_crops(result.labels)
        if not crops:
            status = self.check_revision(name, revision)
            return {**changed(EditResult(revision=revision, state=status.state), self.describe(name)), **_NO_CELL}
        shape = Shape.of_mask(crops[0])
        edit = Add(shape=shape) if replaced is None else Redraw(shape=shape, label=replaced)
        made = self.change(name, lambda: self.project.apply(name, edit, author=AUTHOR, expected_revision=revision))
        label = replaced or (made["created"][0] if made["created"] else None)
        return {**made, "label": label, "iou_prediction": round(float(result.iou_predictions[0]), 4)}

    def segment(self, name: str, config: SegmentConfig) -> None:
        """Segment an image and store its cells; blocks until that is done.

        Raises:
            SegmenterError: the image cannot be segmented, or was changed in the meantime.
        """
        revision = self.project.status(name).revision
        result = self.service.segment(lambda: self.project.read(name), config).result().result
        engine = EngineRecord.of(self._engines.engine_dir, config, made_by=result.provenance)
        self.project.store_segmentation(name, result, engine=engine, author=AUTHOR, expected_revision=revision)
        if result.appearance.diameter_px is not None:
            self._diameters[name] = result.appearance.diameter_px
        self.events.send("image", self.describe(name))


def changed(result: EditResult, described: dict[str, Any]) -> dict[str, Any]:
    """Describe a change for JSON."""
    top, left, bottom, right = result.box
    gone = set(result.removed)
    return {
        "revision": result.revision,
        "state": result.state,
        "cells": described["cells"],
        "labels": [label for label in result.cells if label not in gone],
        "created": list(result.created),
        "gone": list(result.removed),
        "bbox": [left, top, right, bottom] if bottom > top else None,
        "can_undo": described["can_undo"],
        "can_redo": described["can_redo"],
    }
