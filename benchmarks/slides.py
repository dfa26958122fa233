"""Memory and speed of whole slides: growth of memory with the slide, and cost of tiles and stitching.

    python -m benchmarks.slides                              # 10 000 and 40 000 pixels a side, and the built-in model
    python -m benchmarks.slides --sides 500 1000 --tiles 4   # a quick test

Memory is measured on made slides with known cells, segmented by a double that takes no time, each in a separate
process. Speed is measured with the built-in model (or ``--model``) on a made slide, against ``Segmenter`` on single
tiles of the same size.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_slide import MadeSlide, PerfectEngines
from benchmarks.measure import in_separate_process, known_peak_mib, write_record
from runtime import Segmenter
from runtime.commands.settings import engine_directory
from runtime.jobs.slides import ArrayReader, EngineSpec, SlideSettings, segment_slide

TILE_PX = 512
OVERLAP_PX = 90
MEGAPIXELS_PER_MM2 = 4.0
"""Megapixels per square millimetre at 0.5 micrometres per pixel, as in a slide scanned at 20x."""

CUT = SlideSettings(tile_px=TILE_PX, overlap_px=OVERLAP_PX)


def memory_of(side: int, pitch_px: int) -> dict[str, Any]:
    """Segment a made slide with the double, and measure the peak memory of the process."""
    slide = MadeSlide((side, side), pitch_px=pitch_px)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        done = segment_slide(slide, out, engines=PerfectEngines(), settings=CUT)
        seconds = time.perf_counter() - start
        label_bytes = done.labels.stat().st_size
    return {
        "side_px": side,
        "tiles": done.tiles,
        "cells": done.cells,
        "seconds": round(seconds, 2),
        "megapixels_per_second": round(side * side / seconds / 1e6, 2),
        "label_mib": round(label_bytes / (1 << 20), 1),
        "peak_mib": round(known_peak_mib(), 1),
    }


def speed(engine: Path | None, tiles: int) -> dict[str, Any]:
    """Measure the speed of a slide of ``tiles`` x ``tiles`` tiles, and of ``Segmenter`` on its tiles one by one."""
    step = TILE_PX - OVERLAP_PX
    side = TILE_PX + step * (tiles - 1)
    rng = np.random.default_rng(0)
    cells = MadeSlide((side, side), pitch_px=48).truth(0, 0, side, side) > 0
    image = (40 + 120 * cells + rng.normal(0, 8, cells.shape)).clip(0, 255).astype(np.uint8)
    segmenter = Segmenter(engine)
    # Each tile is one view, as on the slide; single tiles should not pay for measuring their scale.
    config = replace(segmenter.config, view_diameter_px=None)
    corners = [(y, x) for y in range(0, step * tiles, step) for x in range(0, step * tiles, step)]
    parts = [image[y : y + TILE_PX, x : x + TILE_PX] for y, x in corners]
    segmenter(parts[0], config=config)  # warm
    start = time.perf_counter()
    for part in parts:
        segmenter(part, config=config)
    alone = time.perf_counter() - start
    engines = EngineSpec(engine_dir=engine)
    with tempfile.TemporaryDirectory() as out:
        # Engines are loaded once per process, for the slide as for single tiles.
        segment_slide(ArrayReader(parts[0], "warm"), out, engines=engines, settings=CUT)
        start = time.perf_counter()
        done = segment_slide(ArrayReader(image, "speed"), out, engines=engines, settings=CUT)
        whole = time.perf_counter() - start
    assert done.tiles == len(parts), "both see the same tiles"
    # Counted per pixel of a tile, so that overlaps count equally for both.
    shown = len(parts) * TILE_PX**2 / 1e6
    return {
        "side_px": side,
        "tiles": len(parts),
        "cells": done.cells,
        "single_tiles_megapixels_per_second": round(shown / alone, 3),
        "slide_megapixels_per_second": round(shown / whole, 3),
        "share": round(alone / whole, 3),
        # Counted per pixel of the slide, so this includes the cost of overlaps.
        "seconds_per_mm2": round(whole / (side * side / 1e6) * MEGAPIXELS_PER_MM2, 2),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 40_000], help="sides of the slides, pixels")
    parser.add_argument("--pitch", type=int, default=40, help="distance of the cells, pixels")
    parser.add_argument(
        "--model",
        dest="engine",
        type=engine_directory,
        metavar="nano|DIR",
        help="model whose speed is measured; default: nano",
    )
    parser.add_argument(
        "--tiles", type=int, default=6, help="tiles along each side of the slide whose speed is measured"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of the speed measurement; the median counts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    runs = [in_separate_process(speed, options.engine, options.tiles) for _ in range(options.runs)]
    memory = [in_separate_process(memory_of, side, options.pitch) for side in options.sides]
    content = {
        "tile_px": TILE_PX,
        "overlap_px": OVERLAP_PX,
        "memory": memory,
        "peak_growth": round(memory[-1]["peak_mib"] / memory[0]["peak_mib"], 3),
        "speed_runs": runs,
        "share_of_single_tiles": statistics.median(run["share"] for run in runs),
        "pixel_um": 0.5,
        "seconds_per_mm2": statistics.median(run["seconds_per_mm2"] for run in runs),
    }
    print(write_record(options.out, "slides", content))  # noqa: T201


if __name__ == "__main__":
    main()
