"""Load engines: the one module that knows every backend."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from runtime.engines.backends.base import BACKENDS, ON_GPU, BackendOptions, Engine
from runtime.engines.backends.choice import choose_backend
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import EngineFile, TensorSpec
from runtime.errors import BackendError, ConfigError, EngineError

ENVIRONMENT = "CELLSAM_BACKEND"
"""Environment variable that sets what ``auto`` stands for."""

_log = logging.getLogger(__name__)


def resolve_backend(name: str, directory: Path, device: int = 0) -> str:
    """Return the backend that ``name`` stands for.

    ``auto`` is the backend that the environment variable ``CELLSAM_BACKEND`` names or, without it, the fastest one that
    can run here. The choice and its reason are logged, as a warning if a GPU or TensorRT plans are left unused.

    Args:
        name: one of ``BACKENDS``.
        directory: the engines.
        device: the GPU that a backend for GPUs would use.

    Raises:
        BackendError: no such backend.
        EngineError: there is a GPU, but the manifest or what must be beside TensorRT plans is not usable.
    """
    source = "backend"
    if name == "auto" and ENVIRONMENT in os.environ:
        source, name = ENVIRONMENT, os.environ[ENVIRONMENT]
    if name not in BACKENDS:
        raise BackendError(
            f"{source} is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}.",
            kind="out_of_range",
            field=source,
        )
    if name != "auto":
        if source == ENVIRONMENT:
            _log.info("backend 'auto' is %r, set by the environment variable %s.", name, ENVIRONMENT)
        return name
    choice = choose_backend(directory, device)
    level = logging.WARNING if choice.left_unused else logging.INFO
    _log.log(level, "backend 'auto' is %r: %s.", choice.backend, choice)
    return choice.backend


def load_engine(path: Path, spec: EngineFile, *, backend: str, options: BackendOptions) -> Engine:
    """Load one engine file and compare it, its inputs and its outputs with the manifest.

    Raises:
        BackendError: the backend is unknown or cannot load the file, or is one of GPUs and the file is in integers.
        ConfigError: ``cuda_graphs`` with a backend other than ``cuda``.
        EngineError: the file is missing, unreadable or altered, or its inputs or outputs are not those the manifest
            lists.
    """
    if spec.integers and backend in ON_GPU:
        raise BackendError(
            f"{path.name} computes in 8-bit integers, in a form for CPUs; the backend is {backend!r}. "
            "Use 'openvino' or 'cpu', or export for the GPU: cellsam-engine export --precision fp16.",
            kind="unsupported",
            field="backend",
        )
    source = EngineSource(path, spec.sha256)
    engine = _load(source, backend, options) if spec.attention == "plain" else _load_fused(source, backend, options)
    for kind in ("inputs", "outputs"):
        expected: tuple[TensorSpec, ...] = getattr(spec, kind)
        found: tuple[TensorSpec, ...] = getattr(engine, kind)
        if _comparable(expected) != _comparable(found):
            raise EngineError(
                f"{path} has {kind} {_describe(found)}; the manifest says {_describe(expected)}. "
                "Export the engines again.",
                kind="mismatch",
            )
    return engine


def _load_fused(source: EngineSource, backend: str, options: BackendOptions) -> Engine:
    """Load a file that uses onnxruntime's own operators; other backends raise an error that says what to do."""
    fused = f"{source.path.name} has fused attention, an operator of onnxruntime's own"
    again = "Use the backend 'cuda' or 'cpu', or export again: cellsam-engine export --attention plain."
    if backend.startswith("tensorrt"):  # onnxruntime would cut the graph at every attention and leave that to CUDA
        raise BackendError(f"{fused}, which TensorRT does not know. {again}", kind="unsupported", field="attention")
    try:
        return _load(source, backend, options)
    except BackendError as error:
        if backend == "openvino":
            raise BackendError(
                f"{error} {fused}, which OpenVINO of before mid-2026 does not know. {again}",
                kind="unsupported",
                field="attention",
            ) from error
        raise


def _load(source: EngineSource, backend: str, options: BackendOptions) -> Engine:
    if options.cuda_graphs and backend != "cuda":
        raise ConfigError(
            f"cuda_graphs is for the backend 'cuda', and {backend!r} was named or chosen. Name 'cuda', or leave "
            "cuda_graphs out.",
            kind="conflict",
            field="cuda_graphs",
        )
    if backend == "openvino":
        from runtime.engines.backends.openvino import OpenVinoEngine

        return OpenVinoEngine(source, options)
    if backend == "tensorrt":
        from runtime.engines.backends.tensorrt import TensorRtEngine

        return TensorRtEngine(source, options)
    if backend == "tensorrt-ort":
        from runtime.engines.backends.ort_tensorrt import OrtTensorRtEngine

        return OrtTensorRtEngine(source, options)
    if options.cuda_graphs:
        from runtime.engines.backends.ort_graphs import OrtCudaGraphEngine

        return OrtCudaGraphEngine(source, options)
    from runtime.engines.backends.ort import OrtCudaEngine, OrtEngine

    assert backend in ("cpu", "cuda"), "resolve_backend comes first"
    return OrtCudaEngine(source, options) if backend == "cuda" else OrtEngine(source, options)


def _comparable(tensors: tuple[TensorSpec, ...]) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Names, shapes and dtypes, without the names of dynamic dimensions, which not every backend keeps."""
    return [(t.name, tuple(dim if isinstance(dim, int) else None for dim in t.shape), t.dtype) for t in tensors]


def _describe(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in tensors)
