"""Speed of synthetic images: images of 512 x 512 pixels per second, and the time of each group.

Processes make images of all groups in turn, as the workers of a training loader do. The time of a group is the CPU time
of one process, which other work on the machine affects less than wall time. ``images_per_second_of_free_cores`` is the
rate of as many idle cores as there are workers, computed from the mean CPU time. ``load_1min`` is the load of the
machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import write_record
from training.data.synthetic import SYNTHETIC_GROUPS, make_image

SIDE_PX = 512
WARM_UP_SEEDS = 2


def cpu_ms(group: str, images: int) -> float:
    """Return the mean CPU time of an image of a group, without compiling and loading, ms."""
    for seed in range(WARM_UP_SEEDS):
        make_image(group, images + seed, (SIDE_PX, SIDE_PX))
    start = time.process_time()
    for seed in range(images):
        make_image(group, seed, (SIDE_PX, SIDE_PX))
    return 1000 * (time.process_time() - start) / images


def images_per_second(images: int, workers: int) -> float:
    """Return images per second of wall time over all groups in turn, after a warm-up of each worker."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        # There are as many tasks as workers, and each is long enough that every worker takes one.
        list(pool.map(_warm_up, range(workers)))
        start = time.perf_counter()
        list(pool.map(_one, range(images)))
        return images / (time.perf_counter() - start)


def _warm_up(seed: int) -> None:
    for group in SYNTHETIC_GROUPS:
        make_image(group, seed, (SIDE_PX, SIDE_PX))


def _one(number: int) -> None:
    names = tuple(SYNTHETIC_GROUPS)
    make_image(names[number % len(names)], number // len(names), (SIDE_PX, SIDE_PX))


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="images per group")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    speed = images_per_second(options.images * len(SYNTHETIC_GROUPS), options.workers)
    groups = {group: round(cpu_ms(group, options.images), 1) for group in SYNTHETIC_GROUPS}
    mean = sum(groups.values()) / len(groups)
    content: dict[str, Any] = {
        "side_px": SIDE_PX,
        "images_per_group": options.images,
        "workers": options.workers,
        "images_per_second": round(speed, 1),
        "cpu_ms_mean": round(mean, 1),
        "images_per_second_of_free_cores": round(1000 * options.workers / mean, 1),
        "cpu_ms": groups,
        "load_1min": round(os.getloadavg()[0], 1),
    }
    print(write_record(options.out, "synthetic", content))  # noqa: T201


if __name__ == "__main__":
    main()
