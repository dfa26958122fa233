"""Where commands talk to the user: errors, progress and remarks on stderr."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

errors = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(error: Exception, code: int = 1) -> NoReturn:
    """Print an error and leave with this exit code."""
    errors.print(f"error: {error}", style="bold red", markup=False)
    raise typer.Exit(code)
