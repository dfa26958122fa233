"""Where commands talk to the user: errors, progress and remarks on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import typer
from rich.console import Console

from runtime.commands.flags import FLAGS, in_flags
from runtime.errors import reason_of

errors = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(error: Exception, code: int = 1, flags: Mapping[str, str] = FLAGS) -> NoReturn:
    """Print an error, with flags in place of settings' names, and leave with this exit code."""
    errors.print(f"error: {in_flags(reason_of(error), flags)}", style="bold red", markup=False)
    raise typer.Exit(code)
