"""Marks and hashes by which a file is recognised later; a directory, such as an OME-Zarr image, counts as one file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def file_mark(path: Path) -> dict[str, int] | None:
    """Return size and modification time of a file, or of the files in a directory; None if neither exists."""
    if not path.exists():
        return None
    stats = [file.stat() for file in _files(path)]
    return {"bytes": sum(s.st_size for s in stats), "mtime_ns": max((s.st_mtime_ns for s in stats), default=0)}


def content_sha256(path: Path) -> str:
    """Compute the hex sha256 of a file; for a directory, of the names and contents of its files.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return _sha256(path)
    names = sorted((file.relative_to(path).as_posix(), file) for file in _files(path))
    listing = "".join(f"{_sha256(file)}  {name}\n" for name, file in names)
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
