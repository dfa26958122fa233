"""The command ``cellsam-engine``. Results go to stdout, everything else to stderr.

Exit codes:

- 0: done.
- 1: something failed: an image, a missing file or directory, or engines or a backend that cannot be used.
- 2: wrong usage: an unknown option or value, or a setting outside its range.
- 130: interrupted, 143: terminated (``runtime.commands.main``).

Other packages add commands (``runtime.commands.plugins``).
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail, log_to_console, say
from runtime.commands.plugins import Commands, missing_packages_named
from runtime.engines.builtin import sample_images

app = typer.Typer(
    cls=Commands,
    help="Segment every cell of microscope images with exported CellSAM engines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(version("cellsam-engine"))
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each choice and its reason.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    log_to_console(verbose=verbose)


@app.command()
def samples(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Copy them into this folder.", metavar="DIR")] = None,
) -> None:
    """List the sample images of this package, or copy them."""
    for path in sample_images():
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
                path = Path(shutil.copy(path, out))
            except OSError as error:
                fail(error)
        say(path)


def run() -> None:
    """Run the command given by the arguments of the process; ``runtime.commands.main`` calls this function."""
    with missing_packages_named():
        app()
