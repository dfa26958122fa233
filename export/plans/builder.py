"""Build of one TensorRT plan from one ONNX file.

Networks are strongly typed: TensorRT computes in the types of the file. TensorRT 10.x needs the flag ``STRONGLY_TYPED``
for this; 11.x always does it, and accepts the flag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError
from runtime.config import check_whole
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.plan_record import Ranges
from runtime.engines.backends.tensorrt import load_tensorrt, message_log, pop_errors
from runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """Options of a build.

    Raises:
        ConfigError: a value is outside its range.
    """

    max_batch: int = IMAGES_ON_GPU
    """Most images per call of the encoder and the detector; bounds the memory they need."""
    max_boxes: int = BOXES_ON_GPU
    """Most boxes per call of the mask decoder."""
    optimization_level: int = 3
    """Effort of TensorRT's search for fast kernels, 0 to 5."""
    workspace_mib: int | None = None
    """Memory that a kernel may use while it runs, MiB; None allows all available memory, as TensorRT does."""
    device: int = 0
    """Number of the GPU among those visible to the process."""

    def __post_init__(self) -> None:
        check_whole("max_batch", self.max_batch, least=1)
        check_whole("max_boxes", self.max_boxes, least=1)
        check_whole("device", self.device, least=0)
        check_whole("optimization_level", self.optimization_level, least=0)
        if self.optimization_level > 5:
            raise ConfigError(
                f"optimization_level is {self.optimization_level}; expected 0 to 5.", field="optimization_level"
            )
        if self.workspace_mib is not None:
            check_whole("workspace_mib", self.workspace_mib, least=1)


def build_plan(
    path: Path, ranges: Ranges, options: BuildOptions, cache: bytes, progress: Callable[[str], None]
) -> tuple[bytes, bytes]:
    """Build the plan of an ONNX file for this machine's GPU.

    Args:
        path: the file, as exported.
        ranges: the optimisation profile.
        options: effort and workspace.
        cache: an earlier timing cache, or empty bytes.
        progress: called with one line per phase of the build.

    Returns:
        The plan, and the timing cache extended by this build's measurements.

    Raises:
        BackendError: TensorRT is missing.
        ExportError: the parser or the builder failed; the message contains all their errors.
    """
    rt = load_tensorrt()
    log = message_log(rt)
    builder = rt.Builder(log)
    network, _parser = parse_network(rt, builder, log, path)  # the parser owns the weights until the plan is built
    config = make_config(rt, builder, options)
    config.progress_monitor = _monitor(rt, path.stem, progress)
    add_profile(builder, config, ranges, path)
    _use_cache(config, cache, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {rt.__version__} cannot build {path}: {pop_errors(log)}")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def parse_network(rt: Any, builder: Any, log: Any, path: Path) -> tuple[Any, Any]:
    """Parse an ONNX file into a strongly typed network; also return the parser, which owns its weights.

    The parser must live as long as the network.

    Args:
        rt: the module ``tensorrt``, or that of TensorRT for RTX.
        builder, log: a ``Builder`` of this module, and its logger.
        path: the file.

    Raises:
        ExportError: the parser failed; the message contains all its errors.
    """
    network = builder.create_network(1 << int(rt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors = "\n  ".join(str(parser.get_error(index)) for index in range(parser.num_errors)) or pop_errors(log)
        raise ExportError(f"TensorRT {rt.__version__} cannot parse {path}:\n  {errors}", kind="unsupported")
    return network, parser


def make_config(rt: Any, builder: Any, options: BuildOptions) -> Any:
    """Create a builder's configuration: effort, workspace, no TF32, and detailed information about layers."""
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = rt.ProfilingVerbosity.DETAILED  # the gate on layer types reads it
    config.clear_flag(rt.BuilderFlag.TF32)  # float32 in the file must stay float32
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(rt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    return config


def add_profile(builder: Any, config: Any, ranges: Ranges, path: Path) -> None:
    """Add the shapes that the plan is for to a configuration.

    Raises:
        ExportError: TensorRT rejects the shapes.
    """
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in ranges.items():
        profile.set_shape(name, least, best, most)
    if not profile or config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT rejects the shapes {dict(ranges)} for {path}.", kind="unsupported")


def _use_cache(config: Any, cache: bytes, progress: Callable[[str], None]) -> None:
    """Set the timing cache; TensorRT rejects one from another GPU or version, and the build then measures again."""
    loaded = config.create_timing_cache(cache)
    if loaded is None or not config.set_timing_cache(loaded, False):
        progress("the timing cache belongs to another GPU or version: measuring again")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(rt: Any, name: str, progress: Callable[[str], None]) -> Any:
    """Create a monitor that reports the outermost phases; TensorRT calls it from its own threads."""

    class Monitor(rt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            rt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                progress(f"{name}: {phase_name}, {num_steps} steps")

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
