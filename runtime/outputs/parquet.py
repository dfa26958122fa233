"""The table of cells as Parquet."""

from __future__ import annotations

from pathlib import Path

from runtime.files import TABLE_COLUMNS, table_rows, write_whole
from runtime.formats.base import optional_package
from runtime.results import Segmentation

WHOLE = ("label", "mask_area_px", "label_area_px")
"""Columns of whole numbers; the others are float64."""


def write_parquet(path: Path, result: Segmentation, pixel_size_um: float | None = None) -> None:
    """Write ``table_rows`` at full precision; what is not known is null. The file appears whole.

    Raises:
        InputError: pyarrow is not installed.
    """
    arrow = optional_package("pyarrow", "pyarrow", "Parquet")
    parquet = optional_package("pyarrow.parquet", "pyarrow", "Parquet")
    types = [arrow.int64() if name in WHOLE else arrow.float64() for name in TABLE_COLUMNS]
    columns = list(zip(*table_rows(result, pixel_size_um), strict=True)) or [()] * len(TABLE_COLUMNS)
    arrays = [arrow.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
    table = arrow.Table.from_arrays(arrays, names=list(TABLE_COLUMNS))
    write_whole(path, lambda temporary: parquet.write_table(table, temporary))
