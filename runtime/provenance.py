"""Origin of a result: the package, the engines and what runs them, read from the loaded engines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

METADATA_KEY = "cellsam-engine"
"""Key under which result files keep their provenance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """Device and precision of one loaded engine, as its session reports it."""

    device: str
    """``CPU``, or the name and compute capability of a GPU, such as "NVIDIA L4 (SM 8.9)"."""
    providers: tuple[str, ...]
    """Executors of the engine: onnxruntime's execution providers in order of priority, OpenVINO's execution devices,
    or TensorRT. A provider on the CPU at the end of the list executes what the others cannot."""
    precision: str | None = None
    """Arithmetic, such as ``fp32`` or ``bf16``; None if the session does not report it and uses the types of the
    file."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that run the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRun:
    """Device and precision of one engine of a result; see ``EngineReport``."""

    device: str
    """``CPU``, or the name and compute capability of a GPU."""
    providers: tuple[str, ...]
    """Executors of the engine, in order of priority."""
    precision: str
    """Arithmetic as the session reports it, else the precision of the engine file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Origin of a result, read from the loaded engines rather than from the arguments of the call."""

    version: str
    """Version of cellsam-engine."""
    model: str
    """Name of the engine directory; ``nano`` for the built-in model."""
    model_sha256: str | None
    """Hex sha256 of the directory's ``SHA256SUMS``, which covers its manifest and engine files, as
    ``cellsam-engine info`` prints it; None if the directory has no such file."""
    backend: str
    """Name of the backend that loaded the engines; never ``auto``."""
    engines: Mapping[str, EngineRun]
    """How each engine ran, by name."""
    libraries: Mapping[str, str]
    """Versions of the libraries that computed the result, by name."""


def to_jsonable(provenance: Iterable[Provenance]) -> list[dict[str, Any]]:
    """Convert records to plain values, ready for JSON; tuples become lists."""
    plain: list[dict[str, Any]] = json.loads(to_json(provenance))
    return plain


def to_json(provenance: Iterable[Provenance]) -> str:
    """Format records as a JSON list in ASCII, equal for equal records."""
    return json.dumps([asdict(one) for one in provenance], sort_keys=True)


def to_pairs(provenance: Provenance) -> dict[str, str]:
    """Flatten a record into pairs of texts, such as ``engines.encoder.device`` and ``CPU``, for key-value metadata."""
    (plain,) = to_jsonable([provenance])
    return dict(_pairs(plain))


def from_pairs(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Return the nested content of ``to_pairs``, as parsed from JSON."""
    content: dict[str, Any] = {"model_sha256": None, "engines": {}, "libraries": {}}
    for name, value in pairs.items():
        *groups, last = name.split(".")
        place = content
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value.split(", ") if last == "providers" else value
    return content


def _pairs(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", ", ".join(value) if isinstance(value, list) else str(value)


def distinct(provenance: Iterable[Provenance | None]) -> tuple[Provenance, ...]:
    """Return each record once, without None, in an order that depends only on their content."""
    by_text = {to_json([one]): one for one in provenance if one is not None}
    return tuple(by_text[text] for text in sorted(by_text))
