"""Overall progress of work in several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Progress = Callable[[str, float], None]
"""Called with the name of the current step and the completed share of all work, 0 to 1."""


class OverallProgress:
    """Overall progress, computed from that of the steps; it never decreases, even if a step restarts internally."""

    def __init__(self, progress: Progress, work: Mapping[str, float]) -> None:
        """Args: progress: called at each advance. work: work of each step, in any unit, in their order."""
        self._progress, self._work, self._done = progress, dict(work), 0.0

    def of(self, name: str) -> Callable[[float], None]:
        """Return a function that takes the completed share of a step."""
        names = list(self._work)
        before = sum(self._work[one] for one in names[: names.index(name)])
        total = sum(self._work.values())

        def advance(done: float) -> None:
            self._done = max(self._done, (before + min(done, 1.0) * self._work[name]) / total)
            self._progress(name, self._done)

        return advance
