"""TensorRT plans in an engine directory: their layout, and the record of the machine that they fit.

    engines/tensorrt/<key>/plans.json, encoder.plan, cellfinder.plan, mask_decoder.plan
    engines/tensorrt/<key>.timing, the timing cache of builds
    engines/tensorrt-rtx/<key>/, the same for TensorRT for RTX, with its runtime caches
    engines/tensorrt-ort/<key>/, engines built through onnxruntime (``runtime.engines.backends.ort_tensorrt``)

A plan runs only on the GPUs and the versions that it was built for. Each set of plans therefore has its own directory,
and a record with a key (``plan_keys``) that the runtime compares with the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.engines.backends.plan_keys import KEYS, LIBRARIES, Key, PlanBackend, PlanKey, RtxKey, build_command
from runtime.engines.manifest import EngineName, Precision, TensorSpec, is_plain_name
from runtime.errors import BackendError
from runtime.typed_json import FieldError, convert, refuse_unknown

SCHEMA = 1
PLANS: PlanBackend = "tensorrt"
"""Subdirectory of an engine directory with TensorRT plans."""
RTX_PLANS: PlanBackend = "tensorrt-rtx"
"""Subdirectory with plans of TensorRT for RTX."""
BUILT_BY_ORT = "tensorrt-ort"
"""Subdirectory for the backend ``tensorrt-ort``; not inside ``PLANS``, whose presence means that there are plans."""
RECORD_NAME = "plans.json"

Shape = tuple[int, ...]
Ranges = Mapping[str, tuple[Shape, Shape, Shape]]
"""Minimum, optimum and maximum shape of every input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """One plan."""

    file: str
    sha256: str
    onnx_sha256: str
    """Checksum of the ONNX file that the plan was built from."""
    inputs: tuple[TensorSpec, ...]
    """Inputs as listed in the manifest."""
    outputs: tuple[TensorSpec, ...]
    ranges: Ranges
    """The optimisation profile."""
    layers: Mapping[str, Any] = field(default_factory=dict)
    """Layer counts of the engine inspector, for information."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """Content of ``plans.json``: a complete set of plans that passed its checks."""

    key: Key
    precision: Precision
    plans: Mapping[EngineName, PlanFile]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the build."""
    verification: tuple[Mapping[str, Any], ...] = ()
    """Results of the comparison with onnxruntime on the CPU."""
    created: str = ""
    """Time of the build, UTC, in ISO 8601."""

    def write(self, directory: Path) -> None:
        """Write ``plans.json`` into the directory."""
        content = {"schema": SCHEMA, **asdict(self)}
        (directory / RECORD_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(directory: Path) -> PlanRecord:
    """Read the record of one set of plans; the directory above names its backend.

    Raises:
        BackendError: the record is unreadable or damaged, or has another schema.
    """
    path = directory / RECORD_NAME
    backend: PlanBackend = RTX_PLANS if directory.parent.name == RTX_PLANS else PLANS
    again = f"Build the plans again: {build_command(directory.parent.parent, backend=backend)}"
    try:
        content = convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Any])
        if "schema" not in content:
            raise FieldError("field 'schema' is missing", "schema")
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise BackendError(
                f"{path} has schema {schema!r}; this version reads {SCHEMA}. {again}", kind="wrong_version"
            )
        return _parse(content, KEYS[backend])
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error}.", kind="unreadable") from error
    except (ValueError, RecursionError) as error:
        field = getattr(error, "field", None)
        raise BackendError(f"{path} is damaged ({error}). {again}", kind="damaged", field=field) from error


def read_plan(path: Path, onnx_sha256: str, key: Key, device: int = 0) -> tuple[bytes, PlanFile, Path]:
    """Read the plan that was built from an ONNX file for this machine.

    Args:
        path: the ONNX file; its plans lie in the subdirectory of their backend beside it.
        onnx_sha256: checksum of the ONNX file.
        key: the key of the machine.
        device: index of the GPU that the key describes, for the command in messages.

    Returns:
        The plan's content, its record, and the directory of both.

    Raises:
        BackendError: the plan is missing, unreadable or altered; the message contains the build command.
    """
    again = f"Build the plans again: {build_command(path.parent, device, key.backend)}"
    found = [
        (directory / plan.file, plan)
        for directory, record in find_plans(path.parent, key, device)
        for plan in record.plans.values()
        if plan.onnx_sha256 == onnx_sha256
    ]
    if not found:
        raise BackendError(
            f"no {LIBRARIES[key.backend]} plan for this machine was built from this version of {path}. {again}",
            kind="mismatch",
        )
    file, plan = found[0]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BackendError(f"{file} cannot be read: {error}. {again}", kind="unreadable") from error
    if hashlib.sha256(content).hexdigest() != plan.sha256:
        raise BackendError(f"{file} was altered after it was built. {again}", kind="damaged")
    return content, plan, file.parent


def plan_directories(engine_dir: Path, backend: PlanBackend) -> list[Path]:
    """List the sets of plans of a backend that have a record, for any machine."""
    return sorted(path.parent for path in (engine_dir / backend).glob(f"[!.]*/{RECORD_NAME}"))


def find_plans(engine_dir: Path, key: Key, device: int = 0) -> list[tuple[Path, PlanRecord]]:
    """Find the sets of plans in an engine directory that were built for this machine, each with its directory.

    There may be several, for other precisions or for earlier engines. Directories without a record are ignored: a
    failed build may leave its timing cache.

    Raises:
        BackendError: none fits; the message lists the existing plans, this machine and the build command.
    """
    command = build_command(engine_dir, device, key.backend)
    found = plan_directories(engine_dir, key.backend)
    if not found:
        raise BackendError(
            f"{engine_dir} has no {LIBRARIES[key.backend]} plans. Build them on this machine: {command}",
            kind="not_found",
        )
    sets = [(directory, read_record(directory)) for directory in found]
    matching = [(directory, record) for directory, record in sets if not record.key.differences(key)]
    if matching:
        return matching
    others = [f"  {record.key} (differs in {', '.join(record.key.differences(key))})" for _, record in sets]
    raise BackendError(
        f"{engine_dir} has {LIBRARIES[key.backend]} plans built for\n"
        + "\n".join(others)
        + f"\nbut this machine is\n  {key}\nPlans fit only the GPUs and versions they were built for. "
        f"Build them for this machine: {command}",
        kind="mismatch",
    )


def _parse(content: dict[str, Any], key_type: type[PlanKey] | type[RtxKey]) -> PlanRecord:
    refuse_unknown(content, PlanRecord)
    if "key" in content:
        refuse_unknown(convert(content["key"], dict[str, Any]), key_type, "key")
        content["key"] = convert(content["key"], key_type)
    record = convert(content, PlanRecord)
    for name, plan in record.plans.items():
        place = f"plans.{name}"
        # A foreign record must not name files outside its own directory.
        if not is_plain_name(plan.file):
            raise FieldError(f"plan file {plan.file!r} is not a plain file name", f"{place}.file")
        if any(len({len(shape) for shape in shapes}) != 1 for shapes in plan.ranges.values()):
            raise FieldError(f"{place}.ranges has shapes of different rank for one input", f"{place}.ranges")
        if plan.ranges.keys() != {spec.name for spec in plan.inputs}:
            raise FieldError(f"{place}.ranges does not match the inputs", f"{place}.ranges")
    return record
