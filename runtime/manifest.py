"""``manifest.json``: what an engine directory holds, written by the export and checked when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.config import SegmentConfig
from runtime.errors import ConfigError, EngineError
from runtime.preprocess import Profile

SCHEMA = 1
MANIFEST_NAME = "manifest.json"

Trunk = Literal["shared", "separate"]
Precision = Literal["fp32"]
EngineName = Literal["encoder", "detector_encoder", "cellfinder", "mask_decoder"]

Dim = int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one input or output; a dynamic dimension is a string."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFile:
    """One engine of the directory."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything the runtime needs to know about an engine directory, decided once by the export."""

    image_size: int
    """Side of the model input, pixels."""
    grid_size: int
    """Image tokens per side."""
    profile: Profile
    """How images become model inputs."""
    renormalize: bool
    """``cellsam-1.2`` only: whether the second normalisation is on (see ``preprocess.mask_branch_input``)."""
    trunk: Trunk
    """``separate``: the box branch has its own encoder."""
    precision: Precision
    config: SegmentConfig
    """Thresholds used where the caller gives none."""
    engines: Mapping[EngineName, EngineFile]
    weights: Mapping[str, str]
    """``format``, ``sha256`` and ``licence`` of the checkpoint."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the PyTorch model, for information."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that made the engines."""
    created: str = ""
    """UTC, ISO 8601."""
    verification: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the comparison with PyTorch; see ``export.verify``."""

    @property
    def has_detector(self) -> bool:
        """False for plain SAM weights: boxes then come from the user."""
        return "cellfinder" in self.engines

    def write(self, directory: Path) -> None:
        """Write ``manifest.json`` into the directory."""
        content = {"schema": SCHEMA, **asdict(self)}
        (directory / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(directory: str | Path) -> Manifest:
    """Read and check ``manifest.json``; the engine files are checked by ``check_files``.

    Raises:
        EngineError: no directory, no manifest, another schema, or a field that is missing or wrong; it is named.
    """
    directory = Path(directory)
    path = directory / MANIFEST_NAME
    if not directory.is_dir():
        raise EngineError(f"{directory} is not a directory; make one with: cellsam-engine export.")
    if not path.is_file():
        raise EngineError(f"{directory} has no {MANIFEST_NAME}; it is not an engine directory.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} is not valid JSON ({error}); export the engines again.") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path} holds a {type(content).__name__}; expected an object.")
    schema = content.pop("schema", None)
    if schema != SCHEMA:
        raise EngineError(f"{path} has schema {schema!r}; this version reads {SCHEMA}. Export the engines again.")
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise EngineError(f"{path} is damaged: {_reason(error)}. Export the engines again.") from error


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every engine file with its hash.

    Raises:
        EngineError: a file is missing or altered; it is named.
    """
    for engine in manifest.engines.values():
        path = directory / engine.file
        if not path.is_file():
            raise EngineError(f"{path} is missing; export the engines again.")
        found = sha256_file(path)
        if found != engine.sha256:
            raise EngineError(
                f"{path} was altered after its export: its sha256 is {found[:16]}..., the manifest says "
                f"{engine.sha256[:16]}.... Export the engines again."
            )


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return f"field {error} is missing" if isinstance(error, KeyError) else str(error)


def _parse(content: dict[str, Any]) -> Manifest:
    known = {f.name for f in fields(Manifest)}
    unknown = sorted(content.keys() - known)
    if unknown:
        raise ValueError(f"unknown fields {', '.join(unknown)}")
    for name, kind in (("image_size", int), ("grid_size", int), ("renormalize", bool), ("engines", dict)):
        if not isinstance(content[name], kind):
            raise TypeError(f"{name} is {content[name]!r}, expected {kind.__name__}")
    for name, choices in (("profile", Profile), ("trunk", Trunk), ("precision", Precision)):
        _check_choice(name, content[name], get_args(choices))
    engines = {name: _parse_engine(name, spec) for name, spec in content.pop("engines").items()}
    config = SegmentConfig(**content.pop("config"))
    manifest = Manifest(engines=engines, config=config, **content)
    needed = {"encoder", "mask_decoder"} | ({"detector_encoder"} if manifest.trunk == "separate" else set())
    if needed - engines.keys():
        raise ValueError(f"engines {', '.join(sorted(needed - engines.keys()))} are missing")
    return manifest


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")


def _parse_engine(name: str, spec: dict[str, Any]) -> EngineFile:
    _check_choice("engine", name, get_args(EngineName))
    file = str(spec["file"])
    # A manifest from elsewhere must not name files outside its own directory.
    if Path(file).name != file:
        raise ValueError(f"engine file {file!r} is not a plain file name")
    return EngineFile(
        file=file,
        sha256=str(spec["sha256"]),
        inputs=tuple(_parse_tensor(t) for t in spec["inputs"]),
        outputs=tuple(_parse_tensor(t) for t in spec["outputs"]),
    )


def _parse_tensor(spec: dict[str, Any]) -> TensorSpec:
    return TensorSpec(name=str(spec["name"]), shape=tuple(spec["shape"]), dtype=str(spec["dtype"]))
