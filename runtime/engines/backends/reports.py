"""Provenance of results, from the reports of loaded engines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from runtime.engines.backends.base import Engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.engines.sums import sums_sha256
from runtime.provenance import EngineReport, EngineRun, Provenance


def describe_engines(
    engines: Mapping[EngineName, Engine], manifest: Manifest, directory: Path, backend: str
) -> Provenance | None:
    """Describe loaded engines for the results that they will make.

    Args:
        engines: the loaded engines, by name.
        manifest: the manifest of their directory.
        directory: the engine directory.
        backend: name of the backend that loaded them.

    Returns:
        What every engine reports of itself; None if one of them reports nothing.

    Raises:
        EngineError: ``SHA256SUMS`` cannot be read.
    """
    reports = {name: engine.report() for name, engine in engines.items()}
    runs: dict[str, EngineRun] = {}
    libraries = {"numpy": np.__version__}
    for name, report in reports.items():
        if report is None:
            return None
        runs[name] = EngineRun(
            device=report.device, providers=report.providers, precision=_precision(report, manifest, name)
        )
        libraries |= report.libraries
    return Provenance(
        version=version("cellsam-engine"),
        model=directory.absolute().name,
        model_sha256=sums_sha256(directory),
        backend=backend,
        engines=runs,
        libraries=libraries,
    )


def _precision(report: EngineReport, manifest: Manifest, name: EngineName) -> str:
    """Return the arithmetic of an engine; an int8 file also has parts in the precision that the session reports."""
    if manifest.engines[name].integers:
        return "int8" if report.precision is None else f"int8, {report.precision}"
    of_file = "fp32" if manifest.precision == "int8" else manifest.precision
    return report.precision or of_file
