"""Soak: the built-in model for a long time, on every backend of the CPU. Memory, results and failures stay as they are.

    python -m benchmarks.soak                                    # 10 000 images and more on each; about an hour
    python -m benchmarks.soak --images 300 --threads-images 300 --lifetimes 40 --streams 300 --settle 100 --every 10

Four phases: ``images``, one after another through one ``Segmenter``; ``threads``, 16 of them at once on one
``Segmenter``; ``lifetimes``, segmenters that are made, used once and closed or dropped; ``streams`` whose images,
source or engines fail. The images are made, of 64 to 256 pixels a side, grey or colour, of 8, 16 and 32 bits.

Each phase has a process of its own, whose memory is read after every so many images. The phase passes if memory grows
by no more than 1 % from the end of the settling time on, every result equals the first one of its image, and failures
are raised as they should be. What is finished stays in the folder of ``--work``: after an interruption, or with other
``--phases`` and ``--backends``, the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import in_separate_process, keep, kept, write_record
from benchmarks.resident import LIMIT
from benchmarks.soak_phases import IMAGES, PHASES, SIDES_PX, Size

BACKENDS = ("cpu", "openvino")


def sizes(options: argparse.Namespace) -> dict[str, Size]:
    """How long each phase is. Lifetimes are few: they are settled after a quarter, and read 40 times."""
    usual = {"every": options.every, "settled_at": options.settle, "threads": options.threads}
    return {
        "images": Size(count=options.images, **usual),
        "threads": Size(count=options.threads_images, **usual),
        "lifetimes": Size(
            count=options.lifetimes, every=max(1, options.lifetimes // 40), settled_at=options.lifetimes // 4
        ),
        "streams": Size(count=options.streams, **usual),
    }


def soak_all(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and record of every phase on every backend, from the folder where it is finished already."""
    for name, size in sizes(options).items():
        for backend in options.backends:
            path, asked = options.work / f"{name}_{backend}.json", asdict(size)
            found = kept(path, asked)
            if found is None and name in options.phases:
                found = keep(path, asked, in_separate_process(PHASES[name], backend, size))
            if found is not None:
                yield name, found


def describe(name: str, found: dict[str, Any]) -> str:
    """One line for a phase."""
    memory = found["memory"]
    amiss = f", {found['failures_amiss']} failures amiss" if found.get("failures_amiss") else ""
    return (
        f"{name} on {found['backend']}: {'passed' if found['passed'] else 'FAILED'}, {found['count']} in "
        f"{found['seconds']:.0f} s, {memory['resident_mib']['median']:.0f} MiB, growth {memory['growth']:.2%}, "
        f"{found['results_unlike_the_first']} results unlike the first{amiss}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--images", type=int, default=10_000, help="of the phase images")
    parser.add_argument("--threads-images", type=int, default=4_000, help="images of the phase threads")
    parser.add_argument("--threads", type=int, default=16, help="at once, in the phase threads")
    parser.add_argument("--lifetimes", type=int, default=200, help="segmenters of the phase lifetimes")
    parser.add_argument("--streams", type=int, default=4_000, help="images of the phase streams")
    parser.add_argument("--every", type=int, default=100, help="images between readings of memory")
    parser.add_argument("--settle", type=int, default=500, help="images until memory has to stay as it is")
    parser.add_argument("--work", type=Path, default=Path("soak"), help="folder for finished phases")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Soak, print and write the record. Exit code 1 if a phase failed."""
    options = parse(arguments)
    phases = []
    for name, found in soak_all(options):
        phases.append({"phase": name, **found})
        print(describe(name, found), flush=True)  # noqa: T201
    content = {
        "model": "built-in",
        "images": {"different": IMAGES, "sides_px": list(SIDES_PX), "made": "small, so that many take minutes"},
        "growth_limit": LIMIT,
        "passed": all(phase["passed"] for phase in phases),
        "phases": phases,
    }
    print(write_record(options.out, "soak", content))  # noqa: T201
    return 0 if content["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
