"""Builds with NVIDIA's TensorRT for RTX, whose ONNX parser and builder need neither a GPU nor a driver.

It shares the API, parser and compiler of TensorRT, for the GPUs of ``CAPABILITIES``. So any machine can show what the
parser accepts, which attentions become one kernel, and how much memory a plan moves and needs. Nothing is run. For
other GPUs, including compute capabilities 8.0 and 9.0, TensorRT itself may choose other kernels.
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
"""Compute capabilities that it can build for."""

INSTALL = install_command("rtx")


@dataclass(frozen=True, kw_only=True, slots=True)
class RtxPlan:
    """Results of one build; the plan itself is not kept."""

    layers: tuple[dict[str, Any], ...]
    """Layers in the form of ``EngineInspector``."""
    kernels: tuple[Kernel, ...]
    scratch_bytes: int
    """GPU memory for intermediate tensors, in bytes."""
    plan_bytes: int
    build_s: float


def load_rtx() -> Any:
    """Import the module of TensorRT for RTX.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import tensorrt_rtx_bindings
    except Exception as error:  # missing libraries raise other errors than ImportError
        raise ExportError(f"the report needs TensorRT for RTX ({error}). Install it with: {INSTALL}.") from error
    return tensorrt_rtx_bindings


def check_capability(capability: str) -> str:
    """Check a compute capability and return it.

    Raises:
        ConfigError: TensorRT for RTX does not build for it.
    """
    if capability not in CAPABILITIES:
        raise ConfigError(f"compute_capability is {capability!r}; expected one of {', '.join(CAPABILITIES)}.")
    return capability


def build_without_gpu(path: Path, shapes: Mapping[str, Shape], capability: str = "8.6") -> RtxPlan:
    """Build an ONNX file for GPUs of a compute capability.

    Args:
        path: the file, as exported.
        shapes: shape of each input. The plan is for these shapes only, so the sizes of all its tensors are known.
        capability: one of ``CAPABILITIES``.

    Raises:
        ConfigError: the capability is not supported.
        ExportError: TensorRT for RTX is missing, or its parser or builder failed; the message contains all errors.
    """
    rt, name = load_rtx(), f"SM{check_capability(capability).replace('.', '')}"
    log = _layer_log(rt)
    log.verbose.clear()
    builder = rt.Builder(log)
    network, _parser = parse_network(rt, builder, log, path)  # the parser owns the weights until the plan is built
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
        raise ExportError(
            f"TensorRT for RTX {rt.__version__} did not log the layers of its plan; expected a list as from 1.7. "
            "Install version 1.7."
        )
    return RtxPlan(
        layers=tuple(layers),
        kernels=tuple(read_kernels(layers)),
        scratch_bytes=int(scratch[1]),
        plan_bytes=plan.nbytes,
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
