"""TensorRT plans beside the engines they were built from: where they lie, and the record that says what they fit.

    engines/tensorrt/<key>/plans.json, encoder.plan, cellfinder.plan, mask_decoder.plan
    engines/tensorrt/<key>.timing, what builds measured
    engines/tensorrt-ort/<key>/, what onnxruntime had TensorRT build (``runtime.engines.backends.ort_tensorrt``)

A plan runs on the kind of GPU and the versions it was built with and nowhere else, so that each set has a directory of
its own, and its record a key that the runtime compares with the machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.engines.manifest import EngineName, Precision, TensorSpec, is_plain_name
from runtime.errors import BackendError
from runtime.typed_json import FieldError, convert, refuse_unknown

SCHEMA = 1
PLANS = "tensorrt"
"""Subdirectory of an engine directory."""
BUILT_BY_ORT = "tensorrt-ort"
"""Likewise. Not inside the other: where that is, plans are taken to be."""
RECORD_NAME = "plans.json"

Shape = tuple[int, ...]
Ranges = Mapping[str, tuple[Shape, Shape, Shape]]
"""Least, best and greatest shape of every input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanKey:
    """What plans are bound to."""

    gpu: str
    """Name of the GPU."""
    sm: str
    """Its compute capability, such as "9.0"."""
    driver: str
    """Newest CUDA version that the driver supports; the CUDA runtime names drivers so."""
    tensorrt: str
    cuda: str
    """Major version of the CUDA runtime."""

    def __str__(self) -> str:
        built_with = f"TensorRT {self.tensorrt}, CUDA {self.cuda}, driver for CUDA up to {self.driver}"
        return f"{self.gpu} (SM {self.sm}), {built_with}"

    def directory_name(self, more: str) -> str:
        """Name of the directory of what was built for this key. Args: more: what else tells it from others."""
        parts = (
            self.gpu,
            f"sm{self.sm}",
            f"trt{self.tensorrt}",
            f"cuda{self.cuda}",
            f"driver{self.driver}",
            more,
        )
        return "+".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """One plan."""

    file: str
    sha256: str
    onnx_sha256: str
    """Of the ONNX file it was built from."""
    inputs: tuple[TensorSpec, ...]
    """As the manifest has them."""
    outputs: tuple[TensorSpec, ...]
    ranges: Ranges
    """The optimisation profile."""
    layers: Mapping[str, Any] = field(default_factory=dict)
    """What the engine inspector counted, for information."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """``plans.json``: a set of plans that was built whole and passed its checks."""

    key: PlanKey
    precision: Precision
    plans: Mapping[EngineName, PlanFile]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the build was asked for."""
    verification: tuple[Mapping[str, Any], ...] = ()
    """Figures of the comparison with onnxruntime on the CPU."""
    created: str = ""
    """UTC, ISO 8601."""

    def write(self, directory: Path) -> None:
        """Write ``plans.json`` into the directory."""
        content = {"schema": SCHEMA, **asdict(self)}
        (directory / RECORD_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def build_command(directory: Path, device: int = 0) -> str:
    """What to type to build the plans of an engine directory on a GPU of this machine."""
    return f"cellsam-engine build {directory} --device {device}" if device else f"cellsam-engine build {directory}"


def read_record(directory: Path) -> PlanRecord:
    """Read the record of one set of plans.

    Raises:
        BackendError: it cannot be read, is damaged or of another schema.
    """
    path = directory / RECORD_NAME
    again = f"Build the plans again: {build_command(directory.parent.parent)}"
    try:
        content = convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Any])
        if "schema" not in content:
            raise FieldError("field 'schema' is missing", "schema")
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise BackendError(
                f"{path} has schema {schema!r}; this version reads {SCHEMA}. {again}", kind="wrong_version"
            )
        return _parse(content)
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error}.", kind="unreadable") from error
    except (ValueError, RecursionError) as error:
        field = getattr(error, "field", None)
        raise BackendError(f"{path} is damaged ({error}). {again}", kind="damaged", field=field) from error


def read_plan(path: Path, onnx_sha256: str, key: PlanKey, device: int = 0) -> tuple[bytes, PlanFile]:
    """The plan that was built from an ONNX file for this machine.

    Args:
        path: the ONNX file; its plans lie in ``tensorrt/`` beside it.
        onnx_sha256: of the ONNX file.
        key: what plans must have been built for.
        device: the GPU that the key is of, for the command in messages.

    Raises:
        BackendError: there is none, or it was altered; what to type is said.
    """
    again = f"Build the plans again: {build_command(path.parent, device)}"
    found = [
        (directory / plan.file, plan)
        for directory, record in find_plans(path.parent, key, device)
        for plan in record.plans.values()
        if plan.onnx_sha256 == onnx_sha256
    ]
    if not found:
        raise BackendError(f"no TensorRT plan for this machine was built from this {path}. {again}", kind="mismatch")
    file, plan = found[0]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BackendError(f"{file} cannot be read: {error}. {again}", kind="unreadable") from error
    if hashlib.sha256(content).hexdigest() != plan.sha256:
        raise BackendError(f"{file} was altered after it was built. {again}", kind="damaged")
    return content, plan


def find_plans(engine_dir: Path, key: PlanKey, device: int = 0) -> list[tuple[Path, PlanRecord]]:
    """The sets of plans of an engine directory that were built for this machine, with where they lie.

    There may be several: of each precision, or of engines that stood there before. Only what has a record is taken for
    plans: a build that failed may have left its timing cache.

    Raises:
        BackendError: there are none; which there are, what is here and what to type is said.
    """
    command = build_command(engine_dir, device)
    found = sorted(path.parent for path in (engine_dir / PLANS).glob(f"[!.]*/{RECORD_NAME}"))
    if not found:
        raise BackendError(
            f"{engine_dir} has no TensorRT plans. Build them on this machine: {command}", kind="not_found"
        )
    sets = [(directory, read_record(directory)) for directory in found]
    matching = [(directory, record) for directory, record in sets if record.key == key]
    if matching:
        return matching
    others = [f"  {record.key} (differs in {', '.join(_differences(record.key, key))})" for _, record in sets]
    raise BackendError(
        f"{engine_dir} has TensorRT plans built for\n"
        + "\n".join(others)
        + f"\nbut this machine is\n  {key}\nPlans fit one kind of GPU and one version only. "
        f"Build them for this machine: {command}",
        kind="mismatch",
    )


def _differences(built_for: PlanKey, here: PlanKey) -> list[str]:
    return [f.name for f in fields(PlanKey) if getattr(built_for, f.name) != getattr(here, f.name)]


def _parse(content: dict[str, Any]) -> PlanRecord:
    refuse_unknown(content, PlanRecord)
    record = convert(content, PlanRecord)
    for name, plan in record.plans.items():
        place = f"plans.{name}"
        # A record from elsewhere must not name files outside its own directory.
        if not is_plain_name(plan.file):
            raise FieldError(f"plan file {plan.file!r} is not a plain file name", f"{place}.file")
        if any(len({len(shape) for shape in shapes}) != 1 for shapes in plan.ranges.values()):
            raise FieldError(f"{place}.ranges are not shapes of one rank for each input", f"{place}.ranges")
        if plan.ranges.keys() != {spec.name for spec in plan.inputs}:
            raise FieldError(f"{place}.ranges are not those of the inputs", f"{place}.ranges")
    return record
