"""State that the parts of the widget share: viewer, engines, chosen image and settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.napari.controls import SELECTED, VISIBLE, WHOLE, Controls
from runtime.napari.engine_loading import EngineChoice
from runtime.napari.layers import Viewer, images_of, plane_on_show, position_in, selected_rectangle, visible_rectangle
from runtime.napari.parts import ImagePart, centred, part_of
from runtime.napari.steps import Stale
from runtime.napari.tasks import Tasks
from runtime.segmenter import Segmenter

PREVIEW_PX = 1024
"""Longest side of the part that a live preview shows, image pixels."""

BOXES_PX = 1 << 24
"""Pixels of the largest image that is encoded as a whole for boxes; of larger ones, the visible part is."""


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """The widget's parts, and what they choose together."""

    viewer: Viewer
    tasks: Tasks
    engines: EngineChoice
    controls: Controls
    report: Callable[[str], None]
    """Shows a line of text below the buttons."""

    def image(self) -> Any:
        """Return the chosen image layer.

        Raises:
            InputError: there is no image layer.
        """
        chosen = self._layer(self.controls.image.currentText())
        if chosen is None:
            raise InputError(
                "the viewer has no image layer; expected an image to segment. Open an image, or File > Open Sample > "
                "CellSAM Engine.",
                kind="missing",
                field="image",
            )
        return chosen

    def part(self) -> ImagePart:
        """Return the chosen region of the chosen image.

        Raises:
            InputError: there is no image or no rectangle, or the rectangle is outside the image.
        """
        return self._part(self.image(), self.controls.region.currentText())

    def part_for_preview(self) -> ImagePart:
        """Return the visible part of the image, or the selected rectangle; at most ``PREVIEW_PX`` long and wide."""
        region = self.controls.region.currentText()
        part = self._part(self.image(), VISIBLE if region == WHOLE else region)
        return replace(part, extent=centred(part.extent, PREVIEW_PX))

    def part_for_boxes(self) -> ImagePart:
        """Return the image, or its visible part if it is too large to be encoded as a whole."""
        image = self.image()
        height, width = plane_on_show(self.viewer, image).size_hw
        return self._part(image, WHOLE if height * width <= BOXES_PX else VISIBLE)

    def task(self, work: Callable[[Segmenter, SegmentConfig, Stale], Any]) -> Callable[[Stale], Any]:
        """Return a task with the settings that the fields have now; its thread loads the engines if necessary."""
        values = self.controls.values()
        return self.engines.with_segmenter(
            lambda segmenter, stale: work(segmenter, with_values(segmenter.config, values), stale)
        )

    def _part(self, image: Any, region: str) -> ImagePart:
        extent = None
        if region == SELECTED:
            extent = selected_rectangle(self.viewer, image)
        elif region == VISIBLE:
            extent = visible_rectangle(image)
        nuclei = self._layer(self.controls.nuclei.currentText())
        return part_of(image, nuclei, position_in(self.viewer, image), extent)

    def _layer(self, name: str) -> Any | None:
        return next((layer for layer in images_of(self.viewer) if layer.name == name), None)


def with_values(config: SegmentConfig, values: dict[str, Any]) -> SegmentConfig:
    """Replace settings by those of the fields.

    Raises:
        ConfigError: a value is out of range, or the engines take no diameter.
    """
    return replace(config, **{**values, "diameter_um": None})
