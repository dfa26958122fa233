"""Comparison of evaluations: specialist and generalist, before and after, zero-shot, prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from training.evaluation.metrics import PRIMARY_IOU, iou_key
from training.evaluation.report import (
    MEASURES,
    SCHEMA,
    TITLES,
    Report,
    check_evaluated,
    figure,
    markdown_table,
    row_to_json,
    write_json,
)
from training.evaluation.summary import LEVELS, RowName, SummaryRow, summarize


@dataclass(frozen=True, slots=True)
class Column:
    """One side of a comparison: one evaluation, or several on disjoint images (one specialist per dataset)."""

    name: str
    reports: tuple[Report, ...]
    rows: Mapping[RowName, SummaryRow]
    images: Mapping[RowName, frozenset[str]]
    """Images of each row; only rows with the same images can be compared."""


def make_column(name: str, reports: Sequence[Report], *, iou: float = PRIMARY_IOU) -> Column:
    """Combine one or several evaluations under one name; counts are summed over all their images.

    Args:
        name: heading of the column.
        reports: their images must not overlap.
        iou: threshold to show.

    Raises:
        InputError: an image is in two of the reports, or a report has no figures at ``iou``.
    """
    for report in reports:
        check_evaluated(report, iou)
    scores = [image for report in reports for image in report.evaluation.images]
    keys = [f"{image.subset}/{image.id}" for image in scores]
    if len(set(keys)) != len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            f"image {repeated} is in several of the reports named {name!r}; give reports of the same images "
            "different names.",
            kind="conflict",
        )
    ious = [i for i in reports[0].evaluation.ious if all(i in report.evaluation.ious for report in reports)]
    # COCO AP cannot be recomputed without the masks, so it needs one report with all images of a row.
    coco = {}
    if len(reports) == 1:
        coco = {(row.level, row.name): row.coco for row in reports[0].evaluation.rows if row.coco is not None}
    rows = {(row.level, row.name): row for row in summarize(scores, ious, coco)}
    images: dict[RowName, set[str]] = {}
    for image, key in zip(scores, keys, strict=True):
        for row in image.rows if image.error is None else ():
            images.setdefault(row, set()).add(key)
    return Column(name, tuple(reports), rows, {row: frozenset(keys) for row, keys in images.items()})


def row_names(columns: Sequence[Column]) -> list[RowName]:
    """Return the rows that any column has, by level and name."""
    names = {row for column in columns for row in column.rows}
    return sorted(names, key=lambda row: (LEVELS.index(row[0]), row[1]))


def same_images(columns: Sequence[Column], row: RowName) -> bool:
    """Return whether all columns that have the row have it for the same images."""
    return len({column.images.get(row, frozenset()) for column in columns if row in column.rows}) <= 1


def write_comparison(path: Path, columns: Sequence[Column], *, iou: float, command: str = "") -> None:
    """Write all figures of all columns as JSON."""
    rows = [
        {
            "level": row[0],
            "name": row[1],
            "same_images": same_images(columns, row),
            "columns": {c.name: row_to_json(c.rows[row]) for c in columns if row in c.rows},
        }
        for row in row_names(columns)
    ]
    sources = {column.name: [_source(report) for report in column.reports] for column in columns}
    write_json(
        path,
        {"schema": SCHEMA, "kind": "comparison", "iou": iou, "command": command, "sources": sources, "rows": rows},
    )


def comparison_markdown(columns: Sequence[Column], *, iou: float = PRIMARY_IOU) -> str:
    """Render one table per level: F1, mSA and COCO mAP of every column; rows with unequal images are marked."""
    key, unequal, lines = iou_key(iou), False, []
    for level in LEVELS:
        names = [row for row in row_names(columns) if row[0] == level]
        if not names:
            continue
        table = []
        for row in names:
            equal = same_images(columns, row)
            unequal |= not equal
            table.append([row[1] + ("" if equal else " †"), *_figures(columns, row, key)])
        head = [TITLES[level], *(f"{column.name} {what}" for column in columns for what in (f"F1@{key}", "mSA", "mAP"))]
        if any(_has_prompts(column) for column in columns):
            head += [f"{column.name} mean IoU of prompts" for column in columns]
        lines += [*markdown_table(head, table), ""]
    if unequal:
        lines += ["† The columns have different images, or some images failed in one of them.", ""]
    lines += [f"Matching is one to one at IoU {iou:g} or more; counts are summed over images.", "", MEASURES]
    return "\n".join(lines) + "\n"


def _figures(columns: Sequence[Column], row: RowName, key: str) -> list[str]:
    found = [column.rows.get(row) for column in columns]
    values: list[float] = []
    for one in found:
        values += [one.counts[key].f1, one.mean_segmentation_accuracy] if one else [math.nan] * 2
        values.append(one.coco.map if one and one.coco else math.nan)
    if any(_has_prompts(column) for column in columns):
        values += [one.mean_prompt_iou if one else math.nan for one in found]
    return [figure(value) for value in values]


def _has_prompts(column: Column) -> bool:
    return any(not math.isnan(row.mean_prompt_iou) for row in column.rows.values())


def _source(report: Report) -> dict[str, Any]:
    about = {key: getattr(report, key) for key in ("name", "created", "command", "method", "environment")}
    return {**about, "images": len(report.evaluation.images), "failed": len(report.evaluation.failed)}
