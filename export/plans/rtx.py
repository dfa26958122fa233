"""Builds with NVIDIA's TensorRT for RTX, whose ONNX parser and builder need neither a GPU nor a driver.

It shares the API, parser and compiler of TensorRT, for the GPUs of ``CAPABILITIES``. So any machine can show what the
parser accepts, which attentions become one kernel, and how much memory a plan moves and needs. Nothing is run. For
other GPUs, including compute capabilities 8.0 and 9.0, TensorRT itself may choose other kernels.

Each build runs in a process of its own, because Polygraphy serves one library per process (``export.plans.builder``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.plans.builder import BuildOptions, build_network, config_arguments, load_polygraphy, make_profile
from export.plans.kernels import Kernel, parse_layers, read_kernels
from runtime.engines.backends.plan_record import Ranges
from runtime.engines.backends.tensorrt import message_log
from runtime.engines.backends.tensorrt_rtx import CAPABILITIES, load_rtx
from runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class RtxPlan:
    """Results of one build."""

    content: bytes
    """The plan."""
    layers: tuple[dict[str, Any], ...]
    """Layers in the form of ``EngineInspector``, for the first of the compute capabilities."""
    kernels: tuple[Kernel, ...]
    scratch_bytes: int
    """GPU memory for intermediate tensors, in bytes."""
    build_s: float


def check_capability(capability: str) -> str:
    """Check a compute capability and return it.

    Raises:
        ConfigError: TensorRT for RTX does not build for it.
    """
    if capability not in CAPABILITIES:
        raise ConfigError(f"compute_capability is {capability!r}; expected one of {', '.join(CAPABILITIES)}.")
    return capability


def build_without_gpu(
    path: Path, ranges: Ranges, capabilities: Sequence[str] = ("8.6",), options: BuildOptions | None = None
) -> RtxPlan:
    """Build an ONNX file for GPUs of some compute capabilities.

    Args:
        path: the file, as exported.
        ranges: the optimisation profile. If the three shapes of each input are equal, all tensors have known sizes.
        capabilities: some of ``CAPABILITIES``.
        options: effort and workspace.

    Raises:
        ConfigError: a capability is not supported.
        BackendError: TensorRT for RTX or Polygraphy is missing.
        ExportError: the parser or the builder failed; the message contains all errors.
    """
    for capability in capabilities:
        check_capability(capability)
    load_rtx()  # raise the error here, and not in the other process
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_build, path, dict(ranges), tuple(capabilities), options).result()
        except BrokenProcessPool as error:
            raise ExportError(f"TensorRT for RTX ended its process while it built {path}.") from error


def _build(path: Path, ranges: Ranges, capabilities: tuple[str, ...], options: BuildOptions | None) -> RtxPlan:
    rt = load_rtx()
    log = _layer_log(rt)
    trt = load_polygraphy(log, rtx=True)
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

    configure = trt.PostprocessConfig(
        CreateConfigRTX(
            compute_capabilities=[tuple(map(int, capability.split("."))) for capability in capabilities],
            profiles=[make_profile(trt, ranges)],
            **config_arguments(rt, options or BuildOptions()),
        ),
        lambda _builder, _network, config: config.clear_flag(rt.BuilderFlag.TF32),  # float32 must stay float32
    )
    started = time.perf_counter()
    plan, _ = build_network(trt, path, configure, log)
    layers = parse_layers(next(log.containing("LayerType: "), ""))
    scratch = re.search(r"Max Scratch Memory: (\d+)", next(log.containing("Max Scratch Memory: "), ""))
    if not layers or scratch is None:
        raise ExportError(
            f"TensorRT for RTX {rt.__version__} did not log the layers of its plan; expected a list as from 1.7. "
            "Install version 1.7."
        )
    return RtxPlan(
        content=plan,
        layers=tuple(layers),
        kernels=tuple(read_kernels(layers)),
        scratch_bytes=int(scratch[1]),
        build_s=time.perf_counter() - started,
    )


@cache
def _layer_log(rt: Any) -> Any:
    """Create the logger of the process, which also keeps verbose messages; one for all, as in ``message_log``."""

    class LayerLog(type(message_log(rt))):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.verbose: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.verbose.append(msg)
            super().log(severity, msg)

        def containing(self, words: str) -> Iterator[str]:
            return (message for message in self.verbose if words in message)

    return LayerLog()
