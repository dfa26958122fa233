"""The command ``cellpose-shim``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail, say
from runtime.commands.options import NO_VALUE
from runtime.errors import SegmenterError


def cellpose_shim_command(
    environment: Annotated[Path, typer.Argument(help="A virtual environment without Cellpose.", metavar="VENV")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove it again.", metavar=NO_VALUE)] = False,
) -> None:
    """Let programs that call Cellpose call these engines.

    Adds a package and a command 'cellpose' to an environment that has this
    package but not Cellpose. QuPath, TrackMate and scripts then run it.
    """
    from runtime.cellpose.shim import add_shim, find_environment, remove_shim

    try:
        found = find_environment(environment)
        changed = remove_shim(found) if remove else add_shim(found)
    except (SegmenterError, OSError) as error:
        fail(error)
    for path in changed:
        say(path)
