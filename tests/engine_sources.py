"""Engine files as backends take them, and directories that a test changed on purpose."""

from __future__ import annotations

from pathlib import Path

from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import sha256_file
from runtime.engines.sums import SUMS_NAME, read_sums, sums_content


def source_of(path: Path) -> EngineSource:
    """A file, taken to be as its manifest would have it."""
    return EngineSource(path, sha256_file(path))


def renew_sums(directory: Path) -> None:
    """Write ``SHA256SUMS`` for the files as they are now, as somebody would who may write to the directory."""
    names = read_sums(directory)
    assert names is not None
    (directory / SUMS_NAME).write_bytes(sums_content({name: sha256_file(directory / name) for name in names}))
