"""``python -m tests.robustness --minutes 10``: try inputs of all classes and print the failures."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tests.robustness.search import FOUND, NAMES, Tally, search
from tests.robustness.worker import Worker


def main(
    minutes: Annotated[float, typer.Option(min=0.01, help="Total time for all classes.")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help="Class to try; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
) -> None:
    """Search for failing inputs and write them to ``found/``, which the tests replay; exit with 1 if there are any."""
    names = tuple(only or NAMES)
    if unknown := set(names) - set(NAMES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; expected some of {', '.join(NAMES)}")
    worker = Worker()
    tallies = []
    print("| class | inputs tried | failures | seconds |\n|---|---|---|---|", flush=True)
    for name in names:
        tallies.append(search(name, minutes * 60 / len(names), seed * 1_000_000, worker))
        print(_row(tallies[-1]), flush=True)
    worker.close()
    for tally in tallies:
        for problem in tally.problems.values():
            print(f"\n{tally.name}:\n{problem}", file=sys.stderr)
    if any(tally.problems for tally in tallies):
        print(f"\nThe inputs that failed are in {FOUND}.", file=sys.stderr)
        raise typer.Exit(1)


def _row(tally: Tally) -> str:
    return f"| {tally.name} | {tally.tried:,} | {len(tally.problems)} | {tally.seconds:.0f} |"


if __name__ == "__main__":
    typer.run(main)
