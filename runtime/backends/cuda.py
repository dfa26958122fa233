"""The few calls into the CUDA runtime that the TensorRT backend needs: facts of the GPU, memory, streams, copies.

They go through ``cuda.bindings.runtime`` (package cuda-bindings, part of NVIDIA's cuda-python), not through
``polygraphy.cuda``, for three reasons:

- the bindings are linked to their own CUDA runtime and need the driver alone, while polygraphy 0.53 opens a
  ``libcudart.so`` that it looks for in ``nvidia/cuda_runtime/lib``, where the wheels of CUDA 13 no longer put it
  (``nvidia/cu13/lib``);
- they tell the GPU's name, its compute capability and the driver's version, which a plan's key holds; polygraphy has no
  such call;
- every call returns its error code, which becomes a ``BackendError`` here.

NVIDIA's own TensorRT samples (``samples/python/common_runtime.py``) use them likewise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BackendError

INSTALL = "pip install 'cellsam-engine[tensorrt]'"


def bindings() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(f"the backend 'tensorrt' needs cuda-bindings ({error}): {INSTALL}.") from error
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime.

    Returns:
        What it gives beside its error code: nothing or one value.

    Raises:
        BackendError: it failed; CUDA's own name of the error is kept.
    """
    cuda = bindings()
    error, *values = getattr(cuda, name)(*arguments)
    if error != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"{name} failed: {error.name} (CUDA error {int(error)}).")
    return values[0] if values else None


def check_gpu() -> None:
    """Check that there are a driver and a GPU.

    Raises:
        BackendError: there are not.
    """
    cuda = bindings()
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise BackendError(
            f"no NVIDIA GPU can be used ({error.name}). The backend 'tensorrt' needs one and its driver; check with "
            "nvidia-smi, or use backend='cpu'."
        )


def gpu_name_and_sm() -> tuple[str, str]:
    """Name and compute capability ("9.0") of the current GPU."""
    properties = call("cudaGetDeviceProperties", call("cudaGetDevice"))
    name = properties.name
    return (name.decode() if isinstance(name, bytes) else str(name)), f"{properties.major}.{properties.minor}"


def driver_version() -> str:
    """The newest CUDA version that the driver supports ("13.0"): how the CUDA runtime names drivers."""
    return _version(call("cudaDriverGetVersion"))


def runtime_version() -> str:
    """The CUDA version of the bindings ("13.0")."""
    return _version(call("cudaRuntimeGetVersion"))


def _version(number: int) -> str:
    """CUDA writes 13.2 as 13020."""
    return f"{number // 1000}.{number % 1000 // 10}"


class Stream:
    """A CUDA stream of its own, destroyed with this object."""

    def __init__(self) -> None:
        cuda = bindings()
        # The default stream would make TensorRT wait for the whole device at every call.
        self._stream = call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait for all that was put on the stream."""
        call("cudaStreamSynchronize", self._stream)

    def __del__(self) -> None:
        _release("cudaStreamDestroy", getattr(self, "_stream", None))


class DeviceMemory:
    """A block of the GPU's memory, freed with this object."""

    def __init__(self, size_bytes: int) -> None:
        """Allocate at least one byte, at an address that TensorRT takes (cudaMalloc aligns to 256)."""
        self.size_bytes = max(1, size_bytes)
        self.address = int(call("cudaMalloc", self.size_bytes))

    def __del__(self) -> None:
        _release("cudaFree", getattr(self, "address", None))


def _release(name: str, what: Any) -> None:
    """Give something back; at the end of the process the driver may have done so already."""
    if what is not None:
        try:
            getattr(bindings(), name)(what)
        except Exception:
            return


class CudaTensor:
    """A tensor in the GPU's memory; an engine's output that goes on to another engine."""

    def __init__(self, memory: DeviceMemory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Args: memory: at least as large as the tensor. shape, dtype: of the tensor, C order."""
        self.memory, self.dtype = memory, dtype
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self._shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy in the host's memory.

        Raises:
            ValueError: asked for without a copy, which cannot be.
        """
        if copy is False:
            raise ValueError("a tensor on the GPU cannot become an array without a copy")
        stream = Stream()
        array = to_host(self.memory, self._shape, self.dtype, stream)
        stream.synchronize()
        return array if dtype is None else array.astype(dtype, copy=False)


def to_device(array: NDArray[Any], memory: DeviceMemory, stream: Stream) -> None:
    """Copy a C-ordered array into a block as large or larger. The array must live until the stream is synchronised."""
    kind = bindings().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", memory.address, array.ctypes.data, array.nbytes, kind, stream.handle)


def to_host(memory: DeviceMemory, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Stream) -> NDArray[Any]:
    """An array that holds the tensor once the stream is synchronised, not before."""
    array = np.empty(shape, dtype)
    kind = bindings().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", array.ctypes.data, memory.address, array.nbytes, kind, stream.handle)
    return array


def size_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Of a tensor."""
    return math.prod(shape) * dtype.itemsize
