"""Reader of zip files of ImageJ ROIs, from Fiji's ROI Manager or ``runtime.files.outputs.imagej``.

Source: ``ij.io.RoiDecoder`` of ImageJ (github.com/imagej/ImageJ) for the ROI format, which roifile reads.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.files.formats.base import damage_named, optional_package
from runtime.files.label_files.painting import FoundCell, paint_cells
from runtime.files.label_files.zips import read_entry
from runtime.ops.drawing import fill_rings
from runtime.types import I32

_log = logging.getLogger(__name__)

_MAX_ROI_BYTES = 1 << 26

_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")
"""Types of ROIs that have an area; composites have the type RECT."""


def read_rois(path: str | Path, size_hw: tuple[int, int]) -> I32:
    """Read the areas among the ROIs of a zip file as labels.

    A cell has the number in the name of its ROI, if all cells have different ones; otherwise, cells are numbered in the
    order of the file.

    Args:
        path: the zip file.
        size_hw: size of the image.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        InputError: the file cannot be read, or roifile is not installed.
    """
    path = Path(path)
    roifile = optional_package("roifile", "roifile", "ImageJ ROIs")
    with damage_named(path):
        cells = list(_cells(path, size_hw, roifile))
    return paint_cells(cells, size_hw, str(path))


def _cells(path: Path, size_hw: tuple[int, int], roifile: Any) -> Iterator[FoundCell]:
    others = 0
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if not entry.filename.lower().endswith(".roi"):
                continue
            roi = roifile.ImagejRoi.frombytes(read_entry(file, entry.filename, _MAX_ROI_BYTES, path))
            if roi.roitype.name not in _AREAS:
                others += 1
                continue
            rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
            name = roi.name or Path(entry.filename).stem
            number = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else None
            yield FoundCell(fill_rings([np.asarray(ring, np.float64) for ring in rings], size_hw), number)
    if others:
        _log.warning("%s: %d ROIs without an area, such as points and lines, are left out", path, others)
