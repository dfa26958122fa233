"""The table of cells as Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from runtime.files.formats.base import optional_package
from runtime.files.plain import TABLE_COLUMNS, Row, table_rows, write_whole
from runtime.results import Segmentation

WHOLE = ("label", "mask_area_px", "label_area_px")
"""Columns of whole numbers; the others are float64."""


ROWS_TOGETHER = 65536
"""Rows of a row group: what is held of a slide's table."""


def write_parquet(path: Path, result: Segmentation, pixel_size_um: float | None = None) -> None:
    """Write ``table_rows`` at full precision; what is not known is null. The file appears whole.

    Raises:
        InputError: pyarrow is not installed.
    """
    write_whole(path, lambda temporary: write_parquet_rows(temporary, table_rows(result, pixel_size_um)))


def write_parquet_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows of the table, some at a time.

    Raises:
        InputError: pyarrow is not installed.
    """
    arrow = optional_package("pyarrow", "pyarrow", "Parquet")
    parquet = optional_package("pyarrow.parquet", "pyarrow", "Parquet")
    types = [arrow.int64() if name in WHOLE else arrow.float64() for name in TABLE_COLUMNS]
    schema = arrow.schema(list(zip(TABLE_COLUMNS, types, strict=True)))
    waiting = iter(rows)
    with parquet.ParquetWriter(path, schema) as file:
        while some := list(islice(waiting, ROWS_TOGETHER)):
            columns = zip(zip(*some, strict=True), types, strict=True)
            arrays = [arrow.array(column, type=kind) for column, kind in columns]
            file.write_table(arrow.Table.from_arrays(arrays, schema=schema))
