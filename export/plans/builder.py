"""Build of one TensorRT plan from one ONNX file, through NVIDIA's Polygraphy.

Networks are strongly typed: TensorRT computes in the types of the file. TensorRT 10.x needs the flag ``STRONGLY_TYPED``
for this; 11.x always does it, and accepts the flag.

Polygraphy parses the file, makes the profile and the configuration, and builds. Two things stay here. The logger is
that of the runtime, because TensorRT has one per process, and exceptions need its errors. The timing cache is loaded
and returned here, because Polygraphy ignores a cache of another GPU without a word, and writes its file in place.

Polygraphy serves either TensorRT or TensorRT for RTX. It decides when it is first imported, from an environment
variable, so ``export.plans.rtx`` builds in a process of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.polygraphy_log import POLYGRAPHY_LOG, quiet_polygraphy
from runtime.config import check_whole
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.plan_record import Ranges
from runtime.engines.backends.tensorrt import load_tensorrt, message_log, pop_errors
from runtime.errors import BackendError, ConfigError
from runtime.extras import install_command

RTX_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
"""Environment variable by which Polygraphy uses TensorRT for RTX."""


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
        BackendError: TensorRT or Polygraphy is missing.
        ExportError: the parser or the builder failed; the message contains all their errors.
    """
    rt = load_tensorrt()
    log = message_log(rt)
    trt = load_polygraphy(log, rtx=False)
    configure = trt.PostprocessConfig(
        trt.CreateConfig(
            profiles=[make_profile(trt, ranges)],
            progress_monitor=_monitor(rt, path.stem, progress),
            **config_arguments(rt, options),
        ),
        lambda _builder, _network, config: _use_cache(config, cache, progress),
    )
    plan, config = build_network(trt, path, configure, log)
    return plan, bytes(config.get_timing_cache().serialize())


def load_polygraphy(log: Any, *, rtx: bool) -> Any:
    """Import ``polygraphy.backend.trt``, and give it a logger.

    Args:
        log: TensorRT's logger of this process.
        rtx: whether the module must use TensorRT for RTX.

    Raises:
        BackendError: Polygraphy is missing, or the process already uses it with the other library.
    """
    if rtx:
        os.environ[RTX_SWITCH] = "1"
    try:
        from polygraphy import config
        from polygraphy.backend import trt
        from polygraphy.backend.trt import util
    except ImportError as error:
        install = install_command("rtx" if rtx else "tensorrt")
        raise BackendError(f"plans are built with Polygraphy ({error}): {install}.", kind="not_installed") from error
    if rtx != config.USE_TENSORRT_RTX:
        raise BackendError(
            f"Polygraphy uses {'TensorRT for RTX' if config.USE_TENSORRT_RTX else 'TensorRT'} in this process; "
            f"expected the other library. Unset the environment variable {RTX_SWITCH}, and build in a new process.",
            kind="conflict",
        )
    quiet_polygraphy()
    util.TRT_LOGGER = log
    return trt


def make_profile(trt: Any, ranges: Ranges) -> Any:
    """Create the profile of a plan's shapes. Args: trt: Polygraphy's module. ranges: the shapes by input."""
    profile = trt.Profile()
    for name, (least, best, most) in ranges.items():
        profile.add(name, least, best, most)
    return profile


def config_arguments(rt: Any, options: BuildOptions) -> dict[str, Any]:
    """Return the arguments of Polygraphy's ``CreateConfig`` for both libraries: effort, workspace, details."""
    limit = None if options.workspace_mib is None else {rt.MemoryPoolType.WORKSPACE: options.workspace_mib << 20}
    return {
        "builder_optimization_level": options.optimization_level,
        "profiling_verbosity": rt.ProfilingVerbosity.DETAILED,  # the gate on layer types reads it
        "memory_pool_limits": limit,
    }


def build_network(trt: Any, path: Path, configure: Callable[[Any, Any], Any], log: Any) -> tuple[bytes, Any]:
    """Parse and build one file.

    Args:
        trt: Polygraphy's module.
        path: the file.
        configure: creates the configuration from builder and network.
        log: TensorRT's logger of this process.

    Returns:
        The plan, and the configuration that it was built with.

    Raises:
        ExportError: the parser or the builder failed, or TensorRT rejects the profile; the message contains all errors.
    """
    from polygraphy.exception import PolygraphyException

    library = f"{trt.util.trt.__name__} {trt.util.trt.__version__}"
    with _polygraphy_errors() as errors:
        try:
            parsed = trt.NetworkFromOnnxPath(str(path), strongly_typed=True)()
        except PolygraphyException as error:
            raise ExportError(
                f"{library} cannot parse {path}:\n  " + "\n  ".join(errors or [str(error)]), kind="unsupported"
            ) from error
        builder, network, _parser = parsed  # the parser owns the weights until the plan is built
        try:
            config = configure(builder, network)
            plan = trt.EngineBytesFromNetwork(parsed, config=config)()
        except PolygraphyException as error:
            raise ExportError(f"{library} cannot build {path}: {pop_errors(log)} ({error})") from error
    return bytes(plan), config


@contextmanager
def _polygraphy_errors() -> Iterator[list[str]]:
    """Collect what Polygraphy logs as errors; its other messages go to ``logging``."""
    found: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno == logging.ERROR:
            found.append(record.getMessage().removeprefix("[E] "))
        return record.levelno < logging.WARNING

    POLYGRAPHY_LOG.addFilter(keep)
    try:
        yield found
    finally:
        POLYGRAPHY_LOG.removeFilter(keep)


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
