"""Tables of the built-in model's quality, from reports of ``evaluate run`` and from published figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.evaluation.report import MEASURES, Report, figure, markdown_table
from training.evaluation.summary import SummaryRow

PUBLISHED = Path(__file__).with_name("published.json")
"""Published figures of other tools, with their source and images."""

CURVE_IOUS = ("0.5", "0.6", "0.7", "0.8", "0.9")


TITLES = {
    "bbbc039": "nuclei, fluorescence (BBBC039)",
    "dsb2018 fluorescence": "nuclei, fluorescence (DSB 2018)",
    "dsb2018 histology": "nuclei, histology (DSB 2018)",
    "bbbc030_dic": "cells, DIC (BBBC030)",
    "qpi_vicar": "cells, quantitative phase (Vicar)",
    "usiigaci_phase": "cells, phase contrast (Usiigaci)",
    "mdck_zo1": "epithelium, junctions (MDCK ZO-1)",
    "cpdmi_vectra": "tissue, multiplexed (CPDMI)",
}
"""Titles of the subsets of the test images."""


def glance_table(report: Report, bench: dict[str, Any], latency: dict[str, Any]) -> str:
    """Accuracy of the built-in model by kind of image; its speed, and that of CellSAM's ViT-B, in a sentence each."""
    known = {row.name: row for row in _subsets(report)}
    rows = []
    for name in (name for name in TITLES if name in known):
        row = known[name]
        values = (row.counts["0.6"].f1, row.mean_segmentation_accuracy)
        rows.append([TITLES[name], str(row.images), *map(figure, values)])
    times = [
        f"{row['total_ms']['p50']:.0f} ms ({row['backend']})"
        for row in bench["latency"]
        if (row["side_px"], row["cells"]) == (512, 100)
    ]
    totals = {name: variant["total_ms"]["p50"] / 1e3 for name, variant in latency["variants"].items()}
    baseline, ours = latency["baseline"], "engines, OpenVINO"
    return "\n".join(
        [
            f"`nano` on test images, none of which was used in training or tuning ({report.created[:10]}):",
            "",
            *markdown_table(["test images", "number", "F1 at IoU 0.6", "mSA"], rows),
            "",
            f"An image of 512 x 512 pixels with 100 cells takes {' or '.join(times)} on "
            f"{bench['environment']['cpu_count']} cores ({bench['date']}). CellSAM's own ViT-B takes "
            f"{totals[ours]:.1f} s with OpenVINO on {latency['environment']['cpu_count']} cores, "
            f"{latency['speedup'][ours]:.0f} times as fast as the released procedure in PyTorch "
            f"({totals[baseline]:.1f} s); with full masks in onnxruntime, "
            f"{latency['labels_equal_to_baseline_full_masks']:.2%} of the label pixels are equal.",
        ]
    )


def quality_table(report: Report, baseline: Report) -> str:
    """Render the F1 of the built-in model and of the classical baseline on the test images, by subset."""
    other = {row.name: row for row in _subsets(baseline)}
    rows = [
        [
            *(row.name, str(row.images), str(row.truth), figure(row.counts["0.6"].f1)),
            *(figure(other[row.name].counts["0.6"].f1 if row.name in other else None), figure(row.seconds_median, 2)),
        ]
        for row in _subsets(report)
        if row.truth
    ]
    head = ["", "images", "cells", "built-in model", "classical baseline", "seconds per image"]
    caption = (
        f"Test images; F1 at IoU 0.6, counts summed over a subset's images ({report.created[:10]}, "
        f"{report.environment['cpu_count']} cores)."
    )
    return "\n".join([caption, "", *markdown_table(head, rows)])


def measures_table(report: Report) -> str:
    """Render every measure of the built-in model, by subset."""
    rows = []
    for row in _subsets(report):
        at = row.counts["0.6"]
        values = [at.precision, at.recall, at.f1, row.mean_segmentation_accuracy, row.panoptic_quality]
        values += [row.count_error, row.area_ratio, row.false_cells_per_image]
        rows.append([row.name, str(row.images), str(row.truth), str(row.predicted), *map(figure, values)])
    head = ["", "images", "true cells", "predicted", "precision@0.6", "recall@0.6", "F1@0.6", "mSA", "PQ"]
    head += ["count error", "area ratio", "false cells/image"]
    return "\n".join([_caption(report), "", *markdown_table(head, rows), "", MEASURES])


def curve_table(report: Report) -> str:
    """Render the F1 of the built-in model against the IoU of a match, by subset."""
    rows = [[row.name, *(figure(row.counts[iou].f1) for iou in CURVE_IOUS)] for row in _subsets(report) if row.truth]
    return "\n".join([_caption(report), "", *markdown_table(["F1 at IoU", *CURVE_IOUS], rows)])


def published_table(report: Report) -> str:
    """Render published mean segmentation accuracy beside the built-in model's, with the differences in images."""
    published: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    ours = {row.name: row for row in _subsets(report)}
    rows = []
    for row in published["rows"]:
        if (own := ours.get(row["subset"])) is None:
            continue
        rows.append(
            [
                *(row["name"], figure(own.mean_segmentation_accuracy), *map(figure, row["figures"])),
                *(f"{row['our_images']} ({own.images})", row["their_images"], row["seen"]),
            ]
        )
    head = ["", "built-in model", *published["methods"], "our images", "their images", "the built-in model saw"]
    caption = f"Mean segmentation accuracy. Ours: {_caption(report)} Theirs: {published['source']}."
    return "\n".join([caption, "", *markdown_table(head, rows)])


def _subsets(report: Report) -> Iterator[SummaryRow]:
    return (row for row in report.evaluation.rows if row.level == "subset")


def _caption(report: Report) -> str:
    return f"`{report.command}`, {report.created[:10]}."
