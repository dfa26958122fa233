"""Engine files as backends take them, for tests that load one without its directory."""

from __future__ import annotations

from pathlib import Path

from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import sha256_file


def source_of(path: Path) -> EngineSource:
    """A file, taken to be as its manifest would have it."""
    return EngineSource(path, sha256_file(path))
