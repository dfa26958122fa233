"""Reading and writing of checkpoints: the released CellSAM format, SAM ViT-B weights, and our own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal
from zipfile import ZipFile

import torch
from torch import Tensor

from runtime.engines.manifest import sha256_stream
from runtime.errors import SegmenterError
from runtime.files.placing import write_whole
from runtime.typed_json import convert, refuse_unknown
from runtime.types import Profile
from training.model import CellSAM, ModelConfig
from training.model.image_encoder import same_body
from training.usage import Usage, usage_from_json

SourceFormat = Literal["cellsam", "sam", "cellsam-engine"]

METADATA_KEY = "cellsam_engine"
"""Entry of our checkpoints (including Lightning's) with the sizes and the licence of the model."""
METADATA_SCHEMA = 1

UNKNOWN_USAGE = Usage()

CELLSAM_LICENCE = "CellSAM weights: non-commercial, academic use only (see the licence they were released under)"
SAM_LICENCE = "Apache-2.0"

_HEAD = "cellfinder.decode_head."


class CheckpointError(SegmenterError, ValueError):
    """Error of a file that is not a readable checkpoint; the message names the problem."""

    usual_kind = "damaged"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that has been read and checked."""

    model: CellSAM
    """The model in eval mode, float32, on the CPU."""
    source_format: SourceFormat
    licence: str
    """Licence of the weights, carried into the manifest of every engine made from them."""
    renormalize: bool = True
    """Released format: True if the file contains ``model_cp``, which turns on a second normalisation at inference."""
    sha256: str = ""
    """Hex sha256 of the file."""
    usage: Usage = UNKNOWN_USAGE
    """Settings of the weights; unknown for formats other than our own."""

    @property
    def default_profile(self) -> Profile:
        """Preprocessing that the weights were trained with."""
        return "cellsam-1.2" if self.source_format == "cellsam" else "paper"


def load_checkpoint(path: str | Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint of any accepted format.

    Nothing in the file is executed (``weights_only=True``). The name, shape and value of every key are checked. In a
    zip file, the format of ``torch.save``, the checksum of every record is checked as well.

    Args:
        path: the file.
        sha256: hex sha256 that the file must have; None accepts any.

    Raises:
        CheckpointError: the file is missing, truncated, altered, contains code, does not match ``sha256``, or belongs
            to another model; or keys are missing, unexpected, mis-shaped or not finite, all of which are named.
    """
    path = Path(path)
    raw, found = _read(path, sha256)
    return replace(_from_content(path, raw), sha256=found)


def _from_content(path: Path, raw: dict[str, Any]) -> Checkpoint:
    unnamed = [key for key in raw if not isinstance(key, str)]
    if unnamed:
        raise CheckpointError(
            f"{path} has keys that are not strings ({unnamed[:5]}); expected a dict of named tensors."
        )
    if isinstance(raw.get(METADATA_KEY), Mapping):
        return _from_own(raw)
    inner = raw.get("state_dict")
    state = inner if isinstance(inner, Mapping) else raw
    if any(str(key).startswith(_HEAD) for key in state):
        return _from_cellsam(state)
    if "image_encoder.pos_embed" in state:
        model = _build(ModelConfig(detector=False), state, _sam_key)
        return Checkpoint(model=model, source_format="sam", licence=SAM_LICENCE)
    first = ", ".join(sorted(map(str, state))[:5]) or "none"
    raise CheckpointError(
        f"{path} is a checkpoint of another model, with {len(state)} keys, the first being {first}; expected CellSAM "
        f"({_HEAD}*), SAM ViT-B (image_encoder.*) or one written by this project.",
        kind="mismatch",
    )


def save_checkpoint(
    path: str | Path,
    model: CellSAM,
    *,
    licence: str,
    usage: Usage = UNKNOWN_USAGE,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint in our own format; the file appears only when it is complete.

    Args:
        path: the file.
        model: the model, whose state dict and sizes are written.
        licence: licence of the weights.
        usage: settings of the weights.
        dtype: type to which the weights are rounded.
    """
    state = {key: value.to(dtype) for key, value in model.state_dict().items()}
    content = {METADATA_KEY: metadata(model.config, licence, usage), "state_dict": state}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, PyTorch would write its name into the file
            torch.save(content, file)

    write_whole(Path(path), write)


def metadata(config: ModelConfig, licence: str, usage: Usage = UNKNOWN_USAGE) -> dict[str, Any]:
    """Return the entry that turns a dict with a ``state_dict``, such as a Lightning checkpoint, into our format."""
    return {"schema": METADATA_SCHEMA, "model": asdict(config), "licence": licence, **usage.to_json()}


_ZIP = b"PK\x03\x04"
"""First bytes of files of ``torch.save``. Files from before PyTorch 1.6 have another format, without checksums."""


def _read(path: Path, sha256: str | None) -> tuple[dict[str, Any], str]:
    """Return the content and hex sha256 of a file, which is opened once to hash, check and load it."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not a file; pass the path of a checkpoint (.pt, .pth or .ckpt).", kind="not_found"
        )
    try:
        with path.open("rb") as file:
            found = sha256_stream(file)
            _check_pin(path, found, sha256)
            _check_records(path, file)
            file.seek(0)
            raw = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains objects other than tensors and plain containers, or is not a checkpoint; nothing in it "
            f"was run. Save the weights alone: torch.save(model.state_dict(), path). ({_first_line(error)})"
        ) from error
    except Exception as error:  # of a damaged file, whatever its pickled content makes PyTorch raise
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as a PyTorch checkpoint: it is truncated or "
            f"has another format. Download it again and compare its size. ({_first_line(error)})"
        ) from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} contains a {type(raw).__name__}; expected a dict of tensors.")
    return raw, found


def _check_pin(path: Path, found: str, sha256: str | None) -> None:
    if sha256 is not None and found != sha256.strip().lower():
        raise CheckpointError(
            f"{path} has the sha256 {found}; expected {sha256!r}. Download the checkpoint again, or pass the "
            "right hash as sha256=.",
            kind="mismatch",
            field="sha256",
        )


def _check_records(path: Path, file: BinaryIO) -> None:
    """Compare the records of a zip file with their checksums; PyTorch does not do this.

    Raises:
        CheckpointError: a record, which is named, differs.
        BadZipFile, RuntimeError: the zip file is incomplete, or of a kind that PyTorch does not write.
    """
    file.seek(0)
    if file.read(len(_ZIP)) != _ZIP:
        return
    with ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f"{path} was altered: its record {damaged!r} does not match its checksum; expected the file as it was "
            "saved. Download it again and compare its sha256."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _from_own(raw: Mapping[str, Any]) -> Checkpoint:
    meta = raw[METADATA_KEY]
    if meta.get("schema") != METADATA_SCHEMA:
        raise CheckpointError(
            f"checkpoint schema is {meta.get('schema')!r}; this version reads {METADATA_SCHEMA}. Update the package.",
            kind="wrong_version",
        )
    try:
        sizes = convert(meta["model"], dict[str, Any])
        refuse_unknown(sizes, ModelConfig)
        config = convert(sizes, ModelConfig)
        state, licence = dict(raw["state_dict"]), str(meta["licence"])
        usage = usage_from_json(meta)
        wrapped = bool(state) and all(key.startswith("model.") for key in state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's description of its model is damaged: {error!r}.") from error
    # A Lightning module keeps the model as its attribute `model`.
    model = _build(config, state, lambda key: f"model.{key}" if wrapped else key)
    return Checkpoint(model=model, source_format="cellsam-engine", licence=licence, usage=usage)


def _from_cellsam(state: Mapping[str, Any]) -> Checkpoint:
    """Read the released format: ``model`` (SAM), ``model_cp`` (SAM, replaces ``model`` if present), ``cellfinder``."""
    has_copy = any(key.startswith("model_cp.") for key in state)

    def key_map(key: str) -> str:
        return _released_key(key, "model_cp." if has_copy else "model.")

    config = ModelConfig(trunk="separate")
    unused = {"model." + _sam_key(key) for key in _expected(ModelConfig(detector=False))} if has_copy else set()
    copies = {
        key_map(key).replace("_embed.0.", f"_embed.{layer}."): key_map(key)
        for key in _expected(config)
        if key.startswith(("cellfinder.class_embed.", "cellfinder.bbox_embed."))
        for layer in range(1, config.finder_decoder_layers)
    }
    model = _build(config, state, key_map, unused=unused | copies.keys())
    differing = [key for key, first in copies.items() if not torch.equal(state[key], state[first])]
    if differing:
        raise CheckpointError(
            "the heads of the decoder layers must be one module, but these differ from layer 0: "
            + ", ".join(differing),
            kind="mismatch",
        )
    assert model.detector_encoder is not None
    if same_body(model.encoder, model.detector_encoder):
        body = {key_map(key) for key in _expected(config) if key.startswith("detector_encoder.")}
        model = _build(ModelConfig(), state, key_map, unused=unused | copies.keys() | body)
    return Checkpoint(model=model, source_format="cellsam", licence=CELLSAM_LICENCE, renormalize=has_copy)


def _sam_key(key: str) -> str:
    return f"image_{key}" if key.startswith("encoder.") else key


def _released_key(key: str, branch: str) -> str:
    """Return the name of one of our keys in the released checkpoint."""
    if not key.startswith(("cellfinder.", "detector_encoder.")):
        return branch + _sam_key(key)
    if key.startswith("detector_encoder."):
        return _HEAD + "backbone.body." + key.removeprefix("detector_encoder.")
    name = key.removeprefix("cellfinder.")
    if name.startswith("input_proj."):
        return _HEAD + name.replace("input_proj.", "input_proj.0.")
    fixed = {"anchor_points": "position.weight", "pattern": "pattern.weight"}
    name = fixed.get(name, name)
    for head in ("class_embed.", "bbox_embed."):
        name = name.replace(head, head + "0.") if name.startswith(head) else name
    return _HEAD + "transformer." + name


def _expected(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in CellSAM(config).state_dict().items()}


def _build(
    config: ModelConfig,
    state: Mapping[str, Any],
    key_map: Callable[[str], str],
    *,
    unused: Iterable[str] = (),
) -> CellSAM:
    """Build a model with the tensors of ``state``; ``key_map`` converts our keys to those of the checkpoint."""
    expected = _expected(config)
    unused = set(unused)
    problems = []
    tensors = {}
    for key, shape in expected.items():
        name = key_map(key)
        value = state.get(name)
        if not isinstance(value, Tensor):
            problems.append(f"missing {name} {tuple(shape)}")
        elif value.shape != shape:
            problems.append(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
        elif not value.is_floating_point():
            problems.append(f"{name} has dtype {value.dtype}, expected floating point")
        elif not torch.isfinite(value := value.float()).all():
            problems.append(f"{name} contains NaN or infinity")
        else:
            tensors[key] = value
    problems += [f"missing {key}" for key in sorted(unused - state.keys())]
    known = {key_map(key) for key in expected} | unused
    problems += [f"unexpected {key}" for key in sorted(set(map(str, state)) - known)]
    if problems:
        raise CheckpointError(
            f"{len(problems)} keys do not fit this model:\n  " + "\n  ".join(problems), kind="mismatch"
        )
    with torch.device("meta"):
        model = CellSAM(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()
