"""Tests that figures in documents come from the newest record."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.evaluation_tables import PUBLISHED, measures_table, published_table
from benchmarks.tables import DOCUMENTS, RESULTS, newest_file, rendered
from training.evaluation.report import read_report

CASES = {
    "README.md": ("glance",),
    "benchmarks.md": ("latency", "bench", "slides", "seams"),
    "evaluation.md": ("quality", "measures", "f1-curves", "published"),
    "tensorrt.md": ("plans",),
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_newest_records(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert all(f"<!-- {case} -->" in text for case in CASES[path.name])
    assert rendered(text) == text, "run: python -m benchmarks.tables"


def test_published_figures_stand_beside_those_of_the_record() -> None:
    """Compute mean segmentation accuracy from the images of the record alone."""
    record = json.loads(newest_file("nano").read_text(encoding="utf-8"))
    table = published_table(read_report(newest_file("nano")))
    for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]:
        images = [image for image in record["images"] if image["subset"] == row["subset"]]
        if not images:
            assert row["name"] not in table
            continue
        values = []
        for image in images:
            cells = image["truth"] + image["predicted"]
            values.append(
                fmean(image["tp"][key] / (cells - image["tp"][key]) for key in image["tp"]) if cells else None
            )
        own = fmean(value for value in values if value is not None)
        theirs = " | ".join(f"{figure:.3f}" for figure in row["figures"])
        assert f"| {row['name']} | {own:.3f} | {theirs} | {row['our_images']} ({len(images)}) |" in table
        assert f"| {row['seen']} |" in table


def test_unknown_measures_are_dashes() -> None:
    """Check a record from before areas were stored."""
    report = read_report(RESULTS / "nano_2026-11-25.json")
    (line,) = [line for line in measures_table(report).splitlines() if line.startswith("| usiigaci_phase |")]
    name, images, truth, *figures = line.removeprefix("| ").removesuffix(" |").split(" | ")
    assert (name, images, truth) == ("usiigaci_phase", "5", "308")
    assert figures[-5:-3] == ["0.207", "-"], "mSA, PQ"
    assert figures[-2:] == ["-", "-"], "area ratio, false cells"
