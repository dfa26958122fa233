"""onnxruntime's TensorRT provider: TensorRT engines that onnxruntime builds when it loads an ONNX file, and keeps.

An alternative to the backend ``tensorrt`` that needs no separate build of plans. It follows onnxruntime's page
"TensorRT Execution Provider" and the provider's source:

- Shapes: with a profile for every input, an engine is built once, at loading. Without one, every new shape triggers
  another build.
- Types: unless one of the provider's precision options is set, networks are strongly typed (pull request 18707) and
  compute in the types of the file. Optimisations by onnxruntime are off, because they might fuse away the float32 parts
  of the export. The GPU still computes float32 in TF32 if it can, unless the environment variable
  ``NVIDIA_TF32_OVERRIDE`` is 0 (issue 26029).
- Cache: the provider names built engines after the graph's tensor names, the compute capability and the versions that
  it was compiled with. Weights, GPU, driver and the loaded TensorRT do not count, nor does the ONNX file's name, since
  the provider receives bytes. It writes in place, may leave partial files, and does not report write errors. Each file
  therefore gets a directory named after everything that matters, filled under a temporary name first.
- Fallback: onnxruntime silently continues without a provider that does not load, and silently assigns operators that
  TensorRT cannot parse to CUDA. This module raises an error if a provider does not load or TensorRT accepts no operator
  of a file. If TensorRT accepts some, a warning lists the others.
- Concurrency: a session has one execution context; its provider runs one call at a time and waits for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from runtime.engines.backends import cuda
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.input_shapes import profile_ranges, within
from runtime.engines.backends.ort import CUDA, OrtCudaEngine, cuda_provider, load_cuda, open_session
from runtime.engines.backends.plan_keys import PlanKey
from runtime.engines.backends.plan_record import BUILT_BY_ORT, Ranges
from runtime.engines.backends.tensorrt import machine_key
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import EngineFile, read_manifest
from runtime.errors import BackendError, OutOfMemoryError
from runtime.provenance import EngineReport
from runtime.types import Tensor, Tensors

TENSORRT = "TensorrtExecutionProvider"

INSTEAD = "Or use the backend 'cuda' or 'tensorrt'."

INSTALL = (
    "It needs onnxruntime-gpu 1.24 or later and the TensorRT it was built for (1.31: TensorRT 10 for CUDA 13): "
    "pip uninstall onnxruntime, then pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]' cuda-bindings "
    f"'tensorrt-cu13<11'. {INSTEAD}"
)
"""Install advice. The provider of onnxruntime-gpu 1.31.1 links to libnvinfer.so.10, libcudart.so.13, libcudnn.so.9."""

_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""Session setting of onnxruntime, from 1.24."""

_NO_TF32 = "NVIDIA_TF32_OVERRIDE"

_log = logging.getLogger(__name__)


class OrtTensorRtEngine(OrtCudaEngine):
    """One ONNX file in onnxruntime's TensorRT provider; tensors stay on the GPU as in ``OrtCudaEngine``."""

    def _load(self, source: EngineSource, settings: onnxruntime.SessionOptions, options: BackendOptions) -> Any:
        """Load the file; TensorRT builds its engine if none is cached for this machine.

        Raises:
            BackendError: the provider, TensorRT, the driver or the GPU is missing, or TensorRT accepts no operator of
                the file.
            OutOfMemoryError: the GPU's memory is full.
        """
        key = _machine(options.device)
        self._tensorrt_version = key.tensorrt
        manifest = read_manifest(source.path.parent)
        spec = next(engine for engine in manifest.engines.values() if engine.file == source.path.name)
        self._ranges = profile_ranges(spec, manifest.grid_size)
        settings.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with _kept(_place(source, key, self._ranges)) as kept:
            providers = [
                (TENSORRT, tensorrt_provider(options.device, spec, self._ranges, kept)),
                (CUDA, cuda_provider(options.device)),
            ]
            try:
                session = open_session(source, settings, providers)
            except OutOfMemoryError:
                raise
            except BackendError as error:
                problem = str(error).rstrip(" .\n")
                raise BackendError(f"{problem}. {_advice(problem, kept)}") from error
            _check_providers(session)
            _check_assignment(source.path.name, session)
        return session

    def report(self) -> EngineReport:
        """See ``Engine``."""
        report = super().report()
        return replace(report, libraries={**report.libraries, "tensorrt": self._tensorrt_version})

    def max_size(self, name: str) -> int | None:
        """See ``Engine``; the profile sets the limit."""
        return self._ranges[name][2][0] if name in self._ranges else None

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        for name in feeds.keys() & self._ranges.keys():
            if not within(tuple(feeds[name].shape), self._ranges[name]):
                least, _, most = self._ranges[name]
                raise BackendError(
                    f"{self._name} takes {name} of {list(least)} to {list(most)} in the backend 'tensorrt-ort'; got "
                    f"{list(feeds[name].shape)}. Send fewer images or boxes per call, or use the backend 'cuda'.",
                    kind="wrong_shape",
                )
        return super().run(feeds, keep=keep)


def tensorrt_provider(device: int, spec: EngineFile, ranges: Ranges, kept: Path | None) -> dict[str, str]:
    """Return the options of onnxruntime's TensorRT provider.

    Args:
        device: the GPU's index.
        spec: the engine. Inputs of fixed shape get no profile; with one, the provider would build at every start.
        ranges: the optimisation profile.
        kept: directory for built engines; None disables the cache.
    """
    varying = [tensor.name for tensor in spec.inputs if not all(isinstance(dim, int) for dim in tensor.shape)]
    least, best, most = (
        ",".join(f"{name}:{'x'.join(map(str, ranges[name][place]))}" for name in varying) for place in range(3)
    )
    provider = {
        "device_id": str(device),
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": most,
    }
    if kept is None:
        return provider
    return provider | {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(kept)}


def _machine(device: int) -> PlanKey:
    """Return the key of engines built on this machine.

    This also loads TensorRT's libraries, so that the provider finds those installed by pip.

    Raises:
        BackendError: this onnxruntime has no TensorRT provider, or TensorRT, the driver or the GPU is missing.
    """
    if TENSORRT not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} here has no TensorRT provider. {INSTALL}", kind="not_installed"
        )
    load_cuda()
    try:
        return machine_key(device)
    except BackendError as error:
        if error.kind not in ("not_installed", "wrong_version"):  # the GPU is missing
            raise
        problem = str(error).replace(f": {cuda.INSTALL}.", ".")  # that command installs the newest TensorRT
        raise BackendError(
            f"the backend 'tensorrt-ort' cannot be used here: {problem} {INSTALL}", kind="not_installed"
        ) from error


def _place(source: EngineSource, key: PlanKey, ranges: Ranges) -> Path:
    """Return the directory of the built engine of an ONNX file, unique to everything that affects the build."""
    decides = [source.sha256, ranges, os.environ.get(_NO_TF32) == "0"]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    machine = key.directory_name(f"ort{onnxruntime.__version__}")
    return source.path.parent / BUILT_BY_ORT / machine / f"{source.path.stem}-{digest}"


@contextmanager
def _kept(place: Path) -> Iterator[Path | None]:
    """Yield the directory to read an engine from or to build it in; None if it is not writable.

    A new engine moves to its final place only if the block succeeds, so that engines found there are complete.
    """
    if place.is_dir():
        yield place
        return
    file, partial = place.name.rpartition("-")[0], None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        _log.warning(
            "TensorRT builds the engine of %s, which takes minutes, at every start: it cannot be kept (%s). Make %s "
            "writable, or copy the engine directory to a writable place.",
            file,
            error,
            place.parent,
        )
        yield None
        return
    _log.warning("TensorRT builds the engine of %s, which takes minutes. It is kept in %s.", file, place)
    try:
        yield partial
        partial.chmod(0o755)  # temporary directories are private
        try:
            partial.rename(place)
        except OSError:
            if not place.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_providers(session: Any) -> None:
    """Check that both providers loaded; onnxruntime would continue without them.

    Raises:
        BackendError: a provider did not load.
    """
    missing = [name for name in (TENSORRT, CUDA) if name not in session.get_providers()]
    if missing:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} did not load its {' and '.join(missing)}, most often because a "
            f"library is missing or has a different version than it was built for. {INSTALL}",
            kind="not_installed",
        )


def _check_assignment(name: str, session: Any) -> None:
    """Check which provider onnxruntime assigned to the operators of a file.

    Raises:
        BackendError: TensorRT got no operator, or this onnxruntime does not report assignments.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} does not report which operators TensorRT computes. {INSTALL}",
            kind="wrong_version",
        )
    parts = session.get_provider_graph_assignment_info()
    if not any(part.ep_name == TENSORRT for part in parts):
        raise BackendError(
            f"TensorRT supports no operator of {name}; onnxruntime would run all of them on CUDA. Its log gives the "
            "reason. Use the backend 'cuda'. Or use 'tensorrt'; 'cellsam-engine build --dry-run' lists the operators "
            "that TensorRT lacks.",
            kind="unsupported",
        )
    others = [node.op_type for part in parts if part.ep_name != TENSORRT for node in part.get_nodes()]
    if others:
        _log.warning(
            "%s: %d operators run on CUDA or the CPU instead of TensorRT: %s",
            name,
            len(others),
            ", ".join(sorted(set(others))),
        )


def _advice(message: str, kept: Path | None) -> str:
    """Return advice for a load error. Args: message: onnxruntime's message."""
    if "deserialize engine" in message and kept is not None:
        return f"Delete {kept}, and load again to rebuild it."
    if "execution context" in message:
        return f"Most often, the GPU's memory is full. {INSTEAD}"
    return INSTALL if "install" in message.lower() or "library" in message else INSTEAD
