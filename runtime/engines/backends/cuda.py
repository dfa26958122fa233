"""CUDA runtime calls that the TensorRT backends need: GPU properties, memory, streams, events and copies.

They go through ``cuda.bindings.runtime`` (package cuda-bindings, part of NVIDIA's cuda-python), not through
``polygraphy.cuda``, for three reasons:

- The bindings are linked to their own CUDA runtime and need only the driver. polygraphy 0.53 looks for
  ``libcudart.so`` in ``nvidia/cuda_runtime/lib``, but the CUDA 13 wheels install it in ``nvidia/cu13/lib``.
- The bindings report the GPU's name, its compute capability and the driver version, which are part of a plan's key.
  polygraphy has no such call.
- Every call returns its error code, which this module converts to a ``BackendError``.

NVIDIA's own TensorRT samples (``samples/python/common_runtime.py``) also use these bindings.

CUDA keeps a current GPU for each thread. Call ``use_device`` before allocating, creating a stream or computing.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BackendError, OutOfMemoryError
from runtime.extras import install_command

INSTALL = install_command("tensorrt")


def bindings() -> Any:
    """Import the module ``cuda.bindings.runtime``.

    Raises:
        BackendError: the module is not installed.
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
        The value returned beside the error code, or None.

    Raises:
        OutOfMemoryError: the GPU's memory is full; the message lists the arguments.
        BackendError: the call failed; the message contains CUDA's name of the error.
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
    """Check that the driver is present and the GPU exists.

    Raises:
        BackendError: the driver or the GPU is missing.
    """
    cuda = bindings()
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise BackendError(
            f"no NVIDIA GPU can be used ({error.name}). TensorRT needs a GPU and its driver. Check both with "
            "nvidia-smi, or use backend='cpu'.",
            kind="not_found",
        )
    if device >= count:
        raise BackendError(
            f"device is {device}; CUDA shows this process {count} GPU(s). Pass a device from 0 to {count - 1}.",
            kind="out_of_range",
            field="device",
        )


def use_device(device: int) -> None:
    """Make a GPU the current one of this thread. The call is cheap and does not block."""
    call("cudaSetDevice", device)


def gpu_name_and_sm(device: int) -> tuple[str, str]:
    """Return the name and the compute capability ("9.0") of a GPU."""
    properties = call("cudaGetDeviceProperties", device)
    name = properties.name
    return (name.decode() if isinstance(name, bytes) else str(name)), f"{properties.major}.{properties.minor}"


def driver_version() -> str:
    """Return the newest CUDA version that the driver supports ("13.0"), as the CUDA runtime reports it."""
    return _version(call("cudaDriverGetVersion"))


def runtime_version() -> str:
    """Return the CUDA version of the bindings ("13.0")."""
    return _version(call("cudaRuntimeGetVersion"))


def _version(number: int) -> str:
    """Format a version number of CUDA, which encodes 13.2 as 13020."""
    return f"{number // 1000}.{number % 1000 // 10}"


class Stream:
    """A separate CUDA stream, destroyed with this object."""

    def __init__(self) -> None:
        cuda = bindings()
        # On the default stream, TensorRT would synchronise the whole device at every call.
        self._stream = call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait for all work on the stream."""
        call("cudaStreamSynchronize", self._stream)

    def wait(self, events: Iterable[Event]) -> None:
        """Let later work on the stream start only after these events; the calling thread does not wait."""
        for event in events:
            call("cudaStreamWaitEvent", self._stream, event.handle, 0)

    def __del__(self) -> None:
        _release("cudaStreamDestroy", getattr(self, "_stream", None))


class Event:
    """The point that a stream's work has reached; destroyed with this object."""

    def __init__(self, stream: Stream) -> None:
        """Record the event behind all work so far on the stream."""
        cuda = bindings()
        self.handle = call("cudaEventCreateWithFlags", cuda.cudaEventDisableTiming)
        call("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait for the work before the event."""
        call("cudaEventSynchronize", self.handle)

    def __del__(self) -> None:
        _release("cudaEventDestroy", getattr(self, "handle", None))


class FreeList:
    """Unused memory blocks of one GPU, kept by size class for reuse.

    ``cudaMalloc`` and ``cudaFree`` make the GPU wait for the work of all streams (CUDA programming guide,
    "Stream-Ordered Memory Allocator"). Blocks that are needed repeatedly are therefore kept. They are freed with this
    object, or when memory runs out. The GPU may still use a block when it comes back; its events say until when.

    Destructors return blocks, and may run in any thread and in the middle of any of these methods. The class therefore
    takes no lock and uses only atomic operations: ``append`` and ``pop`` of a deque, ``setdefault`` of a dictionary.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, deque[tuple[int, tuple[Event, ...]]]] = {}
        self._closed = False
        with _free_lists_lock:
            _free_lists.add(self)

    def take(self, size_bytes: int) -> tuple[int, tuple[Event, ...]] | None:
        """Remove a block of this size class and return its address and events; None if there is none."""
        try:
            return self._blocks[size_bytes].pop()
        except (KeyError, IndexError):
            return None

    def give_back(self, address: int, size_bytes: int, events: tuple[Event, ...]) -> None:
        """Keep a block. Args: events: those after which the GPU no longer uses it."""
        if self._closed:  # list and block were both garbage, and the list was finalised first
            _release("cudaFree", address)
        else:
            self._blocks.setdefault(size_bytes, deque()).append((address, events))

    def empty(self) -> None:
        """Free all blocks."""
        for blocks in list(self._blocks.values()):
            while blocks:
                try:
                    address, _ = blocks.pop()
                except IndexError:  # another thread took the last one
                    break
                _release("cudaFree", address)  # waits for all work of the GPU

    def __del__(self) -> None:
        self._closed = True
        self.empty()


_free_lists: weakref.WeakSet[FreeList] = weakref.WeakSet()
_free_lists_lock = threading.Lock()


def empty_free_lists() -> None:
    """Free the unused blocks of all engines of this process, so that any engine can allocate them."""
    with _free_lists_lock:
        free_lists = list(_free_lists)
    for free in free_lists:
        free.empty()


def size_class(size_bytes: int) -> int:
    """Return the size of the block that is allocated for a tensor, at most an eighth larger.

    Calls of nearly the same size, such as 61 and 64 boxes, then share blocks. Four significant bits are kept, rounded
    up, and at least 256 bytes.
    """
    step = 1 << max(8, (size_bytes - 1).bit_length() - 4)
    return max(1, -(-size_bytes // step)) * step


class DeviceMemory:
    """A block of GPU memory, freed or returned to its free list with this object."""

    events: tuple[Event, ...]
    """Events that a stream must wait for before it uses the block: of work in other streams that writes or reads it."""

    def __init__(self, size_bytes: int, device: int, free: FreeList | None = None) -> None:
        """Allocate a block, aligned as TensorRT requires (cudaMalloc aligns to 256 bytes).

        Args:
            size_bytes: requested size, rounded up to its size class.
            device: the GPU, which must be current in this thread.
            free: list to reuse a block of this class from, and to return the block to while the list exists.

        Raises:
            OutOfMemoryError: the GPU's memory is full, even after all free lists were emptied.
        """
        self.size_bytes, self.device = size_class(size_bytes), device
        self._free = None if free is None else weakref.ref(free)
        found = None if free is None else free.take(self.size_bytes)
        self.address, self.events = (_allocate(self.size_bytes), ()) if found is None else found

    def __del__(self) -> None:
        if not hasattr(self, "address"):
            return
        free = None if self._free is None else self._free()
        if free is None:
            _release("cudaFree", self.address)
        else:
            free.give_back(self.address, self.size_bytes, self.events)


class StagingRing:
    """Page-locked host memory through which arrays reach the GPU.

    Without it, CUDA copies through a buffer of its own, and the calling thread waits for the stream first (CUDA runtime
    API, "API synchronization behavior"). Two slots take turns, so that a copy to the GPU and the filling of the next
    slot overlap. After ``send`` returns, the caller may change its array.
    """

    SLOTS = 2

    def __init__(self) -> None:
        self._slots: list[tuple[int, int, Event | None]] = [(0, 0, None)] * self.SLOTS
        """Address, size and last event of each slot."""
        self._next = 0

    def send(self, array: NDArray[Any], memory: DeviceMemory, stream: Stream) -> None:
        """Copy a C-ordered array to a block that is at least as large.

        Raises:
            OutOfMemoryError: page-locked memory has run out.
        """
        address, size, event = self._slots[self._next]
        if event is not None:
            event.synchronize()  # the copy before the last one may still read the slot
        if size < array.nbytes:
            self._slots[self._next] = (0, 0, None)
            _release("cudaFreeHost", address or None)
            size = size_class(array.nbytes)
            address = int(call("cudaHostAlloc", size, 0))
            self._slots[self._next] = (address, size, None)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        kind = bindings().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", memory.address, address, array.nbytes, kind, stream.handle)
        self._slots[self._next] = (address, size, Event(stream))
        self._next = (self._next + 1) % self.SLOTS

    def __del__(self) -> None:
        for address, _, event in getattr(self, "_slots", ()):
            if event is not None:
                _release("cudaEventSynchronize", event.handle)
            _release("cudaFreeHost", address or None)


def _allocate(size_bytes: int) -> int:
    try:
        return int(call("cudaMalloc", size_bytes))
    except OutOfMemoryError:
        empty_free_lists()
    return int(call("cudaMalloc", size_bytes))


def _release(name: str, what: Any) -> None:
    """Release a resource; at process exit the driver may already have done so."""
    if what is not None:
        try:
            getattr(bindings(), name)(what)
        except Exception:
            return


class CudaTensor:
    """A tensor in GPU memory: an engine's output that another engine reads."""

    def __init__(self, memory: DeviceMemory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Args: memory: at least as large as the tensor. shape, dtype: the tensor's, in C order."""
        self.memory, self.dtype = memory, dtype
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``DeviceTensor``."""
        return self._shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Copy the tensor to host memory.

        Raises:
            ValueError: ``copy`` is False; a copy is always needed.
        """
        if copy is False:
            raise ValueError("a tensor on the GPU cannot become an array without a copy")
        use_device(self.memory.device)
        stream = Stream()
        stream.wait(self.memory.events)
        array = to_host(self.memory, self._shape, self.dtype, stream)
        stream.synchronize()
        return array if dtype is None else array.astype(dtype, copy=False)


def to_host(memory: DeviceMemory, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Stream) -> NDArray[Any]:
    """Return an array that holds the tensor only after the stream is synchronised."""
    array = np.empty(shape, dtype)
    kind = bindings().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", array.ctypes.data, memory.address, array.nbytes, kind, stream.handle)
    return array


def size_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size of a tensor in bytes."""
    return math.prod(shape) * dtype.itemsize
