"""Record of the engine that made a label image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runtime.config import SegmentConfig
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.engines.sums import sums_sha256
from runtime.extras import NAME
from runtime.provenance import Provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """Engine directory and settings behind a segmentation."""

    sha256: str = ""
    """Hex sha256 of ``SHA256SUMS``, or of the manifest if the directory has no list; empty if unknown."""
    name: str = ""
    """Name of the engine directory, or of another program."""
    version: str = ""
    """Version of the program that ran the engines."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Thresholds and options, ready for JSON."""
    made_by: Provenance | None = None
    """The program that ran the engines; None if unknown."""

    @classmethod
    def of(
        cls,
        engine_dir: Path | None = None,
        config: SegmentConfig | None = None,
        *,
        made_by: Provenance | None = None,
    ) -> EngineRecord:
        """Describe an engine directory.

        Args:
            engine_dir: the directory; None means the built-in model.
            config: the thresholds; None means those of the manifest.
            made_by: what ran the engines.

        Raises:
            EngineError: the directory or its manifest is unusable.
        """
        directory = builtin_engine() if engine_dir is None else Path(engine_dir)
        manifest = read_manifest(directory)
        digest = sums_sha256(directory) or hashlib.sha256((directory / MANIFEST_NAME).read_bytes()).hexdigest()
        settings = asdict(config or manifest.config)
        name = directory.resolve().name
        return cls(sha256=digest, name=name, version=version(NAME), settings=settings, made_by=made_by)
