"""Lines of progress that ``cellsam-engine improve PROJECT --progress-json`` prints, and its errors. Needs no Qt."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.extras import install_command


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is."""

    step: str
    done: int
    of: int
    seconds_left: float | None = None

    def __str__(self) -> str:
        """Describe the progress, such as ``train: 3 of 10, about 2 min left``."""
        left = "" if self.seconds_left is None else f", about {_duration(self.seconds_left)} left"
        return f"{self.step}: {self.done} of {self.of}{left}"


def improve_command(project: Path) -> list[str]:
    """Return the program and arguments that improve a model with a project."""
    return [sys.executable, "-m", "runtime", "improve", str(project), "--progress-json"]


def parse_progress(line: str) -> Progress | None:
    """Parse a line of output; None if it is not one of progress."""
    try:
        content = json.loads(line)
        left = content.get("seconds_left")
        return Progress(
            str(content["step"]), int(content["done"]), int(content["of"]), None if left is None else float(left)
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def describe_failure(errors: str, code: int) -> str:
    """Describe why the command failed, from what it printed on standard error."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if any("No such command" in line for line in lines):
        return (
            "this installation has no command 'improve'; expected cellsam-engine with the extra 'training'. Install "
            f"it: {install_command('training')}."
        )
    found = [line for line in lines if line.startswith("error:")]
    if found:
        return found[-1].removeprefix("error:").strip()
    return f"'improve' ended with exit code {code}: {lines[-1] if lines else 'no message'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
