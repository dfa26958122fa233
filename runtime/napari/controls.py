"""Form of the widget: image, region, diameter and thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

from runtime.config import SegmentConfig

WHOLE, VISIBLE, SELECTED = "Whole image", "Visible part", "Selected rectangle"

THRESHOLDS = {
    "box_threshold": ("Box threshold", 0.0, 1.5, "Least score of a box. Lower values find more cells."),
    "iou_threshold": ("Mask quality", 0.0, 1.0, "Least quality of a mask, by the model's own estimate."),
    "mask_threshold": ("Mask threshold", 0.01, 0.99, "Least probability of a cell's pixels. Lower values grow cells."),
}
"""Label, least and highest value, and explanation by setting."""


class Controls(QWidget):
    """Fields for what to segment, and how."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Create the fields.

        Args:
            changed: called after each change.
        """
        super().__init__()
        self._changed = changed
        self.image, self.nuclei, self.region = QComboBox(), QComboBox(), QComboBox()
        self.region.addItems([WHOLE, VISIBLE, SELECTED])
        self.diameter = _number(0, 2000, 1, "Median cell diameter, pixels; 0 measures it.", decimals=1)
        self.diameter.setSpecialValueText("measured")
        self.thresholds = {name: _number(low, high, 0.05, tip) for name, (_, low, high, tip) in THRESHOLDS.items()}
        self.min_area = QSpinBox()
        self.min_area.setRange(0, 1_000_000)
        self.min_area.setToolTip("Cells with fewer pixels are removed.")
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", self.image)
        form.addRow("Nuclei", self.nuclei)
        form.addRow("Region", self.region)
        form.addRow("Diameter", self.diameter)
        for name, field in self.thresholds.items():
            form.addRow(THRESHOLDS[name][0], field)
        form.addRow("Least area", self.min_area)
        self.nuclei.setToolTip("Image layer of the nuclei, if the image shows whole cells.")
        self.region.setToolTip("A rectangle is taken from the selected shapes of a Shapes layer.")
        self._connect()

    def _connect(self) -> None:
        for field in (self.diameter, self.min_area, *self.thresholds.values()):
            field.valueChanged.connect(self._on_change)
        for combo in (self.image, self.nuclei, self.region):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.currentIndexChanged.connect(self._on_change)

    def _on_change(self, *_: object) -> None:
        self._changed()

    def set_images(self, names: list[str]) -> None:
        """List the image layers; the choices stay if they still exist."""
        for combo, items in ((self.image, names), (self.nuclei, ["none", *names])):
            before = combo.currentText()
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(items)
            combo.setCurrentText(before)
            combo.blockSignals(False)

    def show_config(self, config: SegmentConfig) -> None:
        """Show the default settings of engines, without calling ``changed``."""
        values: dict[Any, float] = {field: getattr(config, name) for name, field in self.thresholds.items()}
        for field, value in {
            **values,
            self.diameter: config.diameter_px or 0,
            self.min_area: config.min_area_px,
        }.items():
            field.blockSignals(True)
            field.setValue(value)
            field.blockSignals(False)

    def values(self) -> dict[str, Any]:
        """Return the settings of the fields by name."""
        given: dict[str, Any] = {name: round(field.value(), 4) for name, field in self.thresholds.items()}
        return {**given, "diameter_px": self.diameter.value() or None, "min_area_px": self.min_area.value()}


def _number(low: float, high: float, step: float, tip: str, decimals: int = 2) -> QDoubleSpinBox:
    field = QDoubleSpinBox()
    field.setRange(low, high)
    field.setSingleStep(step)
    field.setDecimals(decimals)
    field.setToolTip(tip)
    return field
