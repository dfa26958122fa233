"""The protocol every backend implements, and the options all of them share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from runtime.config import check_whole
from runtime.engines.manifest import TensorSpec
from runtime.errors import ConfigError
from runtime.provenance import EngineReport
from runtime.types import Arrays, Tensor, Tensors

BackendName = Literal["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx", "tensorrt-ort"]
BACKENDS = get_args(BackendName)
ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx", "tensorrt-ort")
"""Backends that keep tensors on the GPU between engines."""

WITH_GRAPHS = ("cuda", "tensorrt-rtx")
"""Backends that can replay CUDA graphs."""

CpuPrecision = Literal["auto", "fp32", "bf16"]
ShapeKernels = Literal["lazy", "eager", "none"]


class Engine(Protocol):
    """A loaded engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def max_size(self, name: str) -> int | None:
        """Return the most images or boxes that an input accepts per call; None if there is no limit."""
        return None

    def report(self) -> EngineReport | None:
        """Describe where and how the engine runs, read from its session; None if the backend cannot tell."""
        return None

    def close(self) -> None:
        """Release all resources. The engine must not be run afterwards."""
        return

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """Run the engine once, mapping input tensors to output tensors by name.

        Args:
            feeds: arrays, or tensors that an engine of the same backend kept.
            keep: outputs that another engine will read and that need not be copied to the host. CPU backends ignore
                this and return arrays.

        Raises:
            BackendError: the backend failed; the error includes the backend's message.
        """
        ...

    def __call__(self, feeds: Mapping[str, Tensor]) -> Arrays:
        """Call ``run`` and return every output as an array."""
        return {name: np.asarray(tensor) for name, tensor in self.run(feeds).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """Options for running engines.

    Raises:
        ConfigError: a value is out of range.
    """

    threads: int | None = None
    """CPU threads per engine; None uses the backend's default (one per physical core)."""

    cpu_precision: CpuPrecision = "auto"
    """Arithmetic precision, ``openvino`` only. ``auto`` uses bf16 for the encoder and the detector if the processor
    supports it, and fp32 otherwise."""

    device: int = 0
    """Index of the GPU among those visible to the process, GPU backends only. A worker of a local cluster sees a single
    GPU."""

    cuda_graphs: bool = False
    """Replay CUDA graphs for repeated shapes: ``cuda`` (see ``runtime.engines.backends.ort_graphs``) and
    ``tensorrt-rtx``, whose library captures them."""

    shape_kernels: ShapeKernels = "lazy"
    """``tensorrt-rtx`` only: kernels for input shapes that are new. ``lazy`` uses general kernels until those for the
    shape are compiled in the background, ``eager`` waits for them, ``none`` always uses general kernels. Two kinds of
    kernels may round differently, so results are the same in every run only with ``eager`` and ``none``."""

    gpu_kernels: bool = False
    """GPU backends only: normalise contrast and assemble masks with compiled GPU kernels, see
    ``runtime.engines.kernels``. Off by default: no GPU has run them yet."""

    def __post_init__(self) -> None:
        check_whole("device", self.device, least=0)
        for name, kind in (("cpu_precision", CpuPrecision), ("shape_kernels", ShapeKernels)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(map(repr, get_args(kind)))}.",
                    field=name,
                )
        if self.threads is not None:
            check_whole("threads", self.threads, least=1)
