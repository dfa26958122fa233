"""The protocol every backend implements, and the choice among backends."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from runtime.backends.choice import choose_backend
from runtime.config import check_whole
from runtime.errors import BackendError, ConfigError, EngineError
from runtime.manifest import EngineFile, TensorSpec


class DeviceTensor(Protocol):
    """An output that stayed where it was computed; the engines of one backend take each other's as inputs."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy in the host's memory."""
        ...


Tensor = NDArray[Any] | DeviceTensor
Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, Tensor]

BackendName = Literal["auto", "cpu", "openvino", "cuda", "tensorrt", "tensorrt-ort"]
BACKENDS = get_args(BackendName)
ON_GPU = ("cuda", "tensorrt", "tensorrt-ort")
"""Those whose tensors stay on a GPU between the engines."""

ENVIRONMENT = "CELLSAM_BACKEND"
"""Environment variable that says what ``auto`` stands for."""

CpuPrecision = Literal["auto", "fp32", "bf16"]

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """A loaded engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def most(self, name: str) -> int | None:
        """Most images or boxes that an input takes in one call; None where the engine knows no bound."""
        return None

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
    """``cuda`` only: replay CUDA graphs for shapes that come again; see ``runtime.backends.ort_graphs``."""

    def __post_init__(self) -> None:
        check_whole("device", self.device, least=0)
        if self.cpu_precision not in get_args(CpuPrecision):
            raise ConfigError(
                f"cpu_precision is {self.cpu_precision!r}; expected one of "
                f"{', '.join(map(repr, get_args(CpuPrecision)))}."
            )
        if self.threads is not None:
            check_whole("threads", self.threads, least=1)


def resolve_backend(name: str, directory: Path, device: int = 0) -> str:
    """The backend that ``name`` stands for.

    ``auto`` is the one that the environment variable ``CELLSAM_BACKEND`` names or, without it, the fastest one that can
    run here; the log says which and why, as a warning where a GPU or TensorRT plans are left unused.

    Args:
        name: one of ``BACKENDS``.
        directory: the engines.
        device: the GPU that a backend for GPUs would use.

    Raises:
        BackendError: no such backend.
        EngineError: there is a GPU, but the manifest or what must be beside TensorRT plans is not usable.
    """
    said = "backend"
    if name == "auto" and ENVIRONMENT in os.environ:
        said, name = ENVIRONMENT, os.environ[ENVIRONMENT]
    if name not in BACKENDS:
        raise BackendError(f"{said} is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
    if name != "auto":
        if said == ENVIRONMENT:
            _log.info("backend 'auto' is %r: %s says so.", name, ENVIRONMENT)
        return name
    chosen, reason = choose_backend(directory, device)
    level = logging.WARNING if "not used" in reason else logging.INFO
    _log.log(level, "backend 'auto' is %r: %s.", chosen, reason)
    return chosen


def load_engine(path: Path, spec: EngineFile, *, backend: str, options: BackendOptions) -> Engine:
    """Load one engine file and compare its inputs and outputs with the manifest.

    Raises:
        BackendError: the backend is unknown or cannot load the file, or is one of GPUs and the file is in integers.
        ConfigError: ``cuda_graphs`` with a backend other than ``cuda``.
        EngineError: the file's inputs or outputs are not those the manifest lists.
    """
    if spec.integers and backend in ON_GPU:
        raise BackendError(
            f"{path.name} computes in 8-bit integers, in a form for CPUs; the backend is {backend!r}. "
            "Use 'openvino' or 'cpu', or export for the GPU: cellsam-engine export --precision fp16."
        )
    engine = _load(path, backend, options) if spec.attention == "plain" else _load_fused(path, backend, options)
    for kind in ("inputs", "outputs"):
        expected: tuple[TensorSpec, ...] = getattr(spec, kind)
        found: tuple[TensorSpec, ...] = getattr(engine, kind)
        if _comparable(expected) != _comparable(found):
            raise EngineError(
                f"{path} has {kind} {_describe(found)}; the manifest says {_describe(expected)}. "
                "Export the engines again."
            )
    return engine


def _load_fused(path: Path, backend: str, options: BackendOptions) -> Engine:
    """``_load`` of a file with operators of onnxruntime's own: other backends say what to do instead."""
    fused = f"{path.name} has fused attention, an operator of onnxruntime's own"
    again = "Use the backend 'cuda' or 'cpu', or export again with --attention plain."
    if backend.startswith("tensorrt"):  # onnxruntime would cut the graph at every attention and leave that to CUDA
        raise BackendError(f"{fused}, which TensorRT does not know. {again}")
    try:
        return _load(path, backend, options)
    except BackendError as error:
        if backend == "openvino":
            raise BackendError(f"{error} {fused}, which OpenVINO of before mid-2026 does not know. {again}") from error
        raise


def _load(path: Path, backend: str, options: BackendOptions) -> Engine:
    if options.cuda_graphs and backend != "cuda":
        raise ConfigError(
            f"cuda_graphs is for the backend 'cuda', and {backend!r} was named or chosen. Name 'cuda', or leave "
            "cuda_graphs out."
        )
    if backend == "openvino":
        from runtime.backends.openvino import OpenVinoEngine

        return OpenVinoEngine(path, options)
    if backend == "tensorrt":
        from runtime.backends.tensorrt import TensorRtEngine

        return TensorRtEngine(path, options)
    if backend == "tensorrt-ort":
        from runtime.backends.ort_tensorrt import OrtTensorRtEngine

        return OrtTensorRtEngine(path, options)
    if options.cuda_graphs:
        from runtime.backends.ort_graphs import OrtCudaGraphEngine

        return OrtCudaGraphEngine(path, options)
    from runtime.backends.ort import OrtCudaEngine, OrtEngine

    assert backend in ("cpu", "cuda"), "resolve_backend comes first"
    return OrtCudaEngine(path, options) if backend == "cuda" else OrtEngine(path, options)


def _comparable(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Not every backend keeps the names of dimensions that vary."""
    return [(t.name, tuple(dim if isinstance(dim, int) else None for dim in t.shape), t.dtype) for t in tensors]


def _describe(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in tensors)
