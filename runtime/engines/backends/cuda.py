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

CUDA keeps a current GPU for every thread; ``use_device`` comes before whatever allocates, makes a stream or computes.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BackendError, OutOfMemoryError
from runtime.extras import install_command

INSTALL = install_command("tensorrt")


def bindings() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f"the backend 'tensorrt' needs cuda-bindings ({error}): {INSTALL}.", kind="not_installed"
        ) from error
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime.

    Returns:
        What it gives beside its error code: nothing or one value.

    Raises:
        OutOfMemoryError: the GPU's memory is full; what was asked for is said.
        BackendError: it failed; CUDA's own name of the error is kept.
    """
    cuda = bindings()
    error, *values = getattr(cuda, name)(*arguments)
    if error == cuda.cudaError_t.cudaErrorMemoryAllocation:
        asked = ", ".join(map(str, arguments))
        raise OutOfMemoryError(f"{name}({asked}) failed: {error.name} (CUDA error {int(error)}).")
    if error != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"{name} failed: {error.name} (CUDA error {int(error)}).")
    return values[0] if values else None


def check_gpu(device: int) -> None:
    """Check that there are a driver and the GPU of a number.

    Raises:
        BackendError: there are not.
    """
    cuda = bindings()
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise BackendError(
            f"no NVIDIA GPU can be used ({error.name}). TensorRT needs one and its driver; check with nvidia-smi, or "
            "use backend='cpu'.",
            kind="not_found",
        )
    if device >= count:
        raise BackendError(
            f"device is {device}; CUDA shows this process {count} GPU(s): give 0 to {count - 1}.",
            kind="out_of_range",
            field="device",
        )


def use_device(device: int) -> None:
    """Make a GPU the current one of this thread. A cheap call: it waits for nothing."""
    call("cudaSetDevice", device)


def gpu_name_and_sm(device: int) -> tuple[str, str]:
    """Name and compute capability ("9.0") of a GPU."""
    properties = call("cudaGetDeviceProperties", device)
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


class FreeList:
    """Blocks of one GPU's memory that nothing uses, kept by size for the next that asks for as much.

    ``cudaMalloc`` and ``cudaFree`` make the GPU wait for the work of all streams (CUDA programming guide,
    "Stream-Ordered Memory Allocator"), so that a block which is needed again and again is not given back in between.
    Freed with this object, and where memory runs out.

    Blocks come back from destructors, which may run in any thread, in the midst of any of these methods. So there is no
    lock, but operations that are whole by themselves: a deque's ``append`` and ``pop``, a dictionary's ``setdefault``.
    """

    def __init__(self) -> None:
        self._addresses: dict[int, deque[int]] = {}
        self._closed = False
        with _free_lists_lock:
            _free_lists.add(self)

    def take(self, size_bytes: int) -> int | None:
        """Address of a block of exactly this size; None where there is none."""
        try:
            return self._addresses[size_bytes].pop()
        except (KeyError, IndexError):
            return None

    def give_back(self, address: int, size_bytes: int) -> None:
        """Keep a block that no work on the GPU uses any more."""
        if self._closed:  # both were garbage, and this was finalised first
            _release("cudaFree", address)
        else:
            self._addresses.setdefault(size_bytes, deque()).append(address)

    def empty(self) -> None:
        """Free all blocks."""
        for addresses in list(self._addresses.values()):
            while addresses:
                try:
                    address = addresses.pop()
                except IndexError:  # another thread took the last one
                    break
                _release("cudaFree", address)

    def __del__(self) -> None:
        self._closed = True
        self.empty()


_free_lists: weakref.WeakSet[FreeList] = weakref.WeakSet()
_free_lists_lock = threading.Lock()


def empty_free_lists() -> None:
    """Free what all engines of this process hold without using it: memory that one lacks may lie with another."""
    with _free_lists_lock:
        free_lists = list(_free_lists)
    for free in free_lists:
        free.empty()


class DeviceMemory:
    """A block of the GPU's memory; with this object, it is freed or goes back to its free list."""

    def __init__(self, size_bytes: int, device: int, free: FreeList | None = None) -> None:
        """Take at least one byte, at an address that TensorRT takes (cudaMalloc aligns to 256).

        Args:
            size_bytes: at least.
            device: the GPU, which is the current one of this thread.
            free: where it is taken from if there is one of this size, and goes back to as long as that exists.

        Raises:
            OutOfMemoryError: there is not so much, even after all free lists were emptied.
        """
        self.size_bytes, self.device = max(1, size_bytes), device
        self._free = None if free is None else weakref.ref(free)
        address = None if free is None else free.take(self.size_bytes)
        self.address = _allocate(self.size_bytes) if address is None else address

    def __del__(self) -> None:
        if not hasattr(self, "address"):
            return
        free = None if self._free is None else self._free()
        if free is None:
            _release("cudaFree", self.address)
        else:
            free.give_back(self.address, self.size_bytes)


def _allocate(size_bytes: int) -> int:
    try:
        return int(call("cudaMalloc", size_bytes))
    except OutOfMemoryError:
        empty_free_lists()
    return int(call("cudaMalloc", size_bytes))


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
        use_device(self.memory.device)
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
