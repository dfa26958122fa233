"""Load engines; the only module that imports every backend."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from runtime.engines.backends.base import BACKENDS, ON_GPU, WITH_GRAPHS, BackendOptions, Engine
from runtime.engines.backends.choice import choose_backend
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import EngineFile, TensorSpec
from runtime.errors import BackendError, ConfigError, EngineError

ENVIRONMENT = "CELLSAM_BACKEND"
"""Environment variable that sets the backend for ``auto``."""

_log = logging.getLogger(__name__)


def resolve_backend(name: str, directory: Path, device: int = 0) -> str:
    """Return the backend to use, resolving ``auto``.

    ``auto`` is the backend that the environment variable ``CELLSAM_BACKEND`` names or, without it, the fastest one that
    can run here. The choice and its reason are logged, as a warning if a GPU or TensorRT plans are left unused.

    Args:
        name: one of ``BACKENDS``.
        directory: the engine directory.
        device: the GPU that a GPU backend would use.

    Raises:
        BackendError: the backend is unknown.
        EngineError: there is a GPU, but the manifest or a file that TensorRT plans need is not usable.
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
    """Load one engine file and compare its checksum, inputs and outputs with the manifest.

    Raises:
        BackendError: the backend cannot load the file, or is a GPU backend and the file uses 8-bit integers.
        ConfigError: ``cuda_graphs`` is set for a backend other than ``cuda`` and ``tensorrt-rtx``.
        EngineError: the file is missing, unreadable or altered, or its inputs or outputs are not those the manifest
            lists.
    """
    if spec.integers and backend in ON_GPU:
        raise BackendError(
            f"{path.name} computes in 8-bit integers, a format for CPUs; the backend is {backend!r}. "
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
                f"{path} has {kind} {_describe(found)}; the manifest lists {_describe(expected)}. "
                "Export the engines again.",
                kind="mismatch",
            )
    return engine


def _load_fused(source: EngineSource, backend: str, options: BackendOptions) -> Engine:
    """Load a file that uses operators specific to onnxruntime; backends without them raise ``BackendError``."""
    fused = f"{source.path.name} has fused attention, an operator specific to onnxruntime"
    again = "Use the backend 'cuda', 'tensorrt-rtx' or 'cpu', or export again: cellsam-engine export --attention plain."
    if backend in ("tensorrt", "tensorrt-ort"):  # onnxruntime would split the graph and run attention on CUDA
        raise BackendError(f"{fused}, which TensorRT does not support. {again}", kind="unsupported", field="attention")
    try:
        return _load(source, backend, options)
    except BackendError as error:
        if backend == "openvino":
            raise BackendError(
                f"{error} {fused}, which OpenVINO before mid-2026 does not support. {again}",
                kind="unsupported",
                field="attention",
            ) from error
        raise


def _load(source: EngineSource, backend: str, options: BackendOptions) -> Engine:
    if options.cuda_graphs and backend not in WITH_GRAPHS:
        raise ConfigError(
            f"cuda_graphs needs the backend 'cuda' or 'tensorrt-rtx'; the backend is {backend!r}. Pass "
            "backend='cuda', or leave cuda_graphs out.",
            kind="conflict",
            field="cuda_graphs",
        )
    if backend == "openvino":
        from runtime.engines.backends.openvino import OpenVinoEngine

        return OpenVinoEngine(source, options)
    if backend == "tensorrt":
        from runtime.engines.backends.tensorrt import TensorRtEngine

        return TensorRtEngine(source, options)
    if backend == "tensorrt-rtx":
        from runtime.engines.backends.tensorrt_rtx import RtxEngine

        return RtxEngine(source, options)
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
    """Return names, shapes and dtypes without names of dynamic dimensions, which some backends drop."""
    return [(t.name, tuple(dim if isinstance(dim, int) else None for dim in t.shape), t.dtype) for t in tensors]


def _describe(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in tensors)
