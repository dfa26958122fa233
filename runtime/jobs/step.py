"""Progress of a job as a callback."""

from __future__ import annotations

from collections.abc import Callable

Step = Callable[[str, int, int], None]
"""Called with the name of the current pass, the number of steps done, and the number of steps in all."""
