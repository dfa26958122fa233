"""Time of a mask decoder that sees only a window around each box, compared with one that sees the whole image.

    python -m benchmarks.windowed --whole nano_whole --windowed nano_windowed --image cells.png

Both directories have the same weights, exported without and with ``ModelConfig.windowed_decoder``, and decode the boxes
that the first directory finds. They are timed in turn.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import StepTimes, Variant, measure_in_turn, write_record
from runtime.engines.backends.base import BackendOptions
from runtime.files.plain import read_image
from runtime.segmenter import Segmenter
from training.evaluation.matching import find_overlaps

IOU = 0.9
"""IoU above which cells of two maps count as the same."""


def timed_call(engines: Path, boxes_from: Path, image: NDArray[np.generic], backend: str, threads: int) -> Variant:
    """Return a variant that encodes, detects and decodes an image, with the boxes of the first directory."""
    options = BackendOptions(threads=threads)
    segmenter = Segmenter(engines, backend=backend, options=options)
    other = segmenter if engines == boxes_from else Segmenter(boxes_from, backend=backend, options=options)
    found = other.detect(other.encode(image))

    def run() -> tuple[StepTimes, NDArray[np.int32]]:
        start = time.perf_counter()
        views = segmenter.encode(image)
        encoded = time.perf_counter()
        segmenter.detect(views)
        detected = time.perf_counter()
        labels = segmenter.decode(views, found).labels
        end = time.perf_counter()
        return {"encode": encoded - start, "detect": detected - encoded, "decode": end - detected}, labels

    return run


def agreement(whole: NDArray[np.int32], windowed: NDArray[np.int32]) -> dict[str, float]:
    """Return the share of the cells of one map that the other also has, and their mean IoU."""
    overlaps = find_overlaps(whole, windowed)
    best = np.zeros(len(overlaps.truth_ids))
    np.maximum.at(best, overlaps.truth_index, overlaps.iou)
    same = best > IOU
    return {
        "cells": len(best),
        "same_cells": round(float(same.mean()), 4),
        "mean_iou": round(float(best[same].mean()), 4),
    }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", type=Path, required=True, help="engine directory whose decoder sees all tokens")
    parser.add_argument("--windowed", type=Path, required=True, help="engine directory of the same weights")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--backend", nargs="+", default=["cpu", "openvino"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    image = read_image(options.image)
    backends = {}
    for backend in options.backend:
        variants = {
            name: partial(timed_call, directory, options.whole, image, backend, options.threads)
            for name, directory in (("whole", options.whole), ("windowed", options.windowed))
        }
        measured = measure_in_turn(variants, warmup=options.warmup, runs=options.runs)
        cells = agreement(measured["whole"].labels, measured["windowed"].labels)
        summaries = {name: one.summary() for name, one in measured.items()}
        decode = {name: one["steps_ms"]["decode"]["p50"] for name, one in summaries.items()}
        backends[backend] = {
            **summaries,
            "agreement": cells,
            "decode_ms_per_cell": {name: round(ms / cells["cells"], 3) for name, ms in decode.items()},
            "decode_speedup": round(decode["whole"] / decode["windowed"], 2),
        }
        print(backend, backends[backend]["decode_ms_per_cell"], backends[backend]["decode_speedup"], cells)  # noqa: T201
    content = {"image": options.image.name, "size_hw": list(image.shape[:2]), "threads": options.threads}
    print(write_record(options.out, "windowed", content | {"backends": backends}))  # noqa: T201


if __name__ == "__main__":
    main()
