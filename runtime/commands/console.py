"""Messages to the user: results on stdout; errors, warnings and progress on stderr."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import typer
from rich.console import Console

from runtime.commands.flags import FlagFormatter, in_flags
from runtime.commands.options import FLAGS
from runtime.commands.printable import printable
from runtime.errors import SegmenterError, reason_of
from runtime.jobs.step import IMAGES_AT_WORK


def say(text: object) -> None:
    """Print a line to stdout."""
    typer.echo(printable(str(text)))


class _SafeConsole(Console):
    """A console that escapes control characters in what it prints."""

    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **settings)


errors = _SafeConsole(stderr=True, soft_wrap=True, highlight=False)

NAMED_IMAGES = 3
"""Images of one engine call that a warning names; it counts the others."""


def fail(error: Exception, code: int = 1, flags: Mapping[str, str] = FLAGS) -> NoReturn:
    """Print an error, with flags in place of setting names, and exit with this code."""
    field = error.field if isinstance(error, SegmenterError) else None
    errors.print(f"error: {in_flags(reason_of(error), flags, field)}", style="bold red", markup=False)
    raise typer.Exit(code)


class ConsoleHandler(logging.Handler):
    """Handler that prints log records and their files to stderr, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        from runtime.pipeline.remarks import IMAGE_OF_CALL  # takes long to import

        try:
            errors.print(
                f"{record.levelname.lower()}: {with_file(self.format(record), getattr(record, IMAGE_OF_CALL, None))}",
                markup=False,
            )
        except Exception:  # a record that cannot be printed must not stop the work
            self.handleError(record)


def with_file(message: str, place: int | None = None) -> str:
    """Put the images that this thread is working on before a message, unless the message names one.

    Args:
        message: a log message.
        place: index, within the call, of the image that the message is about; None if unknown.
    """
    names = [str(path) for path in IMAGES_AT_WORK.get()]
    names = names if place is None else names[place : place + 1]
    if not names or any(name in message for name in names):
        return message
    shown, more = names[:NAMED_IMAGES], len(names) - NAMED_IMAGES
    several = "one of " if len(names) > 1 else ""
    return f"{several}{', '.join(shown)}{f' and {more} more' if more > 0 else ''}: {message}"


def log_to_console(*, verbose: bool) -> None:
    """Show log messages and Python warnings on the console."""
    handler = ConsoleHandler()
    handler.setFormatter(FlagFormatter("%(name)s: %(message)s" if verbose else "%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    # tifffile logs details of damaged files. Our own message suffices unless the user asks for more.
    logging.getLogger("tifffile").setLevel(logging.NOTSET if verbose else logging.CRITICAL)
