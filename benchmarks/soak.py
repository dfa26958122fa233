"""Soak test: run the built-in model for a long time on each CPU backend, and check memory, results and errors.

    python -m benchmarks.soak                                    # 10 000 images and more on each; about an hour
    python -m benchmarks.soak --images 300 --threads-images 300 --lifetimes 40 --streams 300 --settle 100 --every 10

There are four phases:

- ``images``: one image after another through one ``Segmenter``;
- ``threads``: 16 threads at once on one ``Segmenter``;
- ``lifetimes``: segmenters that are created, used once, and closed or dropped;
- ``streams``: streams whose images, source or engines fail.

The images are synthetic: 64 to 256 pixels a side, grey or colour, with 8, 16 or 32 bits.

Each phase runs in a separate process and reads its memory at regular intervals. A phase passes if memory grows by no
more than 1 % after the settling time, every result equals the first result of its image, and failures raise the
expected errors. Finished phases stay in the ``--work`` folder, so that an interrupted run resumes, also with other
``--phases`` and ``--backends``.
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
    """Return the size of each phase. Lifetimes are few: they settle after a quarter and take 40 readings."""
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
    """Yield the name and record of every phase on every backend; read finished phases from the ``--work`` folder."""
    for name, size in sizes(options).items():
        for backend in options.backends:
            path, asked = options.work / f"{name}_{backend}.json", asdict(size)
            found = kept(path, asked)
            if found is None and name in options.phases:
                found = keep(path, asked, in_separate_process(PHASES[name], backend, size))
            if found is not None:
                yield name, found


def describe(name: str, found: dict[str, Any]) -> str:
    """Summarise a phase in one line."""
    memory = found["memory"]
    amiss = f", {found['failures_amiss']} unexpected failures" if found.get("failures_amiss") else ""
    return (
        f"{name} on {found['backend']}: {'passed' if found['passed'] else 'FAILED'}, {found['count']} in "
        f"{found['seconds']:.0f} s, {memory['resident_mib']['median']:.0f} MiB, growth {memory['growth']:.2%}, "
        f"{found['results_unlike_the_first']} results differ from the first{amiss}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--images", type=int, default=10_000, help="images of the phase images")
    parser.add_argument("--threads-images", type=int, default=4_000, help="images of the phase threads")
    parser.add_argument("--threads", type=int, default=16, help="threads of the phase threads")
    parser.add_argument("--lifetimes", type=int, default=200, help="segmenters of the phase lifetimes")
    parser.add_argument("--streams", type=int, default=4_000, help="images of the phase streams")
    parser.add_argument("--every", type=int, default=100, help="images between readings of memory")
    parser.add_argument("--settle", type=int, default=500, help="images until memory must be constant")
    parser.add_argument("--work", type=Path, default=Path("soak"), help="folder for finished phases")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run all phases, print a summary and write the record; return exit code 1 if a phase failed."""
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
