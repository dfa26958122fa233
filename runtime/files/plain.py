"""Image files in, label files and tables out. Files of any size, in parts: ``runtime.files.formats``."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.errors import InputError
from runtime.files.formats import SMALL_SUFFIXES, check_file
from runtime.files.formats.axes import NAMED_FEW, Plane
from runtime.files.formats.base import damage_named
from runtime.files.formats.pictures import read_picture
from runtime.files.formats.tiff import TiffReader
from runtime.results import Segmentation

PARTIAL = ".partial"
"""Suffix of files that are being written; one that is left over belongs to a killed process."""

TABLE_COLUMNS = (
    "label",
    "x0",
    "y0",
    "x1",
    "y1",
    "score",
    "iou_prediction",
    "mask_area_px",
    "label_area_px",
    "centroid_y",
    "centroid_x",
    "area_um2",
)

_UM_PER_CM = 1e4

Row = tuple[int | float | None, ...]
"""A value for each of ``TABLE_COLUMNS``; None where there is none."""


def read_image(path: str | Path) -> NDArray[np.generic]:
    """Read a PNG, JPEG, TIFF or npy file as a whole.

    Returns:
        (H, W), or (H, W, C) with the channels last, in the file's dtype and full depth. Palettes are resolved to
        colours; an opaque alpha channel is left out.

    Raises:
        InputError: no such file, another type, a file that is damaged or may not be read, or axes that are not one
            image of up to three channels; ``runtime.files.formats.open_image`` takes those.
    """
    path = Path(path)
    check_file(path, SMALL_SUFFIXES)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path)
    with damage_named(path):
        if path.suffix.lower() != ".npy":
            return read_picture(path)
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        return array


def _read_tiff(path: Path) -> NDArray[np.generic]:
    with TiffReader(path, series=None, plane=Plane(), level=0) as reader:
        if len(reader.channels) > NAMED_FEW and "S" not in reader.axes:
            raise InputError(
                f"{path} has axes {reader.axes} and {len(reader.channels)} channels; expected one plane of up to three "
                "channels. Choose them with runtime.files.formats.choose_channels, or save those to segment."
            )
        array = reader.read_all()
    return array[..., 0] if array.shape[2] == 1 else array


def write_labels(path: Path, labels: NDArray[np.int32], pixel_size_um: float | None = None) -> None:
    """Write a label map as a compressed TIFF, 16 bits where the labels fit, else 32; the file appears whole.

    Args:
        path: the file.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel; None where it is not known.
    """
    import tifffile

    dtype = np.uint16 if labels.max(initial=0) < 1 << 16 else np.uint32
    write_whole(
        path,
        lambda temporary: tifffile.imwrite(
            temporary,
            labels.astype(dtype),
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": "YX"},
            **resolution_tags(pixel_size_um),
        ),
    )


def resolution_tags(pixel_size_um: float | None) -> dict[str, Any]:
    """What tifffile is to write of the side of a pixel; nothing where it is not known.

    Fiji shows such centimetres as micrometres. ImageJ's own metadata would rule out labels of 32 bits (tifffile).
    """
    if pixel_size_um is None:
        return {}
    return {"resolution": (_UM_PER_CM / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}


def table_rows(result: Segmentation, pixel_size_um: float | None = None) -> Iterator[Row]:
    """What is told of each instance, by ``TABLE_COLUMNS``.

    Boxes and centroids are in image pixels: a box from edge to edge, the first pixel's edges being 0 and 1; a centroid
    is the mean of the places of the label's pixels, the first pixel's being 0. ``mask_area_px`` is that before overlaps
    are resolved, ``label_area_px`` and ``area_um2`` that in the label map.

    Args:
        result: of an image.
        pixel_size_um: side of a pixel; None where it is not known.

    Yields:
        A row for each instance. One of which the label map kept no pixel has label 0 and neither centroid nor area.
    """
    areas = np.bincount(result.labels.ravel(), minlength=1)
    sums = np.zeros((2, len(areas)))
    for label, region in enumerate(ndimage.find_objects(result.labels), start=1):
        if region is not None:
            inside = result.labels[region] == label
            for axis in (0, 1):
                along = inside.sum(axis=1 - axis)
                sums[axis, label] = along @ (np.arange(len(along)) + region[axis].start)
    instances = zip(result.ids, result.boxes, result.scores, result.iou_predictions, result.masks, strict=True)
    for label, box, score, iou, mask in instances:
        area = int(areas[label]) if label else 0
        y, x = (sums[:, label] / area).tolist() if area else (None, None)
        um2 = area * pixel_size_um**2 if area and pixel_size_um is not None else None
        yield (int(label), *box.tolist(), float(score), float(iou), mask.area_px, area, y, x, um2)


def write_table(path: Path, result: Segmentation, pixel_size_um: float | None = None) -> None:
    """Write ``table_rows`` as CSV; what is not known stays empty. The file appears whole."""
    write_whole(path, lambda temporary: write_rows(temporary, table_rows(result, pixel_size_um)))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows of the table as CSV, one at a time."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TABLE_COLUMNS)
        writer.writerows(map(written_row, rows))


def written_row(row: Row) -> list[int | str]:
    """A row of the table as CSV has it: rounded, empty where there is no value."""
    decimals = {"score": 5, "iou_prediction": 5, "area_um2": 3}
    named = zip(TABLE_COLUMNS, row, strict=True)
    texts = ((f"{v:.{decimals.get(name, 2)}f}" if isinstance(v, float) else v) for name, v in named)
    return ["" if text is None else text for text in texts]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or directory under a temporary name and rename it, so that it appears whole or not at all.

    Args:
        path: the file or directory; one that exists is replaced.
        write: writes to the path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(temporary)
        move_into_place(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def move_into_place(new: Path, path: Path) -> None:
    """Rename a file or directory; what is there is replaced."""
    if path.is_dir():
        _replace_directory(path, new)
    else:
        new.replace(path)


def _replace_directory(path: Path, new: Path) -> None:
    """A directory cannot be replaced in one step: the old one steps aside, and comes back if the new one fails."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old{PARTIAL}")
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old)
