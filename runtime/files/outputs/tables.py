"""The table of cells, and as CSV."""

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
"""Columns of every table; ``Segmentation.table`` describes them. Measured ones follow."""

_FORMATS = {"score": ".5f", "iou_prediction": ".5f", "area_um2": ".3f", "perimeter_px": ".3f", "eccentricity": ".5f"}
"""How CSV has floats."""

_INTENSITY_FORMAT = ".9g"
"""All digits of integers of up to 29 bits, and of float32."""

Row = tuple[int | float | None, ...]
"""A value for each column; None if it is unknown."""


def table_columns(measured: Arrays | None = None) -> tuple[str, ...]:
    """Names of the columns of ``table_rows``."""
    return (*TABLE_COLUMNS, *(measured or ()))


def table_rows(
    result: Segmentation, pixel_size_um: float | None = None, measured: Arrays | None = None
) -> Iterator[Row]:
    """The rows of a table, by ``table_columns``.

    Args:
        result: of an image.
        pixel_size_um: side of a pixel; None if it is unknown, and so is ``area_um2`` then.
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
    """Write ``table_rows`` as CSV; unknown values stay empty. The file appears whole."""
    rows, columns = table_rows(result, pixel_size_um, measured), table_columns(measured)
    write_whole(path, lambda temporary: write_rows(temporary, rows, columns))


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = TABLE_COLUMNS) -> None:
    """Write rows of a table as CSV, one at a time.

    Args:
        path: the file.
        rows: a value for each of ``columns``.
        columns: their names.
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
    """A value as CSV has it: rounded, empty if it is unknown."""
    if value is None:
        return ""
    return f"{value:{spec}}" if isinstance(value, float) else value
