"""Write files and directories so that they appear whole, and never lose what they replace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from runtime.errors import SegmenterError

PARTIAL = ".partial"
"""Suffix of files that are being written; one that is left over belongs to a killed process."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or directory under a temporary name and rename it, so that it appears whole or not at all.

    Args:
        path: the file or directory; an existing one is replaced.
        write: writes to the path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(temporary)
        move_into_place(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def move_into_place(new: Path, path: Path) -> None:
    """Rename a file or directory; one of the same kind at ``path`` is replaced.

    A directory cannot be replaced in one step: the old one steps aside, is removed once the new one has its name, and
    comes back if the new one cannot be renamed, or if the user interrupts the process.

    Args:
        new: on the same file system as ``path``.
        path: the final name.

    Raises:
        SegmenterError: the old directory could not be put back; the message says where it is.
        OSError: ``new`` could not be renamed; ``path`` is as it was.
    """
    if not (new.is_dir() and path.is_dir()):
        new.replace(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old{PARTIAL}")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException as error:  # Ctrl-C too
        try:
            old.rename(path)
        except OSError as second:
            raise SegmenterError(
                f"{path} could not be replaced ({second}); its earlier content is kept in {old}. Rename it to put it "
                "back."
            ) from error
        raise
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)
