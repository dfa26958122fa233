"""Reports of evaluations: one JSON file each, and the Markdown tables rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.typed_json import convert
from training.evaluation.coco_metrics import CocoAp
from training.evaluation.evaluate import Evaluation
from training.evaluation.metrics import PRIMARY_IOU, iou_key
from training.evaluation.summary import LEVELS, ImageScore, Level, RowName, SummaryRow, summarize

SCHEMA = 1

_PLAIN = (
    *("level", "name", "images", "failed", "truth", "predicted", "mean_segmentation_accuracy", "panoptic_quality"),
    *("count_error", "area_ratio", "without_cells", "false_cells", "seconds_median", "mean_prompt_iou"),
)
"""Names of the plain values of a row, in the order in which they are written."""

MEASURES = (
    "mSA: mean segmentation accuracy, TP / (TP + FP + FN) averaged over IoU 0.5, 0.55 .. 0.95 and then over images; "
    "images with neither cells nor predictions are left out. PQ: panoptic quality at IoU 0.5. Count error: sum over "
    "images of the difference between predicted and true cells, as a fraction of the true ones. Area ratio: predicted "
    "over true area, geometric mean over cells matched at IoU 0.5. False cells: in images without cells."
)
"""Explanation of the columns of the tables."""

TITLES: Mapping[Level, str] = {"subset": "Subset", "dataset": "Dataset", "group": "Group", "all": "All images"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An evaluation with its method, command and environment."""

    name: str
    """Name of the method in tables."""
    evaluation: Evaluation
    method: Mapping[str, Any] = field(default_factory=dict)
    """Manifest of the engines, or parameters of the baseline."""
    command: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Output of ``environment.describe_environment``."""
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    """Date and time in UTC, ISO 8601."""


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON; NaN becomes null."""
    evaluation = report.evaluation
    content = {
        "schema": SCHEMA,
        "kind": "evaluation",
        "name": report.name,
        "created": report.created,
        "command": report.command,
        "method": dict(report.method),
        "environment": dict(report.environment),
        "ious": list(evaluation.ious),
        "rows": [row_to_json(row) for row in evaluation.rows],
        "images": [asdict(image) for image in evaluation.images],
    }
    write_json(path, content)


def read_report(path: str | Path) -> Report:
    """Read a report of ``write_report``.

    Raises:
        InputError: the file does not exist, is not a report, or has another schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a report ({error}); expected JSON from 'evaluate run'.", kind="unreadable"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != "evaluation" or content.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is not an evaluation of schema {SCHEMA}; expected JSON from 'evaluate run'.", kind="wrong_version"
        )
    try:
        images = convert(content["images"], tuple[ImageScore, ...])
        ious = tuple(content["ious"])
        rows = tuple(summarize(images, ious, _coco_from_json(content["rows"])))
        return Report(
            name=content["name"],
            evaluation=Evaluation(ious, images, rows),
            **{key: content[key] for key in ("method", "command", "environment", "created")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error!r}); evaluate again.", kind="damaged") from error


def row_to_json(row: SummaryRow) -> dict[str, Any]:
    """Convert one row of figures to plain values."""
    at = {
        key: {
            **asdict(counts),
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "average_precision": counts.average_precision,
            "cellpose_ap": row.cellpose_ap[key],
        }
        for key, counts in row.counts.items()
    }
    return {**{k: getattr(row, k) for k in _PLAIN}, "coco": asdict(row.coco) if row.coco else None, "at": at}


def _coco_from_json(rows: Sequence[Mapping[str, Any]]) -> dict[RowName, CocoAp]:
    """Return the COCO AP of the rows that have one; only these figures cannot be recomputed from the images."""
    return {
        (row["level"], row["name"]): CocoAp(**{key: _number(value) for key, value in row["coco"].items()})
        for row in rows
        if row["coco"] is not None
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with NaN as null and one line per record of a list, which makes files easy to read and compare."""
    parts = []
    for key, value in _without_nan(content).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(json.dumps(record, allow_nan=False) for record in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
        parts.append(f" {json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def markdown(report: Report, baseline: Report | None = None, *, iou: float = PRIMARY_IOU) -> str:
    """Render the tables of a report, one per level, with the F1 of a baseline if there is one.

    Raises:
        InputError: the report was not evaluated at ``iou``.
    """
    check_evaluated(report, iou)
    evaluation = report.evaluation
    lines = [f"# {report.name}", ""]
    if report.command:
        lines += [f"`{report.command}`", ""]
    hardware = ", ".join(filter(None, (report.environment.get("cpu"), *report.environment.get("gpus", ()))))
    lines += [f"{report.created}{', ' if hardware else ''}{hardware}", ""]
    for level in LEVELS:
        rows = [row for row in evaluation.rows if row.level == level]
        if rows:
            lines += [*_table(level, rows, baseline, iou), ""]
    if evaluation.failed:
        failed = f"{len(evaluation.failed)} of {len(evaluation.images)} images failed"
        lines += [f"**{failed}** and are excluded from all figures:", ""]
        lines += [f"- {image.dataset}/{image.id}: {image.error}" for image in evaluation.failed] + [""]
    lines += [f"Matching is one to one at IoU {iou:g} or more; counts are summed over images.", "", MEASURES]
    return "\n".join(lines) + "\n"


def check_evaluated(report: Report, iou: float) -> None:
    """Raise InputError unless the report has figures at this IoU."""
    if iou_key(iou) not in {iou_key(i) for i in report.evaluation.ious}:
        raise InputError(
            f"{report.name!r} was not evaluated at IoU {iou:g}; expected one of "
            f"{', '.join(map(iou_key, report.evaluation.ious))}. Evaluate again with iou={iou:g}.",
            kind="missing",
            field="iou",
        )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]


def figure(value: float | None, digits: int = 3) -> str:
    """Format a number for a table; a missing one is a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _table(level: Level, rows: Sequence[SummaryRow], baseline: Report | None, iou: float) -> list[str]:
    key = iou_key(iou)
    reference = {row.name: row for row in baseline.evaluation.rows if row.level == level} if baseline else {}
    prompts = any(not math.isnan(row.mean_prompt_iou) for row in rows)
    empty = any(row.without_cells for row in rows)
    head = [TITLES[level], "images", "true cells", "predicted", "precision", "recall", f"F1@{key}"]
    head += [f"F1@{key}, {baseline.name}"] if baseline else []
    head += ["mSA", "PQ", f"Cellpose AP@{key}", "COCO mAP", "AP50", "count error", "area ratio"]
    head += (["false cells/image"] if empty else []) + ["s/image"] + (["mean IoU of prompts"] if prompts else [])
    lines = []
    for row in rows:
        counts = row.counts[key]
        values = [counts.precision, counts.recall, counts.f1]
        if baseline:
            other = reference.get(row.name)
            values.append(other.counts[key].f1 if other and key in other.counts else math.nan)
        values += [row.mean_segmentation_accuracy, row.panoptic_quality, row.cellpose_ap[key]]
        values += [*((row.coco.map, row.coco.ap50) if row.coco else (math.nan, math.nan))]
        values += [row.count_error, row.area_ratio] + ([row.false_cells_per_image] if empty else [])
        values += [row.seconds_median] + ([row.mean_prompt_iou] if prompts else [])
        number = f"{row.images}" + (f" (+{row.failed} failed)" if row.failed else "")
        lines.append([row.name, number, str(row.truth), str(row.predicted), *map(figure, values)])
    return markdown_table(head, lines)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return value
