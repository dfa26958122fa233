"""Engine files in the form that backends expect, and directories that a test changed on purpose."""

from __future__ import annotations

from pathlib import Path

from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import sha256_file
from runtime.engines.sums import SUMS_NAME, read_sums, sums_content


def source_of(path: Path) -> EngineSource:
    """Return the source of a file as if its manifest matched it."""
    return EngineSource(path, sha256_file(path))


def renew_sums(directory: Path) -> None:
    """Rewrite ``SHA256SUMS`` for the current files, as anyone with write access could."""
    names = read_sums(directory)
    assert names is not None
    (directory / SUMS_NAME).write_bytes(sums_content({name: sha256_file(directory / name) for name in names}))
