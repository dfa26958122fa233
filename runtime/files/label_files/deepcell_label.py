"""Reader of the labels in DeepCell Label's zip files.

Source: vanvalenlab/deepcell-label, ``documentation/LABEL_FILE_FORMAT.md``.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import damage_named
from runtime.files.label_files.zips import read_entry
from runtime.types import I32

IMAGE_ENTRY, LABELS_ENTRY, CELLS_ENTRY = "X.ome.tiff", "y.ome.tiff", "cells.json"

_MAX_PLANES = 64
"""Features and frames of a file."""

_MAX_CELLS_BYTES = 1 << 28

_log = logging.getLogger(__name__)


def read_deepcell_label(path: str | Path, size_hw: tuple[int, int]) -> I32:
    """Read the first frame of the first segmentation in a zip file as labels.

    ``cells.json`` maps the values of pixels to cells; if it is missing, values are cells. A value of several cells,
    which overlap there, becomes the one that the file lists first.

    Args:
        path: the zip file.
        size_hw: size of the image.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        InputError: the file cannot be read, has no labels, or labels of another size.
    """
    path = Path(path)
    with damage_named(path), zipfile.ZipFile(path) as file:
        values = _values(file, size_hw, path)
        if CELLS_ENTRY not in file.namelist():
            return values.astype(np.int32)
        cells = json.loads(read_entry(file, CELLS_ENTRY, _MAX_CELLS_BYTES, path))
        return _cells_of(values, cells, path)


def _values(file: zipfile.ZipFile, size_hw: tuple[int, int], path: Path) -> NDArray[Any]:
    """Read the pixel values of the first frame and feature, (H, W)."""
    import tifffile

    limit = (1 << 20) + 8 * _MAX_PLANES * size_hw[0] * size_hw[1]
    with tifffile.TiffFile(io.BytesIO(read_entry(file, LABELS_ENTRY, limit, path))) as tiff:
        series = tiff.series[0]
        shape = tuple(series.shape)
        if shape[-2:] != size_hw or int(np.prod(shape[:-2])) > _MAX_PLANES or series.dtype.kind not in "iu":
            raise InputError(
                f"{path}: {LABELS_ENTRY} has shape {shape} and type {series.dtype}; expected integers of {size_hw[0]} "
                f"x {size_hw[1]} pixels, the size of the image, in at most {_MAX_PLANES} planes. Export the labels of "
                "this image.",
                kind="mismatch",
            )
        values = series.asarray().reshape(-1, *size_hw)
    if len(values) > 1:
        _log.warning("%s: %d further planes of labels are left out", path, len(values) - 1)
    plane: NDArray[Any] = values[0]
    return plane


def _cells_of(values: NDArray[Any], cells: Any, path: Path) -> I32:
    """Replace values by cells; values that are not listed become background."""
    known, found = np.unique(values, return_inverse=True)
    numbers: dict[int, int] = {}
    shared = 0
    for one in cells:
        if one.get("t", 0) == 0 and one.get("c", 0) == 0 and one["value"] > 0:
            shared += one["value"] in numbers
            numbers.setdefault(int(one["value"]), int(one["cell"]))
    if shared:
        _log.warning("%s: cells overlap in %d places, which the cell listed first keeps", path, shared)
    if numbers and not 0 < min(numbers.values()) <= max(numbers.values()) < 1 << 31:
        raise ValueError("a cell has a number outside 1 to 2147483647")
    names = np.array([numbers.get(value, 0) for value in known.tolist()], np.int32)
    labels: I32 = names[found.reshape(values.shape)]
    return labels
