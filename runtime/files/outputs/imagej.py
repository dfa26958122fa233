"""Cell outlines as a zip file of ImageJ ROIs, for Fiji's ROI Manager.

Source: ``ij.io.RoiDecoder`` of ImageJ (github.com/imagej/ImageJ) for the ROI format, which roifile writes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats.axes import Plane
from runtime.files.formats.base import optional_package
from runtime.files.outputs.polygons import Ring, mask_polygons
from runtime.files.placing import write_whole
from runtime.ops.masks import MaskCrop, label_crops
from runtime.provenance import Provenance, to_json
from runtime.types import F32

_MOVE_TO, _LINE_TO, _CLOSE = 0.0, 1.0, 4.0
"""Segment types of a composite ROI, numbered as in ``java.awt.geom.PathIterator``."""

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Date of every entry, the earliest in zip files. A fixed date makes files reproducible."""


def write_rois(
    path: Path,
    labels: NDArray[np.integer],
    plane: Plane | None = None,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write one ROI for each cell, named by its label, into a zip file, atomically.

    Args:
        path: the zip file.
        labels: (H, W), 0 background.
        plane: the plane of the stack that was segmented; ROIs then belong to that slice and frame.
        provenance: what made the labels; becomes the comment of the zip file, which ImageJ ignores.

    Raises:
        InputError: roifile is not installed.
    """
    cells = enumerate(label_crops(labels), start=1)
    write_whole(path, lambda temporary: write_roi_entries(temporary, cells, plane, provenance))


def write_roi_entries(
    path: Path,
    cells: Iterable[tuple[int, MaskCrop]],
    plane: Plane | None = None,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write the ROIs of ``write_rois`` one at a time.

    Args:
        path: the zip file.
        cells: label and pixels of each cell.
        plane: the plane of the stack that was segmented.
        provenance: what made the cells.

    Raises:
        InputError: roifile is not installed.
    """
    optional_package("roifile", "roifile", "ImageJ ROIs")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for label, crop in cells:
            entry = zipfile.ZipInfo(f"{label}.roi", EARLIEST)
            file.writestr(entry, cell_roi(label, crop, plane).tobytes(), zipfile.ZIP_DEFLATED)
        if provenance:
            file.comment = to_json(provenance).encode()


def cell_roi(label: int, crop: MaskCrop, plane: Plane | None = None) -> Any:
    """Outline one cell along the edges of its pixels.

    Returns:
        ``roifile.ImagejRoi``: a traced polygon, as from ImageJ's wand tool, or a composite of several rings if the cell
        has holes or separate parts. Coordinates are xy image pixels, 0 at the corner of the first pixel.

    Raises:
        InputError: roifile is not installed.
    """
    roifile = optional_package("roifile", "roifile", "ImageJ ROIs")
    position = {"z": plane.z or 0, "t": plane.time or 0} if plane is not None and (plane.z or plane.time) else {}
    rings = [ring for polygon in mask_polygons(crop.mask, crop.offset_yx) for ring in polygon]
    points = [point for ring in rings for point in ring[:-1]]
    roi = roifile.ImagejRoi.frompoints(points, name=str(label), **position)
    if len(rings) == 1:
        roi.roitype = roifile.ROI_TYPE.TRACED
        return roi
    roi.roitype = roifile.ROI_TYPE.RECT  # as ImageJ writes composites, whose path follows the header
    roi.integer_coordinates = roi.subpixel_coordinates = None
    roi.n_coordinates = 0
    roi.multi_coordinates = _path(rings)
    roi.shape_roi_size = len(roi.multi_coordinates)
    return roi


def _path(rings: Iterable[Ring]) -> F32:
    """Join rings into one path of segments, each with its type and its point."""
    path: list[float] = []
    for ring in rings:
        for kind, (x, y) in zip([_MOVE_TO, *[_LINE_TO] * (len(ring) - 2)], ring[:-1], strict=True):
            path += (kind, x, y)
        path.append(_CLOSE)
    return np.array(path, np.float32)
