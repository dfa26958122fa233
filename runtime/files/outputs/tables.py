"""The table of cells, and its CSV writer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runtime.files.placing import write_whole
from runtime.results import Segmentation
from runtime.types import Arrays

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
"""Columns of every table, described in ``Segmentation.table``; columns of measurements follow."""

_FORMATS = {"score": ".5f", "iou_prediction": ".5f", "area_um2": ".3f", "perimeter_px": ".3f", "eccentricity": ".5f"}
"""Formats of floats in CSV."""

_INTENSITY_FORMAT = ".9g"
"""Format that keeps all digits of integers of up to 29 bits, and of float32."""

Row = tuple[int | float | None, ...]
"""A value for each column; None if it is unknown."""


def table_columns(measured: Arrays | None = None) -> tuple[str, ...]:
    """Return the names of the columns of ``table_rows``."""
    return (*TABLE_COLUMNS, *(measured or ()))


def table_rows(
    result: Segmentation, pixel_size_um: float | None = None, measured: Arrays | None = None
) -> Iterator[Row]:
    """Yield the rows of a table, in the order of ``table_columns``.

    Args:
        result: the segmentation of an image.
        pixel_size_um: side of a pixel, micrometres; if None, ``area_um2`` is unknown.
        measured: further columns, (n,) each, in the order of the labels.

    Yields:
        A row for each cell, in the order of the labels, then one for each hidden instance, which has label 0 and
        neither centroid nor measurements.
    """
    measured = measured or {}
    found = {**result.table(pixel_size_um=pixel_size_um, shapes=False), **measured}
    names = table_columns(measured)
    yield from zip(*(found[name].tolist() if name in found else [None] * len(result) for name in names), strict=True)
    height, width = result.labels.shape
    hidden = [column.tolist() for column in result.hidden.columns((height, width)).values()]
    for columns in zip(*hidden, strict=True):
        row = (0, *columns, 0)
        yield (*row, *[None] * (len(names) - len(row)))


def write_table(
    path: Path, result: Segmentation, pixel_size_um: float | None = None, measured: Arrays | None = None
) -> None:
    """Write ``table_rows`` as CSV, atomically; unknown values stay empty."""
    rows, columns = table_rows(result, pixel_size_um, measured), table_columns(measured)
    write_whole(path, lambda temporary: write_rows(temporary, rows, columns))


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = TABLE_COLUMNS) -> None:
    """Write rows of a table as CSV, one at a time.

    Args:
        path: the file.
        rows: the rows, each with a value for each of ``columns``.
        columns: names of the columns.
    """
    formats = [_format(name) for name in columns]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_text(value, spec) for value, spec in zip(row, formats, strict=True)])


def _format(column: str) -> str:
    return _INTENSITY_FORMAT if column.startswith("intensity_") else _FORMATS.get(column, ".2f")


def _text(value: float | None, spec: str) -> int | str:
    """Format a value for CSV: rounded, or empty if unknown."""
    if value is None:
        return ""
    return f"{value:{spec}}" if isinstance(value, float) else value
