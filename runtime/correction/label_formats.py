"""Formats in which the labels of a project are imported and exported, by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError, InputError
from runtime.files.formats.base import damage_named
from runtime.files.label_files.deepcell_label import LABELS_ENTRY, read_deepcell_label
from runtime.files.label_files.geojson import read_geojson
from runtime.files.label_files.imagej import read_rois
from runtime.files.label_files.label_image import read_label_image
from runtime.files.outputs.deepcell_label import write_deepcell_label
from runtime.files.outputs.formats import OUTPUT_FORMATS
from runtime.files.outputs.geojson import cell_feature, write_features
from runtime.files.outputs.imagej import write_roi_entries
from runtime.files.placing import write_whole
from runtime.files.plain import write_labels
from runtime.ops.masks import label_crops
from runtime.ops.measure import areas
from runtime.types import I32


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOutput:
    """Data from which the label file of one image is written."""

    labels: I32
    """(H, W), 0 background; numbers may have gaps, which the file keeps."""
    pixel_size_um: float | None
    read_pixels: Callable[[], NDArray[Any]]
    """Reads the image, (H, W) or (H, W, C)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFormat:
    """A format with one file for each image."""

    ending: str
    """Ending of the file name, after the name of the image."""
    read: Callable[[Path, tuple[int, int]], I32]
    """Reads labels for an image of the given size."""
    write: Callable[[Path, LabelOutput], None]


def _write_geojson(path: Path, output: LabelOutput) -> None:
    """Write an outline for each cell, named by its label."""
    measured = areas(output.labels)
    labels = np.unique(output.labels[output.labels > 0]).tolist()

    def write(temporary: Path) -> None:
        crops = zip(labels, label_crops(output.labels), strict=True)
        rows = (
            ({"label": label, **{name: float(of[label - 1]) for name, of in measured.items()}}, crop)
            for label, crop in crops
        )
        write_features(temporary, (cell_feature(row, crop) for row, crop in rows))

    write_whole(path, write)


def _write_rois(path: Path, output: LabelOutput) -> None:
    """Write a ROI for each cell, named by its label."""
    labels = np.unique(output.labels[output.labels > 0]).tolist()
    cells = zip(labels, label_crops(output.labels), strict=True)
    write_whole(path, lambda temporary: write_roi_entries(temporary, cells))


LABEL_FORMATS = {
    "tiff": LabelFormat(
        ending=OUTPUT_FORMATS["tiff"].ending,
        read=lambda path, _: read_label_image(path),
        write=lambda path, out: write_labels(path, out.labels, out.pixel_size_um),
    ),
    "geojson": LabelFormat(ending=OUTPUT_FORMATS["geojson"].ending, read=read_geojson, write=_write_geojson),
    "imagej": LabelFormat(ending=OUTPUT_FORMATS["imagej"].ending, read=read_rois, write=_write_rois),
    "deepcell-label": LabelFormat(
        ending="_deepcell_label.zip",
        read=read_deepcell_label,
        write=lambda path, out: write_deepcell_label(path, out.labels, out.read_pixels()),
    ),
}
"""Formats with one file for each image."""

COCO, TRAINING = "coco", "training"
"""Formats with one file for all images, and with a pair of image and labels for each."""

EXPORT_FORMATS = (*LABEL_FORMATS, COCO, TRAINING)

IMPORT_ENDINGS = (
    *(one.ending for one in LABEL_FORMATS.values()),
    *("_labels.ome.tif", "_labels.tiff", "_labels.png", "_labels.npy", "_masks.tif", "_masks.png", "_cp_masks.tif"),
    *("_cp_masks.png", "_mask.tif", "_mask.tiff", "_mask.png", "_mask.npy", ".geojson", ".zip"),
)
"""Endings of label files beside the name of their image; without an ending, an image of the same name is its labels."""


def check_format(name: str, known: tuple[str, ...]) -> None:
    """Raise a ``ConfigError`` unless a format is known."""
    if name not in known:
        raise ConfigError(f"format {name!r} is unknown; expected one of {', '.join(known)}.", field="format")


def find_format(path: Path) -> str:
    """Return the name of a file's format, from its suffix and, for zip and JSON files, its content.

    Raises:
        InputError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    with damage_named(path):
        if suffix == ".zip":
            with zipfile.ZipFile(path) as file:
                return "deepcell-label" if LABELS_ENTRY in file.namelist() else "imagej"
        if suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            return COCO if isinstance(content, dict) and "annotations" in content else "geojson"
    return "geojson" if suffix == ".geojson" else "tiff"


def read_labels(path: Path, size_hw: tuple[int, int], format_name: str | None = None) -> I32:
    """Read a file with the labels of one image.

    Args:
        path: the file.
        size_hw: size of the image.
        format_name: one of ``LABEL_FORMATS``; None to find it by ``find_format``.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        ConfigError: the format is unknown.
        InputError: the file cannot be read, or its labels have another size.
    """
    name = find_format(path) if format_name is None else format_name
    check_format(name, tuple(LABEL_FORMATS))
    labels = LABEL_FORMATS[name].read(path, size_hw)
    if labels.shape != size_hw:
        raise InputError(
            f"{path} has labels of {labels.shape[0]} x {labels.shape[1]} pixels; expected {size_hw[0]} x "
            f"{size_hw[1]}, the size of the image. Give the labels of this image.",
            kind="mismatch",
        )
    return labels
