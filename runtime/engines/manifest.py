"""``manifest.json``: description of an engine directory, written by the export and checked on loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from msgspec import Meta

from runtime.config import SegmentConfig
from runtime.engines.sums import SUMS_NAME, check_sums, read_sums, sums_content
from runtime.errors import ConfigError, EngineError
from runtime.typed_json import FieldError, convert, refuse_unknown
from runtime.types import Profile

SCHEMA = 1
MANIFEST_NAME = "manifest.json"

Trunk = Literal["shared", "separate"]
Precision = Literal["fp32", "fp16", "int8"]
Attention = Literal["plain", "fused"]
Target = Literal["any", "gpu"]
EngineName = Literal["encoder", "detector_encoder", "cellfinder", "mask_decoder"]

Dim = int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one input or output; dynamic dimensions are strings."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


def takes_boxes(inputs: Iterable[TensorSpec]) -> bool:
    """Return whether these are the inputs of a mask decoder."""
    return any(tensor.name == "boxes_xyxy_model" for tensor in inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFile:
    """One engine of the directory."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attention: Attention = "plain"
    """``fused``: large attentions are operators specific to onnxruntime, which other backends may not support."""
    integers: bool = False
    """Whether products use 8-bit integers, in the form for CPUs (``export.quantised``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything the runtime needs to know about an engine directory, fixed by the export."""

    image_size: int
    """Side of the model input, in pixels."""
    grid_size: int
    """Image tokens per side."""
    profile: Profile
    """How images are turned into model inputs."""
    renormalize: bool
    """``cellsam-1.2`` only: whether to normalise a second time (see ``model_input.mask_branch_input``)."""
    trunk: Trunk
    """``separate``: the box branch has its own encoder."""
    precision: Precision
    """Precision of the engines; ``int8`` applies to the encoders, and the other engines are float32."""
    config: SegmentConfig
    """Thresholds for calls that give none."""
    engines: Mapping[EngineName, EngineFile]
    weights: Mapping[str, str]
    """``format``, ``sha256`` and ``licence`` of the checkpoint."""
    target: Target = "any"
    """Form of the engines, which does not affect results: ``gpu`` suits TensorRT's fusion, and is slower on a CPU."""
    trained_channels: tuple[Annotated[int, Meta(ge=1, le=3)], ...] = ()
    """Numbers of channels, 1 to 3, of the images that the weights were trained on; empty if unknown."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the PyTorch model, for information."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that wrote the engines."""
    created: str = ""
    """Time of the export, UTC, ISO 8601."""
    verification: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the comparison with PyTorch; see ``export.verify``."""

    @property
    def has_detector(self) -> bool:
        """Whether there is a detector; False for plain SAM weights, which need boxes from the user."""
        return "cellfinder" in self.engines

    def write(self, directory: Path) -> None:
        """Write ``manifest.json`` and ``SHA256SUMS`` into the directory, which already holds the engine files."""
        content = (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n").encode()
        (directory / MANIFEST_NAME).write_bytes(content)
        (directory / SUMS_NAME).write_bytes(sums_content(self._hashes(content)))

    def _hashes(self, content: bytes) -> dict[str, str]:
        """Return the hex sha256 by file name. Args: content: content of ``manifest.json``."""
        engines = {engine.file: engine.sha256 for engine in self.engines.values()}
        return {MANIFEST_NAME: hashlib.sha256(content).hexdigest(), **engines}


def read_manifest(directory: str | Path, *, sha256: str | None = None) -> Manifest:
    """Read and check ``manifest.json``, also against ``SHA256SUMS`` if that exists.

    ``runtime.engines.engine_source`` checks the engine files.

    Args:
        directory: the engine directory.
        sha256: hex sha256 that ``SHA256SUMS`` must have; None accepts any.

    Raises:
        EngineError: the directory or its manifest is missing, the schema or a field is wrong, the manifest was altered
            after the export, or the directory does not match ``sha256``; the message names the cause.
    """
    directory = Path(directory)
    path = directory / MANIFEST_NAME
    if not directory.is_dir():
        raise EngineError(
            f"{directory} is not a directory; expected an engine directory. Create one with: cellsam-engine export.",
            kind="not_found",
        )
    if not path.is_file():
        raise EngineError(
            f"{directory} has no {MANIFEST_NAME}; expected an engine directory, such as cellsam-engine export writes.",
            kind="not_found",
        )
    sums = read_sums(directory, sha256)
    try:
        written = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error}.", kind="unreadable") from error
    if sums is not None:
        own = {MANIFEST_NAME: hashlib.sha256(written).hexdigest()}
        check_sums(directory, {name: sums[name] for name in own if name in sums}, own)
    manifest = _read(path, written)
    if sums is not None:
        check_sums(directory, sums, manifest._hashes(written))
    return manifest


def _read(path: Path, written: bytes) -> Manifest:
    try:
        content = json.loads(written.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path} is not valid JSON ({error}); export the engines again.") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path} contains a {type(content).__name__}; expected an object. Export the engines again.")
    schema = content.pop("schema", None)
    if schema != SCHEMA:
        raise EngineError(
            f"{path} has schema {schema!r}; this version reads {SCHEMA}. Export the engines again.",
            kind="wrong_version",
            field="schema",
        )
    try:
        manifest = _parse(content)
        check_contract(manifest)
    except (FieldError, ConfigError, OverflowError) as error:
        field = getattr(error, "field", None)
        raise EngineError(f"{path} is damaged: {error}. Export the engines again.", field=field) from error
    return manifest


def sha256_file(path: Path) -> str:
    """Compute the hex sha256 of a file."""
    with path.open("rb") as file:
        return sha256_stream(file)


def sha256_stream(file: BinaryIO) -> str:
    """Compute the hex sha256 of an open file, from its current position to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()


_OF_WEIGHTS = ("format", "sha256", "licence")
_PROVENANCE = ("model", "tools", "created", "verification")
"""Fields that every file must have; they have defaults for manifests built in code."""


def _parse(content: dict[str, Any]) -> Manifest:
    refuse_unknown(content, Manifest)
    if isinstance(config := content.get("config"), dict):
        refuse_unknown(config, SegmentConfig, "config")
        content["config"] = SegmentConfig(**config)
    if unsaid := [name for name in _PROVENANCE if name not in content]:
        raise FieldError(f"field '{unsaid[0]}' is missing", unsaid[0])
    manifest = convert(content, Manifest)
    missing = [key for key in _OF_WEIGHTS if key not in manifest.weights]
    if missing:
        raise FieldError(f"field 'weights.{missing[0]}' is missing", f"weights.{missing[0]}")
    for name, engine in manifest.engines.items():
        place = f"engines.{name}"
        # A manifest from elsewhere must not name files outside its own directory.
        if not is_plain_name(engine.file):
            raise FieldError(f"engine file {engine.file!r} is not a plain file name", f"{place}.file")
        if engine.integers != (manifest.precision == "int8" and name.endswith("encoder")):
            raise FieldError(
                f"{place}.integers is {engine.integers}, but precision is {manifest.precision}", f"{place}.integers"
            )
    return manifest


def is_plain_name(file: str) -> bool:
    """Return whether a string is a plain file name, without a path to another directory."""
    return Path(file).name == file and "\\" not in file and file.isprintable()


DYNAMIC = "a name"
ANY = "a whole number"


def check_contract(manifest: Manifest) -> None:
    """Check that the engines are those that the runtime chains, with the tensors that it feeds and reads.

    Raises:
        FieldError: sizes do not fit together, engines are missing or unexpected, or a tensor has a wrong name or shape.
    """
    size, grid = manifest.image_size, manifest.grid_size
    if size < 1 or grid < 1 or size % grid:
        raise FieldError(f"image_size {size} is not a multiple of grid_size {grid}", "image_size")
    contract = _contract(manifest)
    for kind, names in (
        ("missing", contract.keys() - manifest.engines.keys()),
        ("unexpected", manifest.engines.keys() - contract.keys()),
    ):
        if names:
            raise FieldError(f"engines {', '.join(sorted(names))} are {kind}", "engines")
    for name, (inputs, outputs) in contract.items():
        engine = manifest.engines[name]
        for kind, expected, found in (("inputs", inputs, engine.inputs), ("outputs", outputs, engine.outputs)):
            if [tensor.name for tensor in found] != list(expected):
                message = f"{name} has {kind} {[t.name for t in found]}, expected {list(expected)}"
                raise FieldError(message, f"engines.{name}.{kind}")
            for tensor in found:
                if not _fits(tensor.shape, expected[tensor.name]):
                    raise FieldError(
                        f"{name}.{tensor.name} has shape {list(tensor.shape)}, expected {list(expected[tensor.name])}",
                        f"engines.{name}.{kind}",
                    )


def _fits(shape: tuple[Dim, ...], expected: tuple[Dim, ...]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(dim, str) if want == DYNAMIC else isinstance(dim, int) and want in (ANY, dim)
        for dim, want in zip(shape, expected, strict=True)
    )


_Tensors = dict[str, tuple[Dim, ...]]


def _contract(manifest: Manifest) -> dict[EngineName, tuple[_Tensors, _Tensors]]:
    """Return the inputs and outputs of each engine that such a manifest must list."""
    size, grid = manifest.image_size, manifest.grid_size
    pixels: _Tensors = {"pixel_values": (DYNAMIC, 3, size, size)}
    features: _Tensors = {"patch_features": (DYNAMIC, ANY, grid, grid)}
    embedding: _Tensors = {"image_embedding": (DYNAMIC, ANY, grid, grid)}
    prompts: _Tensors = {
        "image_index": (DYNAMIC,),
        "boxes_xyxy_model": (DYNAMIC, 4),
        "window_rows": (DYNAMIC, DYNAMIC),
        "window_cols": (DYNAMIC, DYNAMIC),
    }
    masks: _Tensors = {"mask_logits": (DYNAMIC, DYNAMIC, DYNAMIC), "iou_predictions": (DYNAMIC,)}
    shared = manifest.has_detector and manifest.trunk == "shared"
    contract: dict[EngineName, tuple[_Tensors, _Tensors]] = {
        "encoder": (pixels, {**features, **embedding} if shared else embedding),
        "mask_decoder": ({**embedding, **prompts}, masks),
    }
    if manifest.trunk == "separate":
        contract["detector_encoder"] = (pixels, features)
    if manifest.has_detector or manifest.trunk == "separate":
        contract["cellfinder"] = (
            features,
            {"boxes_cxcywh_norm": (DYNAMIC, ANY, 4), "logits": (DYNAMIC, ANY, ANY)},
        )
    return contract


def describe_check(output: object) -> str:
    """Describe one entry of a manifest's verification; an entry in an unknown format is shown as it is."""
    match output:
        case {"engine": str(engine), "output": str(name), **figures} | {
            "stage": str(engine),
            "output": str(name),
            **figures,
        }:  # ``stage`` is the key in older exports
            match figures:
                case {
                    "max_abs_error": int() | float() as error,
                    "mismatches_per_million": int() | float() as mismatches,
                }:
                    return f"{engine}.{name}: largest error {error:.2g}, {mismatches:.0f} mismatches per million"
                case {"measure": str(measure), "value": int() | float() as value, "limit": int() | float() as limit}:
                    return f"{engine}.{name}: {measure} {value:.4g}, limit {limit:g}"
    return f"unknown format: {output!r}"
