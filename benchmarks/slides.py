"""Memory and speed of whole slides: does memory grow with the slide, and what do tiles and stitching cost.

    python -m benchmarks.slides                              # 10 000 and 40 000 pixels a side, and the built-in model
    python -m benchmarks.slides --sides 500 1000 --tiles 4   # a try

Memory: made slides with known cells, segmented by a double that takes no time, each in a process of its own. Speed:
the built-in model (or ``--model``) on a made slide, against ``Segmenter`` on single tiles of the same size.
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
from benchmarks.measure import in_process_of_its_own, write_record
from runtime import Segmenter
from runtime.commands.settings import engine_directory
from runtime.jobs.memory import peak_mib
from runtime.jobs.slides import ArrayReader, EngineSpec, SlideSettings, segment_slide

TILE_PX = 512
OVERLAP_PX = 90
MEGAPIXELS_PER_MM2 = 4.0
"""At 0.5 micrometres a pixel, which is what a slide scanned at 20x has."""

CUT = SlideSettings(tile_px=TILE_PX, overlap_px=OVERLAP_PX)


def memory_of(side: int, pitch_px: int) -> dict[str, Any]:
    """Segment a made slide with the double; peak memory of the process."""
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
        "peak_mib": round(_peak_mib(), 1),
    }


def speed(engine: Path | None, tiles: int) -> dict[str, Any]:
    """Megapixels a second of a slide of ``tiles`` x ``tiles`` tiles, and of ``Segmenter`` on its tiles one by one."""
    step = TILE_PX - OVERLAP_PX
    side = TILE_PX + step * (tiles - 1)
    rng = np.random.default_rng(0)
    cells = MadeSlide((side, side), pitch_px=48).truth(0, 0, side, side) > 0
    image = (40 + 120 * cells + rng.normal(0, 8, cells.shape)).clip(0, 255).astype(np.uint8)
    segmenter = Segmenter(engine)
    # Each tile in one view, as the slide shows it: what measuring its scale would take is no cost of single tiles.
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
        # Engines are loaded once a process; those of the single tiles are, too.
        segment_slide(ArrayReader(parts[0], "warm"), out, engines=engines, settings=CUT)
        start = time.perf_counter()
        done = segment_slide(ArrayReader(image, "speed"), out, engines=engines, settings=CUT)
        whole = time.perf_counter() - start
    assert done.tiles == len(parts), "both see the same tiles"
    # Per pixel of a tile, so that overlaps count for both alike.
    shown = len(parts) * TILE_PX**2 / 1e6
    return {
        "side_px": side,
        "tiles": len(parts),
        "cells": done.cells,
        "single_tiles_megapixels_per_second": round(shown / alone, 3),
        "slide_megapixels_per_second": round(shown / whole, 3),
        "share": round(alone / whole, 3),
        # Of the slide's own pixels: what overlaps cost is in it.
        "seconds_per_mm2": round(whole / (side * side / 1e6) * MEGAPIXELS_PER_MM2, 2),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 40_000], help="sides of the slides, pixels")
    parser.add_argument("--pitch", type=int, default=40, help="distance of the cells, pixels")
    parser.add_argument(
        "--model", dest="engine", type=engine_directory, metavar="nano|DIR", help="model for the speed; default: nano"
    )
    parser.add_argument("--tiles", type=int, default=6, help="tiles along each side of the slide whose speed is taken")
    parser.add_argument("--runs", type=int, default=3, help="runs of the speed; the median counts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    runs = [in_process_of_its_own(speed, options.engine, options.tiles) for _ in range(options.runs)]
    memory = [in_process_of_its_own(memory_of, side, options.pitch) for side in options.sides]
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


def _peak_mib() -> float:
    peak = peak_mib()
    if peak is None:
        raise RuntimeError("this system does not report peak memory; run the benchmark on Linux or macOS.")
    return peak


if __name__ == "__main__":
    main()
