"""Which engines, and how they are run: what every process of a job is told, and loads for itself."""

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
from runtime.segmenter import Segmenter

Spec = TypeVar("Spec", bound="SegmenterSpec")

_LOADING = threading.Lock()


class Resolved(NamedTuple):
    """What ``auto`` and None stand for."""

    backend: str
    images_per_call: int
    boxes_per_call: int

    @property
    def threads(self) -> int:
        """Images that a process reads, prepares and writes at a time, so that the engines need not wait for that."""
        return 8 if self.on_gpu else 2

    @property
    def batches_at_once(self) -> int:
        """Batches of tiles, likewise; one on a CPU, which has nothing to wait for and less memory."""
        return 4 if self.on_gpu else 1

    @property
    def on_gpu(self) -> bool:
        """Whether the engines run on a GPU."""
        return self.backend in ON_GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmenterSpec:
    """The arguments of a ``Segmenter``; can be pickled, and be compared as a key of a cache."""

    engine_dir: Path | None = None
    """None: the built-in model."""
    backend: str = "auto"
    boxes_per_call: int | None = None
    """None: ``Segmenter``'s, which depends on the backend; ``images_per_call`` too."""
    images_per_call: int | None = None
    options: BackendOptions = field(default_factory=BackendOptions)

    @property
    def directory(self) -> Path:
        """Where the engines are."""
        return builtin_engine() if self.engine_dir is None else self.engine_dir

    def resolved(self) -> Resolved:
        """How the engines are run here.

        Raises:
            BackendError: no such backend.
        """
        backend = resolve_backend(self.backend, self.directory, self.options.device)
        return Resolved(backend, *per_call(backend, self.images_per_call, self.boxes_per_call))

    def here(self: Spec) -> Spec:
        """The same with the backend that ``auto`` stands for on this machine: nothing asks again.

        Raises:
            BackendError, EngineError: as ``resolve_backend``.
        """
        return replace(self, backend=self.resolved().backend)

    def default_config(self) -> SegmentConfig:
        """The manifest's.

        Raises:
            EngineError: no usable manifest, or engines without a detector.
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
        """What results depend on: the hash of the manifest, which holds those of the files, and how engines are run."""
        content = (self.directory / MANIFEST_NAME).read_bytes()
        resolved = self.resolved()
        return {
            "manifest_sha256": hashlib.sha256(content).hexdigest(),
            "backend": resolved.backend,
            "cpu_precision": self.options.cpu_precision,
            "cuda_graphs": str(self.options.cuda_graphs),
            "images_per_call": str(resolved.images_per_call),
            "boxes_per_call": str(resolved.boxes_per_call),
        }

    def wants_own_gpu(self) -> bool:
        """See ``runtime.jobs.cluster.Engines``: so it is for the backends that run on GPUs.

        Raises:
            BackendError: no such backend.
            ConfigError: ``options.device`` is not 0.
        """
        if not self.resolved().on_gpu:
            return False
        if self.options.device != 0:
            raise ConfigError(
                f"device is {self.options.device}; each worker of a local cluster sees one GPU alone, which is number "
                "0 there. Leave device at 0, and list the GPUs to use in CUDA_VISIBLE_DEVICES.",
                field="device",
            )
        return True


def loaded_segmenter(spec: SegmenterSpec) -> Segmenter:
    """The engines of this process, loaded once, whichever of its threads asks.

    Raises:
        EngineError, BackendError, ConfigError: as ``Segmenter``.
    """
    with _LOADING:
        return _loaded(spec)


def forget_loaded() -> None:
    """Let go of the engines of this process."""
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
