"""How fast made training images come: images of 512 x 512 pixels a second, and the time of each group.

Processes make images of all groups in turn, as the workers of a training loader do. The time of a group is CPU time of
one process, which other work on the machine changes less than time by the clock; ``images_per_second_of_free_cores`` is
what its mean makes of as many cores as there are workers, ``load_1min`` how busy the machine was.
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
    """Mean CPU time of an image of a group, without what is compiled or loaded once."""
    for seed in range(WARM_UP_SEEDS):
        make_image(group, images + seed, (SIDE_PX, SIDE_PX))
    start = time.process_time()
    for seed in range(images):
        make_image(group, seed, (SIDE_PX, SIDE_PX))
    return 1000 * (time.process_time() - start) / images


def images_per_second(images: int, workers: int) -> float:
    """Images a second by the clock over all groups in turn, each worker warmed up before."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        # As many tasks as workers, each long enough that every worker takes one.
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
    parser.add_argument("--images", type=int, default=8, help="images of each group")
    parser.add_argument("--workers", type=int, default=2, help="processes")
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
