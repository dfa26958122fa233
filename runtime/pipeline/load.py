"""Loading of an engine directory into a pipeline."""

from __future__ import annotations

import logging
from pathlib import Path

from runtime.config import check_type, check_whole
from runtime.engines.backends.base import ON_GPU, BackendOptions
from runtime.engines.backends.load import load_engine, resolve_backend
from runtime.engines.backends.reports import describe_engines
from runtime.engines.builtin import builtin_engine
from runtime.engines.kernels.kernel_files import kernel_directory
from runtime.engines.kernels.launcher import GpuKernels
from runtime.engines.manifest import read_manifest
from runtime.engines.sums import SUMS_NAME
from runtime.errors import ConfigError
from runtime.pipeline.pipeline import Pipeline

_log = logging.getLogger(__name__)


def load_pipeline(
    engine_dir: str | Path | None = None,
    *,
    backend: str = "auto",
    images_per_call: int | None = None,
    boxes_per_call: int | None = None,
    options: BackendOptions | None = None,
    sha256: str | None = None,
) -> Pipeline:
    """Check an engine directory and load its engines.

    Each file is read once, so the backend loads exactly the bytes that were hashed. See ``Segmenter`` for the
    arguments.

    Raises:
        EngineError: the directory, its manifest or one of its files is missing, altered or of another version, or the
            directory does not match ``sha256``.
        BackendError: the backend is unknown or cannot load an engine.
        ConfigError: ``images_per_call`` or ``boxes_per_call`` is below 1, an argument has the wrong type, or
            ``gpu_kernels`` is set for a backend without a CUDA device.
    """
    for name, value in (("boxes_per_call", boxes_per_call), ("images_per_call", images_per_call)):
        if value is not None:
            check_whole(name, value, least=1)
    for argument, given, kind, expected in (
        ("engine_dir", engine_dir, (str, Path, type(None)), "the path of an engine directory"),
        ("backend", backend, str, "the name of a backend"),
        ("options", options, (BackendOptions, type(None)), "BackendOptions"),
        ("sha256", sha256, (str, type(None)), "64 hexadecimal digits"),
    ):
        check_type(argument, given, kind, expected)
    directory = builtin_engine() if engine_dir is None else Path(engine_dir)
    options = options or BackendOptions()
    resolved = resolve_backend(backend, directory, options.device)
    kernels = load_kernels(directory, resolved, options.device) if options.gpu_kernels else None
    manifest = read_manifest(directory, sha256=sha256)
    if not (directory / SUMS_NAME).exists():
        _log.warning(
            "%s has no %s, so changes to its manifest cannot be detected. Export the engines again.",
            directory,
            SUMS_NAME,
        )
    engines = {
        name: load_engine(directory / spec.file, spec, backend=resolved, options=options)
        for name, spec in manifest.engines.items()
    }
    return Pipeline(
        engines,
        manifest,
        backend=resolved,
        images_per_call=images_per_call,
        boxes_per_call=boxes_per_call,
        kernels=kernels,
        provenance=describe_engines(engines, manifest, directory, resolved),
    )


def load_kernels(directory: Path, backend: str, device: int) -> GpuKernels:
    """Load the compiled kernels of an engine directory or of the user's cache.

    Args:
        directory: the engine directory.
        backend: name of the backend, never ``auto``.
        device: index of the GPU.

    Raises:
        BackendError: cuda-bindings, the GPU or kernels for it are missing, or kernels are damaged.
        ConfigError: the backend does not run on a GPU.
    """
    if backend not in ON_GPU:
        raise ConfigError(
            f"gpu_kernels needs a backend with a CUDA device: {', '.join(map(repr, ON_GPU))}; the backend is "
            f"{backend!r}. Choose one of them, or leave gpu_kernels out.",
            kind="conflict",
            field="gpu_kernels",
        )
    return GpuKernels(kernel_directory(directory), device)
