"""The protocol every backend implements, and the options all of them share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from runtime.config import check_whole
from runtime.engines.manifest import TensorSpec
from runtime.errors import ConfigError
from runtime.types import Arrays, Tensor, Tensors

BackendName = Literal["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-ort"]
BACKENDS = get_args(BackendName)
ON_GPU = ("cuda", "tensorrt", "tensorrt-ort")
"""Those whose tensors stay on a GPU between the engines."""

CpuPrecision = Literal["auto", "fp32", "bf16"]


class Engine(Protocol):
    """A loaded engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def max_size(self, name: str) -> int | None:
        """The most images or boxes that an input takes in one call; None if the engine has no limit."""
        return None

    def close(self) -> None:
        """Release what the engine holds, if it holds anything. It is not run afterwards."""
        return

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """Run once: tensors by input name in, tensors by output name out.

        Args:
            feeds: arrays, or tensors that an engine of the same backend kept.
            keep: outputs that go on to another engine and need not come to the host. A backend that cannot keep them,
                as those on the CPU, gives arrays all the same.

        Raises:
            BackendError: the backend failed; its own message is kept.
        """
        ...

    def __call__(self, feeds: Mapping[str, Tensor]) -> Arrays:
        """``run``, with every output as an array."""
        return {name: np.asarray(tensor) for name, tensor in self.run(feeds).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """How engines are run.

    Raises:
        ConfigError: a value outside its range.
    """

    threads: int | None = None
    """CPU threads per engine; None leaves it to the backend (one per physical core)."""

    cpu_precision: CpuPrecision = "auto"
    """``openvino`` only: what it computes in; auto is bf16 for encoder and detector on processors that have it, else
    fp32."""

    device: int = 0
    """Backends of GPUs: number of the GPU among those that the process sees; a worker of a local cluster sees
    but one."""

    cuda_graphs: bool = False
    """``cuda`` only: replay CUDA graphs for shapes that come again; see ``runtime.engines.backends.ort_graphs``."""

    def __post_init__(self) -> None:
        check_whole("device", self.device, least=0)
        if self.cpu_precision not in get_args(CpuPrecision):
            raise ConfigError(
                f"cpu_precision is {self.cpu_precision!r}; expected one of "
                f"{', '.join(map(repr, get_args(CpuPrecision)))}.",
                field="cpu_precision",
            )
        if self.threads is not None:
            check_whole("threads", self.threads, least=1)
