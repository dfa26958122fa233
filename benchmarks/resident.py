"""Readings of a process's memory over a long run, and a test for growth."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from runtime.engines.backends.freed import resident_bytes

LIMIT = 0.01
"""Maximum growth after a run has settled, as a share of the median memory."""

_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(slots=True)
class Readings:
    """Resident memory, open files and threads of this process, by completed pieces of work (Linux)."""

    done: list[int] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def read(self, done: int) -> None:
        """Take a reading after ``done`` pieces of work."""
        self.done.append(done)
        self.resident_mib.append(round(resident_bytes() / (1 << 20), 2))
        self.descriptors.append(len(list(_DESCRIPTORS.iterdir())))
        self.threads.append(threading.active_count())

    def summary(self, settled_at: int) -> dict[str, Any]:
        """Summarise the readings and state whether memory, open files and threads were steady once the run had settled.

        Memory varies by a few percent between readings. A Theil-Sen line (median of the slopes between all pairs) is
        therefore fitted, because it is robust to outliers and to a step soon after the start. ``growth`` is the rise of
        this line from the first to the last settled reading, as a share of the median.

        Args:
            settled_at: pieces of work until the run has settled; earlier readings are ignored.

        Raises:
            ValueError: there are fewer than 3 settled readings.
        """
        settled = np.asarray(self.done) >= settled_at
        done, memory = np.asarray(self.done)[settled], np.asarray(self.resident_mib)[settled]
        if len(done) < 3:
            raise ValueError(f"{len(done)} readings after {settled_at} pieces of work; expected at least 3.")
        slope = float(stats.theilslopes(memory, done).slope)
        growth = slope * float(done[-1] - done[0]) / float(np.median(memory))
        kept = {
            name: (int(np.asarray(values)[settled][0]), values[-1])
            for name, values in (("descriptors", self.descriptors), ("threads", self.threads))
        }
        return {
            "settled_at": settled_at,
            "readings": len(done),
            "resident_mib": {"median": round(float(np.median(memory)), 1), "last": memory[-1], "most": memory.max()},
            "growth": round(growth, 5),
            "mib_per_1000": round(1000 * slope, 3),
            **{name: {"settled": first, "end": last} for name, (first, last) in kept.items()},
            "steady": growth <= LIMIT and all(last <= first for first, last in kept.values()),
            "series": {"done": self.done, "resident_mib": self.resident_mib},
        }
