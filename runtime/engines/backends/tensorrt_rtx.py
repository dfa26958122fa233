"""TensorRT for RTX on an NVIDIA RTX GPU: plans that ``cellsam-engine build --backend tensorrt-rtx`` made anywhere.

The library shares TensorRT's API (``tensorrt``). What differs, according to the documentation of its Python bindings:

- A plan lists the compute capabilities that it runs on. It is not bound to a GPU model or a driver, so one machine
  builds for many. Before it loads a plan, the backend asks the library whether it is valid here
  (``Runtime.get_engine_validity``). Without a driver the library ends the process when it loads a plan; the GPU is
  therefore looked for first.
- Kernels are compiled for the GPU when an execution context is created and when shapes are new. A runtime cache beside
  the plans keeps them, one file per plan and GPU. The library checks a cache against the GPU, driver and version; this
  module checks that the file is whole.
- A runtime configuration sets the CUDA graph strategy (``BackendOptions.cuda_graphs``) and what happens with new shapes
  (``BackendOptions.shape_kernels``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from runtime.engines.backends import cuda
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.plan_keys import Key, PlanBackend, RtxKey, build_command
from runtime.engines.backends.plan_record import PlanFile, read_plan
from runtime.engines.backends.tensorrt import TensorRtEngine, message_log, pop_errors
from runtime.engines.manifest import EngineFile
from runtime.errors import BackendError
from runtime.extras import install_command

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT for RTX 1.7 knows."""

INSTALL = install_command("rtx")

_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


def load_rtx() -> Any:
    """Import the module ``tensorrt_rtx``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import tensorrt_rtx
    except Exception as error:  # missing libraries raise other errors than ImportError
        raise BackendError(
            f"the backend 'tensorrt-rtx' needs TensorRT for RTX ({error}): {INSTALL}.", kind="not_installed"
        ) from error
    return tensorrt_rtx


def rtx_key(device: int) -> RtxKey:
    """Return the key that plans must fit to run on this GPU.

    Raises:
        BackendError: TensorRT for RTX, the driver or the GPU is missing, or the library does not know the GPU.
    """
    rt = load_rtx()
    cuda.check_gpu(device)
    gpu, sm = cuda.gpu_name_and_sm(device)
    if sm not in CAPABILITIES:
        raise BackendError(
            f"TensorRT for RTX {rt.__version__} does not run on {gpu} (compute capability {sm}); expected one of "
            f"{', '.join(CAPABILITIES)}. Use the backend 'tensorrt' or 'cuda'.",
            kind="unsupported",
            field="backend",
        )
    return RtxKey(rtx=rt.__version__, capabilities=(sm,))


class RtxEngine(TensorRtEngine):
    """One plan of TensorRT for RTX."""

    backend: ClassVar[PlanBackend] = "tensorrt-rtx"

    @staticmethod
    def load_library() -> Any:
        """Import the library's module; see ``load_rtx``."""
        return load_rtx()

    @staticmethod
    def machine_key(device: int) -> Key:
        """Return the key that plans must fit; see ``rtx_key``."""
        return rtx_key(device)

    @classmethod
    def check_usable(cls, directory: Path, engines: Iterable[EngineFile], device: int) -> None:
        """See ``TensorRtEngine``; the library must call every plan valid, too."""
        key = cls.machine_key(device)
        for engine in engines:
            content, plan, _ = read_plan(directory / engine.file, engine.sha256, key, device)
            check_valid(content, plan, directory, device)

    def _load(
        self, content: bytes, plan: PlanFile, engine_dir: Path, options: BackendOptions, place: Path | None
    ) -> None:
        cuda.check_gpu(options.device)
        check_valid(content, plan, engine_dir, options.device)
        super()._load(content, plan, engine_dir, options, place)

    def _contexts(self, options: BackendOptions, place: Path | None) -> Callable[[], Any]:
        rt = self._tensorrt
        config = self._engine.create_runtime_config()
        graphs = rt.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if options.cuda_graphs else graphs.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = getattr(
            rt.DynamicShapesKernelSpecializationStrategy, options.shape_kernels.upper()
        )
        if place is not None:
            self._keep_kernels(config, place / _cache_name(self._name, options.device))
        return partial(self._engine.create_execution_context, config)

    def _keep_kernels(self, config: Any, path: Path) -> None:
        """Load the runtime cache of this plan and GPU, and write it when the engine is closed or the process ends."""
        cache, stored = config.create_runtime_cache(), read_cache(path)
        if stored and not cache.deserialize(stored):
            _log.info("%s is for another driver or version; kernels are compiled again.", path)
            stored = b""
        if config.set_runtime_cache(cache):
            self._save_kernels = weakref.finalize(self, write_cache, path, cache, stored)

    def close(self) -> None:
        """See ``TensorRtEngine``; also write the runtime cache."""
        save = self.__dict__.pop("_save_kernels", None)
        if save is not None:
            save()
        super().close()


def check_valid(content: bytes, plan: PlanFile, engine_dir: Path, device: int) -> None:
    """Ask the library whether a plan can run on this machine; the GPU must have been looked for (``check_gpu``).

    Raises:
        BackendError: it cannot; the message has the library's reasons and the build command.
    """
    rt = load_rtx()
    log = message_log(rt)
    cuda.use_device(device)
    runtime = rt.Runtime(log)
    validity, reasons = runtime.get_engine_validity(content[: runtime.engine_header_size])
    if validity == rt.EngineValidity.VALID:
        return
    names = [name for name, one in rt.EngineInvalidityDiagnostics.__members__.items() if int(one) & int(reasons)]
    named = ", ".join(name.lower().replace("_", " ") for name in names) or pop_errors(log)
    again = build_command(engine_dir, device, "tensorrt-rtx")
    if validity == rt.EngineValidity.SUBOPTIMAL:
        _log.warning("%s runs, but may be slow here (%s). Build for this GPU: %s", plan.file, named, again)
        return
    raise BackendError(
        f"TensorRT for RTX {rt.__version__} cannot run {plan.file} on this machine: {named}. "
        f"Build the plans again: {again}",
        kind="mismatch",
    )


def read_cache(path: Path) -> bytes:
    """Read a runtime cache; return empty bytes if there is none or the file is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return b""
    digest, cache = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(cache).digest() == digest:
        return cache
    _log.warning("%s is damaged; kernels are compiled again.", path)
    return b""


def write_cache(path: Path, cache: Any, stored: bytes) -> None:
    """Write a runtime cache under a temporary name, then rename it; a failure is only logged.

    Args:
        path: the file: SHA-256 digest of the cache, then the cache.
        cache: the library's cache.
        stored: its content when it was loaded; if it is unchanged, nothing is written.
    """
    content = bytes(cache.serialize())
    if content == stored:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(path)
    except OSError as error:
        _log.info("the kernels compiled for this GPU are not kept: %s", error)
    finally:
        temporary.unlink(missing_ok=True)


def _cache_name(plan: str, device: int) -> str:
    gpu, sm = cuda.gpu_name_and_sm(device)
    return f"{Path(plan).stem}+{re.sub(r'[^A-Za-z0-9.]+', '-', gpu)}+sm{sm}.kernels"
