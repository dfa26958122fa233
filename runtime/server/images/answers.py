"""Results of a segmentation as the bodies of answers."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Response

from runtime.errors import InputError
from runtime.files.outputs.cellpose import MOST_IN_16_BITS, encode_png
from runtime.files.outputs.formats import OUTPUT_FORMATS, ImageOutput, check_packages
from runtime.files.outputs.tables import table_columns, table_rows
from runtime.provenance import Provenance, distinct, to_jsonable
from runtime.results import Appearance, Segmentation

ResultFormat = Literal["json", "geojson", "tiff", "png"]
"""Formats in which a result is answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result and what is known about its image."""

    result: Segmentation
    pixel_size_um: float | None = None
    """Side of a pixel, micrometres; None if unknown."""
    of_boxes: bool = False
    """Whether the caller gave the boxes; the table then has the index of each cell's box."""


def result_answer(answer: Answer, kind: ResultFormat) -> Response:
    """Write a result in a format.

    Raises:
        InputError: the format cannot hold this many cells.
    """
    content, media_type = _WRITERS[kind](answer)
    height, width = answer.result.labels.shape
    headers = {"X-Cells": str(len(answer.result)), "X-Size": f"{height}x{width}"}
    return Response(content, headers=headers, media_type=media_type)


def table_of(answer: Answer) -> dict[str, Any]:
    """Describe a result: size, cells, appearance, what made it, and the table of cells without hidden ones."""
    result = answer.result
    rows = [[*map(finite, row)] for row in table_rows(result, answer.pixel_size_um)][: len(result)]
    columns = [*table_columns()]
    if answer.of_boxes:
        columns.append("prompt")
        rows = [[*row, prompt] for row, prompt in zip(rows, result.prompts.tolist(), strict=True)]
    return {
        "size_hw": list(result.labels.shape),
        "cells": len(result),
        "appearance": appearance_of(result.appearance),
        "made_by": to_jsonable(distinct([result.provenance])),
        "columns": columns,
        "rows": rows,
    }


def appearance_of(appearance: Appearance) -> dict[str, Any]:
    """Describe how the model saw an image."""
    found = {name: finite(value) for name, value in asdict(appearance).items()}
    return {**found, "doubtful": appearance.doubtful}


def finite(value: Any) -> Any:
    """Return a value that JSON knows: None in place of NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(answer: Answer) -> tuple[bytes, str]:
    return json.dumps(table_of(answer), allow_nan=False, separators=(",", ":")).encode(), "application/json"


def _write_png(answer: Answer) -> tuple[bytes, str]:
    return label_png(answer.result.labels, distinct([answer.result.provenance])), "image/png"


def label_png(labels: Any, provenance: Sequence[Provenance] = ()) -> bytes:
    """Write a label map (H, W) as a 16-bit PNG.

    Raises:
        InputError: there are too many labels.
    """
    most = int(labels.max(initial=0))
    if most > MOST_IN_16_BITS:
        raise InputError(
            f"the image has labels up to {most}; expected at most {MOST_IN_16_BITS} in a PNG. Ask for format tiff.",
            kind="unsupported",
            field="format",
        )
    buffer = io.BytesIO()
    encode_png(buffer, labels, provenance)
    return buffer.getvalue()


def file_of(answer: Answer, name: str) -> bytes:
    """Write a result in one of ``OUTPUT_FORMATS`` that is one file; return its content.

    Raises:
        InputError: a package that the format needs is not installed.
    """
    check_packages([name])
    with tempfile.TemporaryDirectory(prefix="cellsam-engine-") as directory:
        path = Path(directory, f"image{OUTPUT_FORMATS[name].ending}")
        OUTPUT_FORMATS[name].write(path, ImageOutput(result=answer.result, pixel_size_um=answer.pixel_size_um))
        return path.read_bytes()


_WRITERS: dict[ResultFormat, Callable[[Answer], tuple[bytes, str]]] = {
    "json": _write_json,
    "geojson": lambda answer: (file_of(answer, "geojson"), "application/geo+json"),
    "tiff": lambda answer: (file_of(answer, "tiff"), "image/tiff"),
    "png": _write_png,
}
