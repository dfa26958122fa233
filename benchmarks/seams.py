"""Comparison of cells at seams, where tiles overlap, with cells that one tile alone sees, on slides of known cells.

    python -m benchmarks.seams                                           # 20 000 pixels a side, three cuts
    python -m benchmarks.seams --side 2000 --model-side 0 --cuts 200/60  # a quick test

Each cut is segmented by two doubles that take no time: one segments every cell perfectly, and one loses, truncates,
splits and deforms cells near the edge of a tile. The built-in model segments a smaller slide in the first cut.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.made_slide import EdgeBlindEngines, MadeSlide, NoisySlide, PerfectEngines
from benchmarks.measure import known_peak_mib, write_record
from runtime.files.readers import ImageReader
from runtime.jobs.slides import EngineSpec, RunOptions, SlideFile, SlideSettings, segment_slide
from runtime.jobs.slides.engines import EngineSource
from runtime.jobs.slides.jobs import JOB_NAME
from runtime.jobs.slides.layout import SlideLayout
from runtime.typed_json import convert
from runtime.types import I64
from runtime.views.grid import TileGrid
from training.evaluation.matching import Counts, Overlaps, match

Bools = NDArray[np.bool_]

IOUS = (0.6, 0.9)
"""IoU thresholds of the F1."""

CUT_SHARE = 0.9
"""A cell counts as cut if labels cover some of its pixels, but none covers this share."""

STRIP_PX = 512
"""Number of rows compared at a time, which is that of the label file's tiles."""

_HALF = np.int64(32)


class Comparison:
    """True and found cells of a slide, collected strip by strip; memory grows with the cells, not the pixels."""

    def __init__(self, truth_labels: int, found_labels: int) -> None:
        """Args: truth_labels, found_labels: the largest labels."""
        # Pixels by label, and whether some of them lie in several tiles.
        self.truth = np.zeros(truth_labels + 1, np.int64)
        self.found = np.zeros(found_labels + 1, np.int64)
        self.truth_at_seam = np.zeros(truth_labels + 1, np.bool_)
        self.found_at_seam = np.zeros(found_labels + 1, np.bool_)
        self._pairs: list[tuple[I64, I64]] = []

    def add(self, truth: I64, found: I64, at_seam: Bools) -> None:
        """Add a strip: two label maps and the pixels that lie in several tiles, all (h, w)."""
        for labels, areas, touching in (
            (truth, self.truth, self.truth_at_seam),
            (found, self.found, self.found_at_seam),
        ):
            areas += np.bincount(labels.ravel(), minlength=len(areas))
            touching[labels[at_seam]] = True
        both = (truth > 0) & (found > 0)
        self._pairs.append(np.unique(truth[both] << _HALF | found[both], return_counts=True))

    def pairs(self) -> tuple[I64, I64, I64]:
        """Return the labels of all overlapping true and found cells, and their numbers of common pixels."""
        keys, where = np.unique(np.concatenate([keys for keys, _ in self._pairs]), return_inverse=True)
        shared = np.bincount(where, np.concatenate([counts for _, counts in self._pairs])).astype(np.int64)
        return keys >> _HALF, keys & ((1 << _HALF) - 1), shared

    def summary(self) -> dict[str, Any]:
        """Return counts, F1, duplicates and cut cells, separately for cells at seams and inside."""
        truth, found, shared = self.pairs()
        truth_ids, found_ids = (np.flatnonzero(areas[1:]) + 1 for areas in (self.truth, self.found))
        overlaps = Overlaps(
            truth_ids,
            found_ids,
            np.searchsorted(truth_ids, truth),
            np.searchsorted(found_ids, found),
            shared / (self.truth[truth] + self.found[found] - shared),
            self.truth[truth_ids],
            self.found[found_ids],
        )
        # A label belongs to the cell that has more than half of its pixels.
        owned = np.bincount(truth[2 * shared > self.found[found]], minlength=len(self.truth))
        largest = np.zeros(len(self.truth), np.int64)
        np.maximum.at(largest, truth, shared)
        cut = (largest > 0) & (largest < CUT_SHARE * self.truth)
        out: dict[str, Any] = {}
        for place, of_truth, of_found in (
            ("inside", ~self.truth_at_seam, ~self.found_at_seam),
            ("seam", self.truth_at_seam, self.found_at_seam),
        ):
            counted = of_truth & (self.truth > 0)
            counted[0] = False
            out[place] = {
                "cells": int(counted.sum()),
                "at_iou": {f"{iou:g}": self._scores(overlaps, iou, of_truth, of_found) for iou in IOUS},
                "duplicates": int((owned[counted] > 1).sum()),
                "cut": int(cut[counted].sum()),
            }
        return out

    @staticmethod
    def _scores(overlaps: Overlaps, iou: float, of_truth: Bools, of_found: Bools) -> dict[str, Any]:
        """Count a match at the place of its true cell, and a label without a match at its own place."""
        matched = match(overlaps, iou)
        alone = np.ones(len(overlaps.predicted_ids), np.bool_)
        alone[matched[:, 1]] = False
        tp = int(of_truth[overlaps.truth_ids[matched[:, 0]]].sum())
        fp = int(of_found[overlaps.predicted_ids[alone]].sum())
        counts = Counts(tp, fp, int(of_truth[overlaps.truth_ids].sum()) - tp)
        return {
            "f1": round(counts.f1, 5) if tp + fp + counts.fn else None,
            "tp": counts.tp,
            "fp": counts.fp,
            "fn": counts.fn,
        }


def shared_lines(firsts: tuple[int, ...], side: int, length: int) -> Bools:
    """Return (length) bool, True for rows or columns that lie in several tiles, from the first one of each tile."""
    seen = np.zeros(length, np.int64)
    for first in firsts:
        seen[first : first + side] += 1
    return seen > 1


def crossed_labels(slide: MadeSlide, grid: TileGrid) -> I64:
    """Return the true cells with pixels on both sides of a tile's edge."""
    height, width = grid.size_hw
    rows = {line for top in grid.tops for line in (top, top + grid.side) if 0 < line < height}
    columns = {line for left in grid.lefts for line in (left, left + grid.side) if 0 < line < width}
    sides = [slide.truth(row - 1, 0, 2, width) for row in rows]
    sides += [slide.truth(0, column - 1, height, 2).T for column in columns]
    labels = [np.intersect1d(before, after) for before, after in sides]
    return np.setdiff1d(np.concatenate(labels or [np.zeros(0, np.int64)]), [0])


def strips(slide: MadeSlide, labels: ImageReader) -> Iterator[tuple[int, I64, I64]]:
    """Yield first row, true labels and found labels of each strip, from top to bottom."""
    height, width = slide.size_hw
    for top in range(0, height, STRIP_PX):
        rows = min(STRIP_PX, height - top)
        yield top, slide.truth(top, 0, rows, width), labels.read(top, 0, rows, width)[..., 0].astype(np.int64)


def seams_of(slide: MadeSlide, engines: EngineSource, settings: SlideSettings) -> dict[str, Any]:
    """Segment a slide and compare its cells with the true ones."""
    with tempfile.TemporaryDirectory() as out:
        done = segment_slide(slide, out, engines=engines, settings=settings, options=RunOptions(keep_job=True))
        job = json.loads((Path(out) / f"{slide.name}_job" / JOB_NAME).read_text(encoding="utf-8"))
        grid = convert(job["layout"], SlideLayout).grid
        height, width = slide.size_hw
        rows, columns = (
            shared_lines(firsts, grid.side, length) for firsts, length in ((grid.tops, height), (grid.lefts, width))
        )
        comparison = Comparison(slide.highest_label, done.cells)
        for top, truth, found in strips(slide, SlideFile(done.labels)):
            comparison.add(truth, found, rows[top : top + len(truth), None] | columns)
    places = comparison.summary()
    return {
        "side_px": height,
        "tile_px": grid.side,
        "overlap_px": min([top + grid.side - below for top, below in pairwise(grid.tops)], default=0),
        "tiles": done.tiles,
        "found": done.cells,
        **places,
        "cells_crossed_by_an_edge": len(crossed_labels(slide, grid)),
        "f1_seam_less_inside": {
            f"{iou:g}": None if None in (seam["f1"], inside["f1"]) else round(seam["f1"] - inside["f1"], 5)
            for iou, seam, inside in zip(IOUS, *(places[k]["at_iou"].values() for k in ("seam", "inside")), strict=True)
        },
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="side of the slide, pixels")
    parser.add_argument("--cuts", nargs="+", default=["512/90", "768/128", "1024/160"], help="tile/overlap, pixels")
    parser.add_argument("--model-side", type=int, default=4_000, help="side of the built-in model's slide; 0: none")
    parser.add_argument("--pitch", type=int, default=40, help="distance of the cells, pixels")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    slide = MadeSlide((options.side, options.side), pitch_px=options.pitch)
    rows = []
    for cut in options.cuts:
        tile, overlap = map(int, cut.split("/"))
        settings = SlideSettings(tile_px=tile, overlap_px=overlap)
        for name, engines in (("perfect", PerfectEngines()), ("edge-blind", EdgeBlindEngines())):
            rows.append({"segmenter": name, **seams_of(slide, engines, settings)})
    if options.model_side:
        shown = NoisySlide((options.model_side, options.model_side), pitch_px=options.pitch)
        tile, overlap = map(int, options.cuts[0].split("/"))
        settings = SlideSettings(tile_px=tile, overlap_px=overlap)
        rows.append({"segmenter": "built-in model", **seams_of(shown, EngineSpec(), settings)})
    content = {
        "reach_px": EdgeBlindEngines().reach_px,
        "cut_share": CUT_SHARE,
        "rows": rows,
        "peak_mib": round(known_peak_mib(), 1),
    }
    print(write_record(options.out, "seams", content))  # noqa: T201


if __name__ == "__main__":
    main()
