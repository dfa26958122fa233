"""Time left of work whose completed share is known."""

from __future__ import annotations

import time
from collections.abc import Callable


class TimeLeft:
    """Estimate from the pace of this process; steps that an earlier process completed do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: seconds."""
        self._clock, self._first = clock, (clock(), 0.0)
        self._last = 0.0

    def seconds(self, done: float) -> float | None:
        """Return the seconds left, or None at the beginning.

        Args:
            done: completed share, 0 to 1.
        """
        now, (start, before) = self._clock(), self._first
        if done - self._last > 0.02 and now - start < 5.0:  # a step of an earlier process was skipped
            self._first = (now, done)
        self._last = done
        start, before = self._first
        if done - before < 1e-3 or now <= start:
            return 0.0 if done >= 1.0 else None
        return (now - start) * (1.0 - done) / (done - before)
