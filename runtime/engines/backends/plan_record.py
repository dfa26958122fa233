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
from typing import Any, get_args

from runtime.engines.manifest import EngineName, Precision, TensorSpec
from runtime.errors import BackendError

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
    return f"cellsam-engine build {directory}" + (f" --device {device}" if device else "")


def read_record(directory: Path) -> PlanRecord:
    """Read the record of one set of plans.

    Raises:
        BackendError: it cannot be read, is damaged or of another schema.
    """
    path = directory / RECORD_NAME
    again = f"Build the plans again: {build_command(directory.parent.parent)}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise BackendError(f"{path} has schema {schema!r}; this version reads {SCHEMA}. {again}")
        return _parse(content)
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BackendError(f"{path} is damaged ({error!r}). {again}") from error


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
        raise BackendError(f"no TensorRT plan for this machine was built from this {path}. {again}")
    file, plan = found[0]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BackendError(f"{file} cannot be read: {error}. {again}") from error
    if hashlib.sha256(content).hexdigest() != plan.sha256:
        raise BackendError(f"{file} was altered after it was built. {again}")
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
        raise BackendError(f"{engine_dir} has no TensorRT plans. Build them on this machine: {command}")
    sets = [(directory, read_record(directory)) for directory in found]
    matching = [(directory, record) for directory, record in sets if record.key == key]
    if matching:
        return matching
    others = [f"  {record.key} (differs in {', '.join(_differences(record.key, key))})" for _, record in sets]
    raise BackendError(
        f"{engine_dir} has TensorRT plans built for\n"
        + "\n".join(others)
        + f"\nbut this machine is\n  {key}\nPlans fit one kind of GPU and one version only. "
        f"Build them for this machine: {command}"
    )


def _differences(built_for: PlanKey, here: PlanKey) -> list[str]:
    return [f.name for f in fields(PlanKey) if getattr(built_for, f.name) != getattr(here, f.name)]


def _parse(content: dict[str, Any]) -> PlanRecord:
    key = PlanKey(**content.pop("key"))
    plans = {name: _parse_plan(name, plan) for name, plan in content.pop("plans").items()}
    verification = tuple(content.pop("verification", ()))
    if content["precision"] not in get_args(Precision):
        raise ValueError(f"precision is {content['precision']!r}")
    return PlanRecord(key=key, plans=plans, verification=verification, **content)


def _parse_plan(name: str, plan: dict[str, Any]) -> PlanFile:
    if name not in get_args(EngineName):
        raise ValueError(f"engine {name!r} is unknown")
    # A record from elsewhere must not name files outside its own directory.
    if Path(plan["file"]).name != plan["file"] or "\\" in plan["file"]:
        raise ValueError(f"plan file {plan['file']!r} is not a plain file name")
    ranges = {tensor: tuple(tuple(map(int, shape)) for shape in shapes) for tensor, shapes in plan["ranges"].items()}
    if any(len(shapes) != 3 or len({len(shape) for shape in shapes}) != 1 for shapes in ranges.values()):
        raise ValueError("a range is not three shapes of one rank")
    inputs, outputs = (
        tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in plan[kind])
        for kind in ("inputs", "outputs")
    )
    if ranges.keys() != {spec.name for spec in inputs}:
        raise ValueError("ranges are not those of the inputs")
    return PlanFile(**{**plan, "ranges": ranges, "inputs": inputs, "outputs": outputs})
