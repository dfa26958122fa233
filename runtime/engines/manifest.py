"""``manifest.json``: what an engine directory holds, written by the export and checked when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.config import SegmentConfig
from runtime.errors import ConfigError, EngineError
from runtime.ops.preprocess import Profile

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
    """Name, shape and dtype of one input or output; a dynamic dimension is a string."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


def takes_boxes(inputs: Iterable[TensorSpec]) -> bool:
    """Whether they are the inputs of a mask decoder."""
    return any(tensor.name == "boxes_xyxy_model" for tensor in inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFile:
    """One engine of the directory."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attention: Attention = "plain"
    """``fused``: large attentions are operators of onnxruntime's own, which other backends may not know."""
    integers: bool = False
    """Whether products are of 8-bit integers, in the form for CPUs (``export.quantised``)."""


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
    """``int8``: of the encoders; the other engines are float32."""
    config: SegmentConfig
    """Thresholds used where the caller gives none."""
    engines: Mapping[EngineName, EngineFile]
    weights: Mapping[str, str]
    """``format``, ``sha256`` and ``licence`` of the checkpoint."""
    target: Target = "any"
    """Form of the engines, which changes no result: ``gpu`` is the one that TensorRT fuses, and slower on a CPU."""
    trained_channels: tuple[int, ...] = ()
    """Numbers of channels of the images that the weights were trained on, 1 to 3; empty where nobody said."""
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
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{path} is not valid JSON ({error}); export the engines again.") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path} holds a {type(content).__name__}; expected an object.")
    schema = content.pop("schema", None)
    if schema != SCHEMA:
        raise EngineError(f"{path} has schema {schema!r}; this version reads {SCHEMA}. Export the engines again.")
    try:
        manifest = _parse(content)
        check_contract(manifest)
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise EngineError(f"{path} is damaged: {reason}. Export the engines again.") from error
    return manifest


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every engine file with its hash.

    Raises:
        EngineError: a file is missing, unreadable or altered; it is named.
    """
    for engine in manifest.engines.values():
        path = directory / engine.file
        if not path.is_file():
            raise EngineError(f"{path} is missing; export the engines again.")
        try:
            found = sha256_file(path)
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error}.") from error
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


_FIELD_TYPES: Mapping[str, type] = {
    "image_size": int,
    "grid_size": int,
    "renormalize": bool,
    "config": dict,
    "engines": dict,
    "weights": dict,
    "model": dict,
    "tools": dict,
    "created": str,
    "verification": dict,
}


def _parse(content: dict[str, Any]) -> Manifest:
    known = {f.name for f in fields(Manifest)}
    unknown = sorted(content.keys() - known)
    if unknown:
        raise ValueError(f"unknown fields {', '.join(unknown)}")
    for name, kind in _FIELD_TYPES.items():
        _check_type(name, content[name], kind)
    for name, choices in (("profile", Profile), ("trunk", Trunk), ("precision", Precision)):
        _check_choice(name, content[name], get_args(choices))
    for name in ("weights", "tools"):
        for key, value in content[name].items():
            _check_type(f"{name}.{key}", value, str)
    _check_choice("target", content.get("target", "any"), get_args(Target))
    trained_channels = tuple(content.pop("trained_channels", ()))
    for count in trained_channels:
        _check_choice("trained_channels", count, (1, 2, 3))
    for key in ("format", "sha256", "licence"):
        _check_type(f"weights.{key}", content["weights"][key], str)
    engines = {name: _parse_engine(name, spec) for name, spec in content.pop("engines").items()}
    for name, engine in engines.items():
        if engine.integers != (content["precision"] == "int8" and name.endswith("encoder")):
            raise ValueError(f"engines.{name}.integers is {engine.integers}, and precision is {content['precision']}")
    config = SegmentConfig(**content.pop("config"))
    return Manifest(engines=engines, config=config, trained_channels=trained_channels, **content)


def _check_type(name: str, value: object, kind: type) -> None:
    # bool is an int to Python, but True is no size.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(str, allowed))}")


def _parse_engine(name: str, spec: object) -> EngineFile:
    _check_choice("engine", name, get_args(EngineName))
    if not isinstance(spec, dict):
        raise TypeError(f"engines.{name} is {spec!r}, expected an object")
    file = spec["file"]
    _check_type(f"engines.{name}.file", file, str)
    # A manifest from elsewhere must not name files outside its own directory.
    if Path(file).name != file or "\\" in file:
        raise ValueError(f"engine file {file!r} is not a plain file name")
    _check_type(f"engines.{name}.sha256", spec["sha256"], str)
    inputs, outputs = (_parse_tensors(f"engines.{name}.{kind}", spec[kind]) for kind in ("inputs", "outputs"))
    attention = spec.get("attention", "plain")
    _check_choice(f"engines.{name}.attention", attention, get_args(Attention))
    integers = spec.get("integers", False)
    _check_type(f"engines.{name}.integers", integers, bool)
    return EngineFile(
        file=file,
        sha256=spec["sha256"],
        inputs=inputs,
        outputs=outputs,
        attention=attention,
        integers=integers,
    )


def _parse_tensors(name: str, specs: object) -> tuple[TensorSpec, ...]:
    _check_type(name, specs, list)
    assert isinstance(specs, list)
    tensors = []
    for index, spec in enumerate(specs):
        _check_type(f"{name}[{index}]", spec, dict)
        _check_type(f"{name}[{index}].name", spec["name"], str)
        _check_type(f"{name}[{index}].dtype", spec["dtype"], str)
        _check_type(f"{name}[{index}].shape", spec["shape"], list)
        if not all(isinstance(dim, int | str) for dim in spec["shape"]):
            raise TypeError(f"{name}[{index}].shape is {spec['shape']!r}, expected whole numbers and names")
        tensors.append(TensorSpec(name=spec["name"], shape=tuple(spec["shape"]), dtype=spec["dtype"]))
    return tuple(tensors)


DYNAMIC = "a name"
ANY = "a whole number"


def check_contract(manifest: Manifest) -> None:
    """Check that the engines are those the runtime chains, with the tensors it feeds and reads.

    Raises:
        ValueError: sizes that do not fit, an engine too few or too many, or a tensor of another name or shape.
    """
    size, grid = manifest.image_size, manifest.grid_size
    if size < 1 or grid < 1 or size % grid:
        raise ValueError(f"image_size {size} is not a multiple of grid_size {grid}")
    contract = _contract(manifest)
    for kind, names in (
        ("missing", contract.keys() - manifest.engines.keys()),
        ("superfluous", manifest.engines.keys() - contract.keys()),
    ):
        if names:
            raise ValueError(f"engines {', '.join(sorted(names))} are {kind}")
    for name, (inputs, outputs) in contract.items():
        engine = manifest.engines[name]
        for kind, expected, found in (("inputs", inputs, engine.inputs), ("outputs", outputs, engine.outputs)):
            if [tensor.name for tensor in found] != list(expected):
                raise ValueError(f"{name} has {kind} {[t.name for t in found]}, expected {list(expected)}")
            for tensor in found:
                if not _fits(tensor.shape, expected[tensor.name]):
                    raise ValueError(
                        f"{name}.{tensor.name} has shape {list(tensor.shape)}, expected {list(expected[tensor.name])}"
                    )


def _fits(shape: tuple[Dim, ...], expected: tuple[Dim, ...]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(dim, str) if want == DYNAMIC else isinstance(dim, int) and want in (ANY, dim)
        for dim, want in zip(shape, expected, strict=True)
    )


_Tensors = dict[str, tuple[Dim, ...]]


def _contract(manifest: Manifest) -> dict[EngineName, tuple[_Tensors, _Tensors]]:
    """Inputs and outputs of every engine that such a manifest must list."""
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
    """One entry of a manifest's verification in words; shown as it is where it is not what the export writes."""
    match output:
        case {
            "stage": str(stage),
            "output": str(name),
            "max_abs_error": int() | float() as error,
            "mismatches_per_million": int() | float() as mismatches,
        }:
            return f"{stage}.{name}: largest error {error:.2g}, {mismatches:.0f} mismatches per million"
        case {
            "stage": str(stage),
            "output": str(name),
            "measure": str(measure),
            "value": int() | float() as value,
            "limit": int() | float() as limit,
        }:
            return f"{stage}.{name}: {measure} {value:.4g}, limit {limit:g}"
    return f"not as the export writes it: {output!r}"
