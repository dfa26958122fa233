"""From one ONNX file to the bytes of one TensorRT plan.

Networks are strongly typed: the types in the file are the types that are computed in. TensorRT 10.x does so when asked
by ``STRONGLY_TYPED``; 11.x always does, and takes the flag all the same.
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
    """What plans are built for.

    Raises:
        ConfigError: a value outside its range.
    """

    max_batch: int = IMAGES_ON_GPU
    """Images that the encoder and the detector take at once; bounds the memory they need."""
    max_boxes: int = BOXES_ON_GPU
    """Boxes that the mask decoder takes at once."""
    optimization_level: int = 3
    """0 to 5: how long TensorRT searches for fast kernels."""
    workspace_mib: int | None = None
    """Memory that a kernel may take for itself while it runs, MiB; None leaves it to TensorRT (all there is)."""
    device: int = 0
    """Number of the GPU among those that the process sees."""

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
        options: level and workspace.
        cache: an earlier timing cache, or nothing.
        progress: called with a line at each phase of the build.

    Returns:
        The plan, and the timing cache with what this build measured.

    Raises:
        BackendError: TensorRT is missing.
        ExportError: the parser or the builder failed; all that they said is in it.
    """
    rt = load_tensorrt()
    log = message_log(rt)
    builder = rt.Builder(log)
    network, _parser = parse_network(rt, builder, log, path)  # the weights are the parser's until the plan is built
    config = make_config(rt, builder, options)
    config.progress_monitor = _monitor(rt, path.stem, progress)
    add_profile(builder, config, ranges, path)
    _use_cache(config, cache, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {rt.__version__} cannot build {path}: {pop_errors(log)}")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def parse_network(rt: Any, builder: Any, log: Any, path: Path) -> tuple[Any, Any]:
    """The strongly typed network of an ONNX file, and the parser, which owns its weights and must live as long.

    Args:
        rt: the module, ``tensorrt`` or that of TensorRT for RTX.
        builder, log: its ``Builder`` and the logger that this was made with.
        path: the file.

    Raises:
        ExportError: the parser failed; all that it said is in it.
    """
    network = builder.create_network(1 << int(rt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors = "\n  ".join(str(parser.get_error(index)) for index in range(parser.num_errors)) or pop_errors(log)
        raise ExportError(f"TensorRT {rt.__version__} cannot parse {path}:\n  {errors}", kind="unsupported")
    return network, parser


def make_config(rt: Any, builder: Any, options: BuildOptions) -> Any:
    """A builder's configuration: effort, workspace, float32 that is not TF32, and layers told in detail."""
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = rt.ProfilingVerbosity.DETAILED  # for the gate on the layers' types
    config.clear_flag(rt.BuilderFlag.TF32)  # float32 in the file means float32
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(rt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    return config


def add_profile(builder: Any, config: Any, ranges: Ranges, path: Path) -> None:
    """Tell a build which shapes the plan is for.

    Raises:
        ExportError: TensorRT does not take them.
    """
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in ranges.items():
        profile.set_shape(name, least, best, most)
    if not profile or config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT does not take the shapes {dict(ranges)} for {path}.", kind="unsupported")


def _use_cache(config: Any, cache: bytes, progress: Callable[[str], None]) -> None:
    """A cache measured on another GPU or version is refused by TensorRT; the build then measures anew."""
    loaded = config.create_timing_cache(cache)
    if loaded is None or not config.set_timing_cache(loaded, False):
        progress("the timing cache is of another GPU or version: measuring anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(rt: Any, name: str, progress: Callable[[str], None]) -> Any:
    """Tells of the outermost phases; TensorRT calls it from threads of its own."""

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
