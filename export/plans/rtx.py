"""Builds with NVIDIA's TensorRT for RTX, whose ONNX parser and builder need neither a GPU nor a driver.

It shares API, parser and compiler with TensorRT, for the GPUs of ``CAPABILITIES``. So it shows on any machine what the
parser takes, which attentions become one kernel, and how much memory a plan moves and needs. It runs nothing here, and
other GPUs, of 8.0 and 9.0 among them, may get other kernels from TensorRT itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.plans.builder import BuildOptions, add_profile, make_config, parse_network
from export.plans.kernels import Kernel, parse_layers, read_kernels
from runtime.engines.backends.plan_record import Shape
from runtime.engines.backends.tensorrt import message_log, pop_errors
from runtime.errors import ConfigError
from runtime.extras import install_command

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that it builds for."""

INSTALL = install_command("rtx")


@dataclass(frozen=True, kw_only=True, slots=True)
class RtxPlan:
    """What one build told; the plan itself is not kept."""

    layers: tuple[dict[str, Any], ...]
    """As from ``EngineInspector``."""
    kernels: tuple[Kernel, ...]
    scratch_bytes: int
    """Memory that its intermediate tensors take on the GPU."""
    plan_bytes: int
    build_s: float


def load_rtx() -> Any:
    """The module of TensorRT for RTX.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import tensorrt_rtx_bindings
    except Exception as error:  # its libraries may be missing, which is no ImportError
        raise ExportError(f"the report needs TensorRT for RTX ({error}): {INSTALL}.") from error
    return tensorrt_rtx_bindings


def check_capability(capability: str) -> str:
    """A compute capability that it builds for.

    Raises:
        ConfigError: it builds for others.
    """
    if capability not in CAPABILITIES:
        raise ConfigError(f"compute_capability is {capability!r}; expected one of {', '.join(CAPABILITIES)}.")
    return capability


def build_without_gpu(path: Path, shapes: Mapping[str, Shape], capability: str = "8.6") -> RtxPlan:
    """Build an ONNX file for GPUs of a compute capability.

    Args:
        path: the file, as exported.
        shapes: of every input. The plan is for these alone, so that the sizes of all its tensors are known.
        capability: one of ``CAPABILITIES``.

    Raises:
        ConfigError: another capability.
        ExportError: TensorRT for RTX is missing, or its parser or builder failed; all that they pop_errors is in it.
    """
    rt, name = load_rtx(), f"SM{check_capability(capability).replace('.', '')}"
    log = _layer_log(rt)
    log.verbose.clear()
    builder = rt.Builder(log)
    network, _parser = parse_network(rt, builder, log, path)  # the weights are the parser's until the plan is built
    config = make_config(rt, builder, BuildOptions())
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rt.ComputeCapability, name), 0)
    add_profile(builder, config, {key: (shape,) * 3 for key, shape in shapes.items()}, path)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT for RTX {rt.__version__} cannot build {path} for {capability}: {pop_errors(log)}")
    layers = parse_layers(next(log.containing("LayerType: "), ""))
    scratch = re.search(r"Max Scratch Memory: (\d+)", next(log.containing("Max Scratch Memory: "), ""))
    if not layers or scratch is None:
        raise ExportError(f"TensorRT for RTX {rt.__version__} did not log the layers of its plan; 1.7 does.")
    return RtxPlan(
        layers=tuple(layers),
        kernels=tuple(read_kernels(layers)),
        scratch_bytes=int(scratch[1]),
        plan_bytes=plan.nbytes,
        build_s=time.perf_counter() - started,
    )


@cache
def _layer_log(rt: Any) -> Any:
    """The logger of the process, which also keeps what the builder tells in detail. One for all, as ``message_log``."""

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
