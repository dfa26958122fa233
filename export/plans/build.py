"""Build of an engine directory's TensorRT plans: in a temporary directory, checked on this GPU, then moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError, VerificationError
from export.gates import GateCheck
from export.placing import publish
from export.plans.builder import BuildOptions, build_plan
from export.plans.check import check_plans
from export.plans.layers import LayerTypes, check_half, read_layers
from export.plans.operators import find_problems, float32_nodes, half_products, operator_table
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.cuda import use_device
from runtime.engines.backends.input_shapes import profile_ranges
from runtime.engines.backends.plan_keys import Key, PlanBackend
from runtime.engines.backends.plan_record import PLANS, PlanFile, PlanRecord, Ranges
from runtime.engines.backends.tensorrt import TensorRtEngine, load_tensorrt, machine_key
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import EngineFile, EngineName, Manifest, read_manifest, sha256_file
from runtime.files.placing import remove_leftovers, staged, write_whole
from runtime.ops.preprocess import check_image

Progress = Callable[[str], None]


def check_buildable(directory: str | Path, options: BuildOptions, backend: PlanBackend = "tensorrt") -> Iterator[str]:
    """Describe what a build would do; needs neither TensorRT nor a GPU.

    Yields:
        One line per engine and per input.

    Raises:
        EngineError: the directory is damaged.
        ExportError: TensorRT would reject a graph; the message names every reason.
    """
    directory = Path(directory)
    manifest = read_buildable(directory, backend)
    table = operator_table()
    for spec in manifest.engines.values():
        half, products = half_products(directory / spec.file)
        listed = "fused attention, which the list of operators lacks"
        if spec.attention == "plain":
            listed = f"all operators in the ONNX parser's list of TensorRT {table['version']}"
        yield f"{spec.file}: {listed}; {half} of {products} products in half precision"
        for name, shapes in plan_ranges(manifest, spec, options).items():
            yield f"  {name}: " + ", ".join(
                f"{word} {list(shape)}" for word, shape in zip(("least", "best", "most"), shapes, strict=True)
            )


def build_plans(
    directory: str | Path,
    options: BuildOptions | None = None,
    *,
    image: NDArray[np.generic] | None = None,
    progress: Progress = lambda message: None,
) -> tuple[Path, PlanRecord]:
    """Build the plans of an engine directory for this machine.

    The plans are written to a temporary directory inside ``tensorrt/`` and moved to their place there only after all
    checks have passed. A failure leaves no plan behind, and earlier plans unchanged. The timing cache is kept in any
    case, because it shortens the next build; without a record beside it, it is not mistaken for plans.

    Args:
        directory: the engine directory.
        options: shapes and effort.
        image: image to check on; default, the image in the package.
        progress: called with one line before each step.

    Returns:
        Directory of the plans, and their record.

    Raises:
        EngineError: the directory is damaged.
        BackendError: TensorRT, the driver or the GPU is missing.
        InputError: ``image`` cannot be used.
        ExportError: TensorRT cannot parse or build a graph.
        VerificationError: too few layers are in half precision, or outputs differ too much from onnxruntime's.
    """
    options = options or BuildOptions()
    if image is not None:
        check_image(image)
    directory = Path(directory).resolve()
    manifest = read_buildable(directory)
    key = machine_key(options.device)
    use_device(options.device)  # the builder measures on the current GPU
    progress(f"building for {key}")
    name = key.directory_name(manifest.precision)
    place, cache = directory / PLANS / name, directory / PLANS / f"{name}.timing"
    remove_leftovers(directory / PLANS, {place.name, cache.name})
    with staged(place) as partial:
        plans, engines = {}, {}
        for engine in manifest.engines:
            plans[engine], engines[engine] = _build(directory, manifest, engine, options, partial, cache, progress)
        checks = compare_plans(directory, manifest, engines, options, image, progress)
        record = make_record(key, manifest, plans, options, checks)
        record.write(partial)
        publish(partial, place)
    return place, record


def compare_plans(
    directory: Path,
    manifest: Manifest,
    engines: Mapping[EngineName, Engine],
    options: BuildOptions,
    image: NDArray[np.generic] | None,
    progress: Progress,
) -> list[GateCheck]:
    """Compare loaded plans with onnxruntime on the CPU; see ``build_plans``.

    Raises:
        VerificationError: outputs differ too much.
    """
    checks = check_plans(
        directory,
        manifest,
        engines,
        max_batch=options.max_batch,
        max_boxes=options.max_boxes,
        image=image,
        on_engine=lambda name: progress(f"comparing {name} with onnxruntime on the CPU"),
    )
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise VerificationError("the plans do not agree with onnxruntime on the CPU:\n  " + "\n  ".join(failed))
    return checks


def make_record(
    key: Key,
    manifest: Manifest,
    plans: Mapping[EngineName, PlanFile],
    options: BuildOptions,
    checks: Iterable[GateCheck],
) -> PlanRecord:
    """Create the record of a set of plans that was built now."""
    return PlanRecord(
        key=key,
        precision=manifest.precision,
        plans=plans,
        options=asdict(options),
        verification=tuple(asdict(check) for check in checks),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def write_plan(partial: Path, manifest: Manifest, name: EngineName, content: bytes, options: BuildOptions) -> PlanFile:
    """Write a plan, and return its entry for the record, without layers."""
    spec = manifest.engines[name]
    file = partial / f"{name}.plan"
    file.write_bytes(content)
    return PlanFile(
        file=file.name,
        sha256=sha256_file(file),
        onnx_sha256=spec.sha256,
        inputs=spec.inputs,
        outputs=spec.outputs,
        ranges=plan_ranges(manifest, spec, options),
    )


def read_buildable(directory: Path, backend: PlanBackend = "tensorrt") -> Manifest:
    """Read the manifest of a directory and check that the library of a backend accepts its graphs.

    TensorRT for RTX also takes fused attention: its parser knows the operator.

    Raises:
        EngineError: the directory is damaged.
        ExportError: TensorRT would reject a graph.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    fused = [spec.file for spec in manifest.engines.values() if spec.attention == "fused"]
    if fused and backend == "tensorrt":
        raise ExportError(
            f"{directory} was exported with fused attention: {', '.join(fused)} contain an operator specific to "
            "onnxruntime; expected plain attention. Export with: cellsam-engine export --attention plain.",
            kind="unsupported",
            field="attention",
        )
    if manifest.precision == "int8":
        raise ExportError(
            f"{directory} computes in 8-bit integers whose zero points are not zero, a form for CPUs that TensorRT's "
            "parser rejects; expected another precision. Export with: cellsam-engine export --precision fp16.",
            kind="unsupported",
            field="precision",
        )
    plain = [spec for spec in manifest.engines.values() if spec.attention == "plain"]
    problems = [problem for spec in plain for problem in find_problems(directory / spec.file)]
    if problems:
        raise ExportError("TensorRT would reject these graphs:\n  " + "\n  ".join(problems), kind="unsupported")
    return manifest


def plan_ranges(manifest: Manifest, spec: EngineFile, options: BuildOptions) -> Ranges:
    """Return the optimisation profile of one engine."""
    return profile_ranges(spec, manifest.grid_size, max_batch=options.max_batch, max_boxes=options.max_boxes)


def _build(
    directory: Path,
    manifest: Manifest,
    name: EngineName,
    options: BuildOptions,
    partial: Path,
    cache: Path,
    progress: Progress,
) -> tuple[PlanFile, TensorRtEngine]:
    """Build one plan in ``partial``, load it, and check its layers."""
    spec = manifest.engines[name]
    path = directory / spec.file
    progress(f"building {spec.file}")
    earlier = cache.read_bytes() if cache.is_file() else b""
    content, timings = build_plan(path, plan_ranges(manifest, spec, options), options, earlier, progress)
    write_whole(cache, lambda temporary: temporary.write_bytes(timings))
    plan = write_plan(partial, manifest, name, content, options)
    engine = TensorRtEngine.from_plan(content, plan, directory, BackendOptions(device=options.device))
    layers = _inspect(engine, path)
    check_layers(manifest, name, layers, path, progress)
    return replace(plan, layers=layers.summary()), engine


def _inspect(engine: TensorRtEngine, path: Path) -> LayerTypes:
    inspector = engine.cuda_engine.create_engine_inspector()
    information = inspector.get_engine_information(load_tensorrt().LayerInformationFormat.JSON)
    return read_layers(information, float32_nodes(path))


def check_layers(manifest: Manifest, name: EngineName, layers: LayerTypes, path: Path, progress: Progress) -> None:
    """Check that the plan of a half-precision export computes in half precision.

    Raises:
        VerificationError: too many layers are in float32.
    """
    if manifest.precision == "fp16":
        progress(
            f"{name}: {layers.half_share:.1%} of the layers in half precision, {len(layers.islands)} in float32 by "
            f"design, {len(layers.float32)} others in float32"
        )
        check_half(name, layers, half_products(path))
