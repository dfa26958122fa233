"""Build of an engine directory's plans of TensorRT for RTX, on any machine, for GPUs of several kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.gates import GateCheck
from export.placing import publish
from export.plans.build import (
    Progress,
    check_layers,
    compare_plans,
    make_record,
    plan_ranges,
    read_buildable,
    write_plan,
)
from export.plans.builder import BuildOptions
from export.plans.layers import layer_types
from export.plans.operators import float32_nodes, half_products
from export.plans.rtx import build_without_gpu, check_capability
from runtime.engines.backends import cuda
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.gpus import count_gpus
from runtime.engines.backends.plan_keys import RtxKey
from runtime.engines.backends.plan_record import RTX_PLANS, PlanFile, PlanRecord
from runtime.engines.backends.tensorrt_rtx import RtxEngine, load_rtx, rtx_key
from runtime.engines.manifest import EngineName, Manifest
from runtime.errors import BackendError, ConfigError
from runtime.files.placing import remove_leftovers, staged
from runtime.ops.preprocess import check_image

WORKSTATIONS = ("8.6", "8.9", "12.0")
"""Compute capabilities of the RTX 30, 40 and 50 series and of their workstation cards, such as the A6000."""

NO_FLOAT32_PRODUCTS = "7.5"
"""Capability for which TensorRT for RTX has no float32 matrix product: "FP32 GEMM is not supported" (1.7.1)."""


def build_rtx_plans(
    directory: str | Path,
    options: BuildOptions | None = None,
    *,
    capabilities: Sequence[str] = WORKSTATIONS,
    image: NDArray[np.generic] | None = None,
    progress: Progress = lambda message: None,
) -> tuple[Path, PlanRecord]:
    """Build the plans of an engine directory for GPUs of some compute capabilities; needs no GPU.

    As with ``build_plans``, the plans are moved to their place in ``tensorrt-rtx/`` only after all checks have passed.
    If one of their GPUs is in this machine, they are run there and compared with onnxruntime on the CPU. Otherwise,
    only their layers are checked, and the record has no comparison.

    Args:
        directory: the engine directory.
        options: shapes and effort; ``device`` is the GPU to compare on.
        capabilities: compute capabilities to build for.
        image: image to compare on; default, the image in the package.
        progress: called with one line before each step.

    Returns:
        Directory of the plans, and their record.

    Raises:
        ConfigError: a capability is not supported.
        EngineError: the directory is damaged.
        BackendError: TensorRT for RTX is missing.
        InputError: ``image`` cannot be used.
        ExportError: the library cannot parse or build a graph.
        VerificationError: too few layers are in half precision, or outputs differ too much from onnxruntime's.
    """
    options = options or BuildOptions()
    if not capabilities:
        raise ConfigError("capabilities is empty; expected at least one compute capability, such as 8.6.")
    wanted = tuple(sorted({check_capability(one) for one in capabilities}, key=float))
    if image is not None:
        check_image(image)
    directory = Path(directory).resolve()
    manifest = read_buildable(directory, RTX_PLANS)
    if NO_FLOAT32_PRODUCTS in wanted:
        _check_products(directory, manifest)
    key = RtxKey(rtx=load_rtx().__version__, capabilities=wanted)
    progress(f"building for {key}")
    place = directory / RTX_PLANS / key.directory_name(manifest.precision)
    remove_leftovers(directory / RTX_PLANS, {place.name})
    with staged(place) as partial:
        plans = {
            name: _build(directory, manifest, name, wanted, options, partial, progress) for name in manifest.engines
        }
        checks = _compare(directory, manifest, partial, plans, key, options, image, progress)
        record = make_record(key, manifest, plans, options, checks)
        record.write(partial)
        publish(partial, place)
    return place, record


def _build(
    directory: Path,
    manifest: Manifest,
    name: EngineName,
    capabilities: tuple[str, ...],
    options: BuildOptions,
    partial: Path,
    progress: Progress,
) -> PlanFile:
    """Build one plan in ``partial``, and check its layers."""
    spec = manifest.engines[name]
    path = directory / spec.file
    progress(f"building {spec.file}")
    built = build_without_gpu(path, plan_ranges(manifest, spec, options), capabilities, options)
    layers = layer_types(built.layers, float32_nodes(path))
    check_layers(manifest, name, layers, path, progress)
    return replace(write_plan(partial, manifest, name, built.content, options), layers=layers.summary())


def _compare(
    directory: Path,
    manifest: Manifest,
    partial: Path,
    plans: Mapping[EngineName, PlanFile],
    key: RtxKey,
    options: BuildOptions,
    image: NDArray[np.generic] | None,
    progress: Progress,
) -> list[GateCheck]:
    """Compare the plans with onnxruntime on a GPU of this machine, if they are for it."""
    try:
        problems = key.differences(rtx_key(options.device)) if count_gpus() else ["GPU"]
    except BackendError as error:
        problems = [str(error)]
    if problems:
        progress("the plans are not run: this machine has no GPU that they are for")
        return []
    cuda.use_device(options.device)
    engines = {
        name: RtxEngine.from_plan(
            (partial / plan.file).read_bytes(), plan, directory, BackendOptions(device=options.device)
        )
        for name, plan in plans.items()
    }
    return compare_plans(directory, manifest, engines, options, image, progress)


def _check_products(directory: Path, manifest: Manifest) -> None:
    """Reject files with float32 products, for which the builder would fail.

    Raises:
        ExportError: a file has some.
    """
    counts = {spec.file: half_products(directory / spec.file) for spec in manifest.engines.values()}
    wrong = ", ".join(f"{of - half} in {file}" for file, (half, of) in counts.items() if half < of)
    if wrong:
        raise ExportError(
            f"TensorRT for RTX has no float32 matrix product for compute capability {NO_FLOAT32_PRODUCTS}; these "
            f"engines have {wrong}, which keep boxes and scores exact. Build for later GPUs, or use 'cuda'.",
            kind="unsupported",
            field="compute_capability",
        )
