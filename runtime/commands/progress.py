"""Progress of a job on stderr: steps done, rate and time left, as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from runtime.commands.console import errors, say
from runtime.commands.printable import printable

SECONDS_BETWEEN_LINES = 10.0
"""Minimum interval of progress lines if stderr is not a terminal."""


class JobProgress:
    """Display of a job's progress through one or more passes; ``step`` is the callback of jobs."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._begun: dict[str, tuple[float, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._printed = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        # ``say`` decides where lines go; Rich would send stdout to this console even if stdout is redirected.
        self._bar = Progress(*columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False)

    def __enter__(self) -> JobProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, what: str, done: int, steps: int, megapixels: float | None = None) -> None:
        """Show the number of steps done in a pass; see ``Step``."""
        now = time.monotonic()
        new = what not in self._begun
        begun, before = self._begun.setdefault(what, (now, done))
        # Steps of an earlier run do not count towards the speed of this one.
        per_second = (done - before) / max(now - begun, 1e-9)
        rate = _rate(per_second, steps, megapixels) if done > before else ""
        if not self._bar.disable:
            self._show(what, done, steps, rate)
        elif new or done == steps or now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            left = f", {rate}, {duration((steps - done) / per_second)} left" if rate and done < steps else ""
            line = printable(f"{what}: {done} of {steps}{left or (rate and f', {rate}')}")
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def _show(self, what: str, done: int, steps: int, rate: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(escape(printable(what)), total=steps, rate="")
        self._bar.update(self._tasks[what], completed=done, rate=rate)
        # Finished passes of many images would fill the screen.
        if done == steps and len(self._tasks) > 1 and self._tasks[what] != min(self._tasks.values()):
            self._bar.update(self._tasks[what], visible=False)

    def say(self, line: str) -> None:
        """Print a line to stdout, above the bar if both share a terminal."""
        if sys.stdout.isatty() and not self._bar.disable:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            say(line)


def _rate(per_second: float, steps: int, megapixels: float | None) -> str:
    return f"{per_second:.2f}/s" if megapixels is None else f"{per_second * megapixels / steps:.1f} Mpx/s"


def duration(seconds: float) -> str:
    """Format a duration as hours and minutes, minutes and seconds, or seconds."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.1f} s"
