"""Writer of the table of cells as Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from runtime.files.formats.base import optional_package
from runtime.files.outputs.tables import TABLE_COLUMNS, Row, table_columns, table_rows
from runtime.files.placing import write_whole
from runtime.provenance import METADATA_KEY, Provenance, distinct, to_json
from runtime.results import Segmentation
from runtime.types import Arrays

WHOLE = ("label", "mask_area_px", "label_area_px")
"""Integer columns; the others are float64."""

ROWS_TOGETHER = 65536
"""Rows of a row group, which bound the memory for a slide's table."""


def write_parquet(
    path: Path, result: Segmentation, pixel_size_um: float | None = None, measured: Arrays | None = None
) -> None:
    """Write ``table_rows`` at full precision, atomically; unknown values are null.

    Raises:
        InputError: pyarrow is not installed.
    """
    rows, columns = table_rows(result, pixel_size_um, measured), table_columns(measured)
    provenance = distinct([result.provenance])
    write_whole(path, lambda temporary: write_parquet_rows(temporary, rows, columns, provenance))


def write_parquet_rows(
    path: Path,
    rows: Iterable[Row],
    columns: Sequence[str] = TABLE_COLUMNS,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write rows of the table in groups.

    Args:
        path: the file.
        rows: the rows, each with a value for each of ``columns``.
        columns: names of the columns.
        provenance: what made the rows; becomes key-value metadata.

    Raises:
        InputError: pyarrow is not installed.
    """
    arrow = optional_package("pyarrow", "pyarrow", "Parquet")
    parquet = optional_package("pyarrow.parquet", "pyarrow", "Parquet")
    types = [arrow.int64() if name in WHOLE else arrow.float64() for name in columns]
    made_by = {METADATA_KEY: to_json(provenance)} if provenance else None
    schema = arrow.schema(list(zip(columns, types, strict=True)), metadata=made_by)
    waiting = iter(rows)
    with parquet.ParquetWriter(path, schema) as file:
        while some := list(islice(waiting, ROWS_TOGETHER)):
            typed = zip(zip(*some, strict=True), types, strict=True)
            arrays = [arrow.array(values, type=kind) for values, kind in typed]
            file.write_table(arrow.Table.from_arrays(arrays, schema=schema))
