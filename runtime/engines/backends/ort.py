"""onnxruntime on the CPU, and on an NVIDIA GPU with tensors that stay there between engines."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.freed import FREED
from runtime.engines.backends.gpus import describe_gpu
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import TensorSpec
from runtime.errors import BackendError, OutOfMemoryError
from runtime.provenance import EngineReport
from runtime.types import Tensor, Tensors

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
"""NumPy dtypes by onnxruntime's name of the tensor type."""

_NO_CAPTURE = "cannot use the graph capture feature"
"""onnxruntime's message if parts of a model must run on the CPU or contain control flow."""

_NO_MEMORY = (
    "failed to allocate memory",
    "out of memory",
    "alloc_failed",
    "allocation_failed",
    "bad_alloc",
    "bad allocation",
)
"""Out-of-memory messages of onnxruntime, CUDA, cuBLAS, cuDNN (from 9) and C++, in lower case."""

_NO_CUDNN_ATTENTION = "Failed to build cuDNN graph for Flash Attention"
"""onnxruntime's message if it chose cuDNN for an attention that cuDNN lacks; it tries no other kernel.

Sources: onnxruntime, ``cudnn_flash_attention.cc``; NVIDIA/cudnn-frontend#242 (no heads of 192 channels on GPUs after
Hopper)."""

CUDA = "CUDAExecutionProvider"

_ON_NVIDIA = ("CUDA", "Tensorrt")
"""Providers that number NVIDIA GPUs, without the ending of their names."""

_SLOW_ON_CPU = {"mask_decoder.onnx": ("SkipLayerNormFusion",)}
"""Optimisations to disable, by file, because they cost time. The fused norm took a third of the mask decoder's time.

The other engines keep it: it does not change their speed, but disabling it would change the last digits of scores, and
with them the order of boxes with nearly equal scores."""

INSTALL_GPU = (
    "Install the GPU build in place of the CPU build: pip uninstall onnxruntime, then "
    "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'."
)


class OrtEngine(Engine):
    """One ONNX file in an onnxruntime session on the CPU."""

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """Load the file.

        Raises:
            BackendError: onnxruntime cannot load the file.
            EngineError: the file is missing, unreadable or altered.
        """
        self._name = source.path.name
        self._session = self._load(source, session_settings(options), options)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def _load(self, source: EngineSource, settings: onnxruntime.SessionOptions, options: BackendOptions) -> Any:
        # The arena would keep gigabytes of attention maps between calls.
        settings.enable_cpu_mem_arena = False
        without = _SLOW_ON_CPU.get(source.path.name, ())
        return open_session(source, settings, ["CPUExecutionProvider"], without=without)

    def report(self) -> EngineReport:
        """See ``Engine``; read from the session."""
        providers = tuple(self._session.get_providers())
        return EngineReport(
            device=_device(providers[0], self._session.get_provider_options()),
            providers=providers,
            libraries={"onnxruntime": onnxruntime.__version__},
        )

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        arrays = {name: np.ascontiguousarray(tensor) for name, tensor in feeds.items()}
        names = [output.name for output in self.outputs]
        try:
            outputs = self._session.run(names, arrays)
        except Exception as error:
            raise failure(self._name, arrays, error) from error
        FREED.give_back()
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        """See ``Engine``."""
        self._session = None


class OnDevice:
    """An output in device memory."""

    def __init__(self, value: Any) -> None:
        """Args: value: an ``onnxruntime.OrtValue``."""
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``DeviceTensor``."""
        return tuple(self.value.shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """See ``DeviceTensor``."""
        array: NDArray[Any] = self.value.numpy()
        return array if dtype is None else array.astype(dtype)


class OrtDeviceEngine(OrtEngine):
    """One ONNX file whose inputs and outputs are bound to device memory.

    Source: onnxruntime, "I/O Binding".
    """

    device = "cpu"

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """See ``OrtEngine``."""
        super().__init__(source, options)
        self._device_id = options.device

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        try:
            values = self._run_bound(feeds, keep)
            return {name: OnDevice(value) if name in keep else value.numpy() for name, value in values.items()}
        except Exception as error:
            raise failure(self._name, feeds, error) from error

    def _run_bound(self, feeds: Mapping[str, Tensor], keep: Collection[str], run_options: Any = None) -> dict[str, Any]:
        """Run and return the outputs by name as ``OrtValue``s: those in ``keep`` on the device, others on the host."""
        binding = self._session.io_binding()
        # The binding points to the arrays' memory but does not keep the arrays alive.
        arrays = {n: np.ascontiguousarray(t) for n, t in feeds.items() if not isinstance(t, OnDevice)}
        for name, tensor in feeds.items():
            if isinstance(tensor, OnDevice):
                binding.bind_ortvalue_input(name, tensor.value)
            else:
                binding.bind_cpu_input(name, arrays[name])
        if len(arrays) < len(feeds):  # a device copy may still be running on a stream other than the session's
            binding.synchronize_inputs()
        for output in self.outputs:
            device = self.device if output.name in keep else "cpu"
            binding.bind_output(output.name, device, self._device_id if output.name in keep else 0)
        self._session.run_with_iobinding(binding, run_options)
        binding.synchronize_outputs()
        return dict(zip((output.name for output in self.outputs), binding.get_outputs(), strict=True))


class OrtCudaEngine(OrtDeviceEngine):
    """One ONNX file on an NVIDIA GPU."""

    device = "cuda"

    def _load(self, source: EngineSource, settings: onnxruntime.SessionOptions, options: BackendOptions) -> Any:
        load_cuda()
        session = open_session(source, settings, [(CUDA, self._provider(options))])
        # If the provider's library cannot be loaded, onnxruntime uses the CPU and only logs it.
        if CUDA not in session.get_providers():
            raise BackendError(
                f"onnxruntime {onnxruntime.__version__} cannot use GPU {options.device}: its CUDA provider did not "
                "load, most often because CUDA or cuDNN is missing or has a different version than it was built for. "
                f"{INSTALL_GPU}",
                kind="not_installed",
            )
        return session

    def _provider(self, options: BackendOptions) -> dict[str, str]:
        return cuda_provider(options.device)


def load_cuda() -> None:
    """Load the libraries that the CUDA provider needs.

    Raises:
        BackendError: this onnxruntime has no CUDA provider.
    """
    if CUDA not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} here has no CUDA provider. {INSTALL_GPU}", kind="not_installed"
        )
    with redirect_stdout(sys.stderr):  # it prints missing libraries, but stdout is for results
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN installed by pip


def cuda_provider(device: int) -> dict[str, str]:
    """Return the options of onnxruntime's CUDA provider. Args: device: the GPU's index."""
    return {
        "device_id": str(device),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",  # float32 engines compute in float32
    }


def session_settings(options: BackendOptions) -> onnxruntime.SessionOptions:
    """Return the settings that all sessions share."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # Each engine has its own threads; they would keep spinning after a call and slow down the next engine.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    return settings


def open_session(
    source: EngineSource, settings: onnxruntime.SessionOptions, providers: Sequence[Any], *, without: Sequence[str] = ()
) -> Any:
    """Open an onnxruntime session for a file.

    Args:
        source: the file.
        settings: session options.
        providers: onnxruntime's execution providers, with their options.
        without: names of onnxruntime optimisations to disable.

    Raises:
        OutOfMemoryError: the file does not fit into device or host memory.
        BackendError: onnxruntime cannot load the file; the error includes its message.
        EngineError: the file is missing, unreadable or altered.
    """
    content = source.read()
    try:
        # With its fallback, onnxruntime would print the provider's error and retry on the CPU only.
        session = onnxruntime.InferenceSession(
            content, settings, providers=list(providers), disabled_optimizers=list(without), enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions derive directly from Exception
        message = f"onnxruntime {onnxruntime.__version__} cannot load {source.path}: {error}"
        if _is_memory(error):
            raise OutOfMemoryError(f"{message}. Is the memory of the device full?") from error
        # onnxruntime has no error class for this; only the text identifies it.
        raise BackendError(message, kind="unsupported" if _NO_CAPTURE in str(error) else None) from error
    session._model_bytes = None  # otherwise onnxruntime keeps the file's content in addition to the loaded weights
    return session


def failure(name: str, feeds: Mapping[str, Tensor], error: Exception) -> BackendError:
    """Build the error for a failed call from the engine's name, the input shapes and onnxruntime's message."""
    shapes = ", ".join(f"{name} {tensor.shape}" for name, tensor in feeds.items())
    message = f"onnxruntime failed in {name} with {shapes}: {error}"
    if _is_memory(error):
        return OutOfMemoryError(f"{message}. Lower images_per_call or boxes_per_call.")
    if _NO_CUDNN_ATTENTION in message:
        message += (
            ". Set the environment variable ORT_ENABLE_CUDNN_FLASH_ATTENTION=0, so that onnxruntime uses other kernels."
        )
    return BackendError(message)


def _device(provider: str, options: Mapping[str, Mapping[str, str]]) -> str:
    """Name the device of a session. Args: provider: the first provider; options: the options of each provider."""
    number = options.get(provider, {}).get("device_id")
    name = provider.removesuffix("ExecutionProvider")
    if number is None:
        return name
    return (describe_gpu(int(number)) if name in _ON_NVIDIA else None) or f"{name} {number}"


def _is_memory(error: Exception) -> bool:
    # onnxruntime has no error class or code for this; only the text identifies it.
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def _spec(node: Any) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=DTYPES.get(node.type, node.type))
