"""Host work of a call beside its engines: preparing images, model inputs, masks and stitching, step by step.

``python -m benchmarks.host_work --before TREE`` runs the steps of ``benchmarks.host_work_parts`` with the ``runtime``
of this source tree and of an earlier one, in two processes and in turn, and writes the record with the ratios. ``git
worktree add TREE COMMIT`` checks out an earlier tree. Ratios compare the lowest CPU time of each, because other
programs on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_record

ROOT = Path(__file__).parents[1]

Times = dict[str, dict[str, list[float]]]
"""CPU and wall times in ms of each step."""


class Tree:
    """The steps of one source tree, in a process of its own."""

    def __init__(self, root: Path) -> None:
        """Args: root: folder that holds ``runtime``."""
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "host_work_parts.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root.resolve())},
        )
        self.facts: dict[str, float] = self._answer()
        self.times: Times = {}

    def run(self, repeats: int) -> None:
        """Time every step some times more."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        for step, found in self._answer().items():
            known = self.times.setdefault(step, {clock: [] for clock in found})
            for clock, values in found.items():
                known[clock] += values

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a tree ended with exit code {self._process.wait()}.")
        return json.loads(line)


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the lowest and the median time of each clock, in ms."""
    return {
        f"{clock.removesuffix('_ms')}_{name}_ms": round(float(of(values)), 3)
        for clock, values in times.items()
        for name, of in (("min", np.min), ("p50", np.median))
    }


def compare(now: Tree, before: Tree | None) -> list[dict[str, Any]]:
    """Return a record for each step; ratios are times of this tree over those of the earlier one."""
    records: list[dict[str, Any]] = []
    for step, times in now.times.items():
        record: dict[str, Any] = {"step": step, "now": summary(times)}
        if before is not None:
            record["before"] = summary(before.times[step])
            pairs = np.array(times["cpu_ms"]) / np.array(before.times[step]["cpu_ms"])
            record["ratio_of_min_cpu"] = round(record["now"]["cpu_min_ms"] / record["before"]["cpu_min_ms"], 3)
            record["median_of_paired_cpu_ratios"] = round(float(np.median(pairs)), 3)
        records.append(record)
    return records


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="root of an earlier source tree")
    parser.add_argument("--rounds", type=int, default=8, help="times that the trees take turns")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each step per round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    now = Tree(ROOT)
    before = None if options.before is None else Tree(options.before)
    trees = [tree for tree in (before, now) if tree is not None]
    try:
        for turn in range(options.rounds):
            for tree in trees if turn % 2 else trees[::-1]:
                tree.run(options.repeats)
    finally:
        for tree in trees:
            tree.close()
    records = compare(now, before)
    for record in records:
        known = record.get("before", {}).get("cpu_min_ms", "")
        print(f"{record['step']:34} {known:>9} {record['now']['cpu_min_ms']:>9} ms")  # noqa: T201
    counts = {"rounds": options.rounds, "repeats": options.repeats}
    facts = {"now": now.facts} | ({} if before is None else {"before": before.facts})
    print(write_record(options.out, "host_work", counts | {"call": facts, "results": records}))  # noqa: T201


if __name__ == "__main__":
    main()
