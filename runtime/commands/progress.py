"""How far a job is: steps done, rate and time left on stderr; a bar on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import typer
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

from runtime.commands.console import errors

SECONDS_BETWEEN_LINES = 10.0
"""Where stderr is no terminal, progress comes as lines, this far apart."""


class JobProgress:
    """Progress of a job in one or more passes."""

    def __init__(self, rate: Callable[[float, int], str]) -> None:
        """Show nothing yet.

        Args:
            rate: the speed in words, from steps a second and the steps there are.
        """
        self._rate = rate
        self._begun: dict[str, tuple[float, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._said = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        # ``say`` decides where lines go; Rich would take stdout to this console even where it is redirected.
        self._bar = Progress(*columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False)

    def __enter__(self) -> JobProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, what: str, done: int, steps: int) -> None:
        """Show that this many steps of a pass are done."""
        now = time.monotonic()
        new = what not in self._begun
        begun, before = self._begun.setdefault(what, (now, done))
        # What an earlier run did says nothing about this one's speed.
        per_second = (done - before) / max(now - begun, 1e-9)
        rate = self._rate(per_second, steps) if done > before else ""
        if not self._bar.disable:
            if new:
                self._tasks[what] = self._bar.add_task(escape(what), total=steps, rate="")
            self._bar.update(self._tasks[what], completed=done, rate=rate)
        elif new or done == steps or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            left = f", {rate}, {duration((steps - done) / per_second)} left" if rate else ""
            print(f"{what}: {done} of {steps}{left}", file=sys.stderr, flush=True)  # noqa: T201

    def say(self, line: str) -> None:
        """Print to stdout; where it and the bar share a terminal, above the bar."""
        if sys.stdout.isatty() and not self._bar.disable:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(line)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"
