"""Where commands talk to the user: errors, progress and remarks on stderr."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

from runtime.errors import reason_of

errors = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(error: Exception, code: int = 1) -> NoReturn:
    """Print an error and leave with this exit code."""
    errors.print(f"error: {reason_of(error)}", style="bold red", markup=False)
    raise typer.Exit(code)
