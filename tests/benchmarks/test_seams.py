"""Tests that seams lose nothing on a small slide, and that the comparison detects losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import seams
from benchmarks.made_slide import EdgeBlindEngines, MadeSlide, PerfectEngines, worn_at_edges
from benchmarks.seams import Comparison, crossed_labels, seams_of, shared_lines
from runtime.jobs.slides import SlideSettings
from runtime.views.grid import TileGrid


@pytest.mark.parametrize("engines", [PerfectEngines(), EdgeBlindEngines()])
def test_seams_cost_nothing(engines: PerfectEngines) -> None:
    slide = MadeSlide((1050, 1370), seed=1)
    row = seams_of(slide, engines, SlideSettings(tile_px=240, overlap_px=100))
    truth = slide.truth(0, 0, *slide.size_hw)
    assert row["inside"]["cells"] + row["seam"]["cells"] == row["found"] == len(np.unique(truth)) - 1
    assert min(row["inside"]["cells"], row["cells_crossed_by_an_edge"]) > 50
    for place in ("inside", "seam"):
        assert [at["f1"] for at in row[place]["at_iou"].values()] == [1.0, 1.0]
        assert (row[place]["duplicates"], row[place]["cut"]) == (0, 0)


def test_the_edge_blind_double_spoils_what_is_near_an_edge_and_nothing_else() -> None:
    slide = MadeSlide((400, 400))
    labels = np.unique(slide.truth(0, 0, 200, 200), return_inverse=True)[1].reshape(200, 200).astype(np.int32)
    seen = worn_at_edges(labels, (0, 0), slide.size_hw, 24)
    inner = np.zeros(labels.shape, np.bool_)
    inner[:138, :138] = (
        True  # a cell that begins here ends before it is near a tile's edge; the slide's edges do not count
    )
    cells = np.unique(labels[inner])[1:]
    assert all(len(np.unique(seen[labels == n])) == 1 and (seen > 0)[labels == n].all() for n in cells)
    np.testing.assert_array_equal((seen > 0)[:138, :138], (labels > 0)[:138, :138])
    assert ((seen > 0) != (labels > 0)).sum() > 200
    np.testing.assert_array_equal(worn_at_edges(labels, (200, 200), (400, 400), 0), labels)


def test_faults_are_counted_where_they_are() -> None:
    """Compare strip by strip: a whole cell, one missed, one split, one cut, and a label without a cell."""
    truth, found = np.zeros((60, 60), np.int64), np.zeros((60, 60), np.int64)
    truth[0:10, 0:10] = 3
    truth[20:30, 0:10] = 5
    truth[0:10, 40:50] = 6
    truth[20:30, 40:50] = 7
    found[0:10, 0:10] = 1
    found[0:10, 40:43], found[0:10, 43:50] = 2, 3
    found[20:28, 40:50] = 4
    found[50:55, 45:50] = 5
    at_seam = np.zeros((60, 60), np.bool_)
    at_seam[:, 45:] = True
    comparison = Comparison(9, 5)
    for top in (0, 24, 48):
        part = slice(top, top + 24)
        comparison.add(truth[part], found[part], at_seam[part])
    summary = comparison.summary()
    assert summary["inside"] == {
        "cells": 2,
        "at_iou": {iou: {"f1": 0.5, "tp": 1, "fp": 1, "fn": 1} for iou in ("0.6", "0.9")},
        "duplicates": 0,
        "cut": 0,
    }
    seam = summary["seam"]
    assert (seam["cells"], seam["duplicates"], seam["cut"]) == (2, 1, 2)
    # At 0.6 the larger half and the cut cell are matched, at 0.9 neither is; the other half lies inside.
    assert seam["at_iou"]["0.6"] == {"f1": pytest.approx(0.8), "tp": 2, "fp": 1, "fn": 0}
    assert seam["at_iou"]["0.9"] == {"f1": 0.0, "tp": 0, "fp": 3, "fn": 2}


def test_lines_and_edges() -> None:
    assert np.flatnonzero(shared_lines((0, 6), 10, 16)).tolist() == [6, 7, 8, 9]
    slide = MadeSlide((200, 200))
    grid = TileGrid((200, 200), 120, (0, 80), (0, 80))
    truth = slide.truth(0, 0, 200, 200)
    crossed = [
        n
        for n in np.unique(truth)[1:]
        if any({e - 1, e} <= set(axis) for e in (80, 120) for axis in np.nonzero(truth == n))
    ]
    assert crossed_labels(slide, grid).tolist() == crossed


def test_the_command_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--side", "500", "--cuts", "200/60", "--model-side", "300", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["seams", *arguments])
    seams.main()
    (path,) = tmp_path.glob("seams_*.json")
    record = json.loads(path.read_text())
    assert [row["segmenter"] for row in record["rows"]] == ["perfect", "edge-blind", "built-in model"]
    assert record["rows"][0]["f1_seam_less_inside"] == {"0.6": 0.0, "0.9": 0.0}
