"""onnxruntime's TensorRT provider: TensorRT engines that onnxruntime builds when it loads an ONNX file, and keeps.

The alternative to the backend ``tensorrt``, for where plans of one's own are not wanted. Written to onnxruntime's page
"TensorRT Execution Provider" and the provider's source:

- Shapes: with a profile of every input, an engine is built once, on loading. Without, every new shape builds another.
- Types: as long as none of the provider's options for precision is set, networks are strongly typed (pull request
  18707): what the file says is computed. onnxruntime's own optimisations are off, which might fuse the export's float32
  islands away. But float32 is computed in TF32 where the GPU has it; only the environment variable
  ``NVIDIA_TF32_OVERRIDE=0`` is against it (issue 26029).
- Built engines are named after the names of the graph's tensors, the compute capability, and the versions that the
  provider was compiled with (and the ONNX file's name, which it is not told: it gets bytes): not after weights, GPU,
  driver or the TensorRT that is loaded. They are written
  in place, whole or not, and errors of writing are not told. So each file gets a directory named after all that
  decides, which is filled under another name first.
- onnxruntime goes on without a provider that does not load, and gives operators that TensorRT's parser refuses to CUDA,
  silently in both cases. The first is refused here. So are files of which TensorRT takes nothing; where it takes a
  part, a warning names the operators of the others.
- A session has one execution context; its provider lets one run in at a time, and waits for it.
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
from pathlib import Path
from typing import Any

import onnxruntime

from runtime.engines.backends import cuda
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.input_shapes import profile_ranges, within
from runtime.engines.backends.ort import CUDA, OrtCudaEngine, cuda_provider, load_cuda, open_session
from runtime.engines.backends.plan_record import BUILT_BY_ORT, PlanKey, Ranges
from runtime.engines.backends.tensorrt import machine_key
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import EngineFile, read_manifest
from runtime.errors import BackendError, OutOfMemoryError
from runtime.types import Tensor, Tensors

TENSORRT = "TensorrtExecutionProvider"

INSTEAD = "Or use the backend 'cuda' or 'tensorrt'."

INSTALL = (
    "It needs onnxruntime-gpu 1.24 or later and the TensorRT that this was built for (1.31: TensorRT 10 for CUDA 13): "
    "pip uninstall onnxruntime, then pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]' cuda-bindings "
    f"'tensorrt-cu13<11'. {INSTEAD}"
)
"""What the provider of onnxruntime-gpu 1.31.1 is linked to: libnvinfer.so.10, libcudart.so.13, libcudnn.so.9."""

_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""Entry of onnxruntime's session settings, from 1.24."""

_NO_TF32 = "NVIDIA_TF32_OVERRIDE"

_log = logging.getLogger(__name__)


class OrtTensorRtEngine(OrtCudaEngine):
    """One ONNX file in onnxruntime's TensorRT provider; tensors stay on the GPU as in ``OrtCudaEngine``."""

    def _load(self, source: EngineSource, settings: onnxruntime.SessionOptions, options: BackendOptions) -> Any:
        """Load the file, having its engine built where none is kept for this machine.

        Raises:
            BackendError: the provider, TensorRT, the driver or the GPU is missing, or TensorRT takes no part of the
                file.
            OutOfMemoryError: the GPU's memory is full.
        """
        key = _machine(options.device)
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

    def max_size(self, name: str) -> int | None:
        """See ``Engine``: as the profile has it."""
        return self._ranges[name][2][0] if name in self._ranges else None

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        for name in feeds.keys() & self._ranges.keys():
            if not within(tuple(feeds[name].shape), self._ranges[name]):
                least, _, most = self._ranges[name]
                raise BackendError(
                    f"{self._name} takes {name} of {list(least)} to {list(most)} in the backend 'tensorrt-ort'; got "
                    f"{list(feeds[name].shape)}. Give less at once, or use the backend 'cuda'.",
                    kind="wrong_shape",
                )
        return super().run(feeds, keep=keep)


def tensorrt_provider(device: int, spec: EngineFile, ranges: Ranges, kept: Path | None) -> dict[str, str]:
    """How engines are built and run: options of onnxruntime's TensorRT provider.

    Args:
        device: the GPU's number.
        spec: the engine. Inputs of fixed shape have no profile: with one, the provider would build at every start.
        ranges: the optimisation profile.
        kept: directory of built engines; None keeps none.
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
    """What built engines are bound to here. It also loads TensorRT's libraries, so that the provider finds pip's.

    Raises:
        BackendError: this onnxruntime has no TensorRT provider, or there is no TensorRT, no driver or no such GPU.
    """
    if TENSORRT not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} here has no TensorRT provider. {INSTALL}", kind="not_installed"
        )
    load_cuda()
    try:
        return machine_key(device)
    except BackendError as error:
        if error.kind not in ("not_installed", "wrong_version"):  # it is the GPU that is missing
            raise
        problem = str(error).replace(f": {cuda.INSTALL}.", ".")  # which takes the newest TensorRT
        raise BackendError(
            f"the backend 'tensorrt-ort' cannot be used here: {problem} {INSTALL}", kind="not_installed"
        ) from error


def _place(source: EngineSource, key: PlanKey, ranges: Ranges) -> Path:
    """Directory of the built engine of an ONNX file: another for whatever would make it another engine."""
    decides = [source.sha256, ranges, os.environ.get(_NO_TF32) == "0"]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    machine = key.directory_name(f"ort{onnxruntime.__version__}")
    return source.path.parent / BUILT_BY_ORT / machine / f"{source.path.stem}-{digest}"


@contextmanager
def _kept(place: Path) -> Iterator[Path | None]:
    """Where an engine is read from or, for the time of the ``with``, written to; None where nothing can be written.

    A new one is moved to its place at the end, if all went well: what is there is whole.
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
            "TensorRT builds the engine of %s, which takes minutes, and will do so at every start: it cannot be kept "
            "(%s). Make %s writable, or copy the engines to where you may write.",
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
            if not place.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_providers(session: Any) -> None:
    """Raises: BackendError: a provider did not load; onnxruntime would go on with the others."""
    missing = [name for name in (TENSORRT, CUDA) if name not in session.get_providers()]
    if missing:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} did not load its {' and '.join(missing)}, most often because a "
            f"library is missing or of another version than it was built for. {INSTALL}",
            kind="not_installed",
        )


def _check_assignment(name: str, session: Any) -> None:
    """Check which provider onnxruntime gave the operators of a file.

    Raises:
        BackendError: none to TensorRT, or this onnxruntime does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} does not tell which operators TensorRT computes. {INSTALL}",
            kind="wrong_version",
        )
    parts = session.get_provider_graph_assignment_info()
    if not any(part.ep_name == TENSORRT for part in parts):
        raise BackendError(
            f"TensorRT takes no operator of {name}; onnxruntime would compute all with CUDA. Its log says why. Use the "
            "backend 'cuda', or 'tensorrt', whose 'cellsam-engine build --dry-run' names what TensorRT lacks.",
            kind="unsupported",
        )
    others = [node.op_type for part in parts if part.ep_name != TENSORRT for node in part.get_nodes()]
    if others:
        _log.warning(
            "%s: %d operators are not computed by TensorRT but by CUDA or on the CPU: %s",
            name,
            len(others),
            ", ".join(sorted(set(others))),
        )


def _advice(message: str, kept: Path | None) -> str:
    """What to do about an error of loading. Args: message: onnxruntime's words."""
    if "deserialize engine" in message and kept is not None:
        return f"Delete {kept}, and it is built again."
    if "execution context" in message:
        return f"Most often, the GPU's memory is full. {INSTEAD}"
    return INSTALL if "install" in message.lower() or "library" in message else INSTEAD
