"""Entries of zip files from unknown sources."""

from __future__ import annotations

import zipfile
from pathlib import Path

from runtime.errors import InputError


def read_entry(file: zipfile.ZipFile, name: str, max_bytes: int, path: Path) -> bytes:
    """Read an entry of a zip file, of a limited size.

    Args:
        file: the zip file.
        name: name of the entry.
        max_bytes: largest size of its content.
        path: path of the zip file, for errors.

    Raises:
        InputError: there is no such entry, or it is too large.
    """
    try:
        entry = file.getinfo(name)
    except KeyError as error:
        raise InputError(
            f"{path} has no entry {name}; expected one. Export the file again.", kind="not_found"
        ) from error
    if entry.file_size > max_bytes:
        raise InputError(
            f"{path}: entry {name} has {entry.file_size:,} bytes; expected at most {max_bytes:,}. Check the file.",
            kind="too_large",
        )
    with file.open(entry) as content:
        return content.read(max_bytes)
