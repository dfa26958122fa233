"""Specification of the engines and their options, from which each process of a job loads its own segmenter."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from runtime.config import SegmentConfig
from runtime.engines.backends.base import ON_GPU, BackendOptions
from runtime.engines.backends.load import resolve_backend
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.errors import ConfigError, EngineError
from runtime.pipeline.engine_calls import per_call
from runtime.pipeline.ordered import worker_threads
from runtime.segmenter import Segmenter

Spec = TypeVar("Spec", bound="SegmenterSpec")

_LOADING = threading.Lock()


class Resolved(NamedTuple):
    """The values behind ``auto`` and None."""

    backend: str
    images_per_call: int
    boxes_per_call: int

    @property
    def threads(self) -> int:
        """Images that a process reads, prepares and writes at a time, so that the engines do not have to wait."""
        return worker_threads(on_gpu=self.on_gpu)

    @property
    def batches_at_once(self) -> int:
        """Batches of tiles in progress at a time. A CPU is always busy and has less memory, so it gets one."""
        return 4 if self.on_gpu else 1

    @property
    def on_gpu(self) -> bool:
        """Return whether the engines run on a GPU."""
        return self.backend in ON_GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmenterSpec:
    """The arguments of a ``Segmenter``, picklable and hashable."""

    engine_dir: Path | None = None
    """None means the built-in model."""
    backend: str = "auto"
    boxes_per_call: int | None = None
    """None means the default of ``Segmenter``, which depends on the backend; so for ``images_per_call``."""
    images_per_call: int | None = None
    options: BackendOptions = field(default_factory=BackendOptions)

    @property
    def directory(self) -> Path:
        """The engine directory."""
        return builtin_engine() if self.engine_dir is None else self.engine_dir

    def resolved(self) -> Resolved:
        """Resolve ``auto`` and None for this machine.

        Raises:
            BackendError: the backend does not exist.
        """
        backend = resolve_backend(self.backend, self.directory, self.options.device)
        return Resolved(backend, *per_call(backend, self.images_per_call, self.boxes_per_call))

    def here(self: Spec) -> Spec:
        """Return a copy in which ``auto`` is replaced by the backend that this machine chooses.

        Raises:
            BackendError, EngineError: as ``resolve_backend``.
        """
        return replace(self, backend=self.resolved().backend)

    def default_config(self) -> SegmentConfig:
        """Return the thresholds of the manifest.

        Raises:
            EngineError: the manifest is unusable, or the engines have no detector.
        """
        manifest = read_manifest(self.directory)
        if not manifest.has_detector:
            raise EngineError(
                f"{self.directory} has no detector, so boxes must be given, which the command line cannot do. "
                "Export with CellFinder weights, or use Python: Segmenter(engine)(image, boxes=...).",
                kind="unsupported",
                field="engine_dir",
            )
        return manifest.config

    def identity(self) -> dict[str, str]:
        """Return what results depend on: how engines run, and the hash of the manifest, which lists file hashes."""
        content = (self.directory / MANIFEST_NAME).read_bytes()
        resolved = self.resolved()
        kernels = {"gpu_kernels": "True"} if self.options.gpu_kernels else {}
        return {
            "manifest_sha256": hashlib.sha256(content).hexdigest(),
            "backend": resolved.backend,
            "cpu_precision": self.options.cpu_precision,
            "cuda_graphs": str(self.options.cuda_graphs),
            "images_per_call": str(resolved.images_per_call),
            "boxes_per_call": str(resolved.boxes_per_call),
            **kernels,
        }

    def wants_own_gpu(self) -> bool:
        """Return whether the backend runs on a GPU; see ``runtime.jobs.cluster.Engines``.

        Raises:
            BackendError: the backend does not exist.
            ConfigError: ``options.device`` is not 0.
        """
        if not self.resolved().on_gpu:
            return False
        if self.options.device != 0:
            raise ConfigError(
                f"device is {self.options.device}; expected 0, since each worker of a local cluster sees only one GPU, "
                "as number 0. Leave device at 0, and list the GPUs to use in CUDA_VISIBLE_DEVICES.",
                field="device",
            )
        return True


def loaded_segmenter(spec: SegmenterSpec) -> Segmenter:
    """Return the segmenter of this process, loaded once and shared by its threads.

    Raises:
        EngineError, BackendError, ConfigError: as ``Segmenter``.
    """
    with _LOADING:
        return _loaded(spec)


def forget_loaded() -> None:
    """Release the engines of this process."""
    _loaded.cache_clear()


@lru_cache(maxsize=1)
def _loaded(spec: SegmenterSpec) -> Segmenter:
    return Segmenter(
        spec.engine_dir,
        backend=spec.backend,
        boxes_per_call=spec.boxes_per_call,
        images_per_call=spec.images_per_call,
        options=spec.options,
    )
