"""A double of ``cuda.bindings.runtime``: memory in a dictionary, and streams that work only when waited for.

Work on a stream is done when the stream, or an event behind the work, is waited for, not earlier. So a test fails if
code reads a result too soon, reuses memory too soon, or does not wait at all. ``cudaFree`` waits for all streams.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BASE = 0x7000_0000_0000
"""Start of device addresses, where no process has memory; using one on the host ends the test run."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


OK, INVALID = cudaError_t.cudaSuccess, cudaError_t.cudaErrorInvalidValue


class Handle:
    """A stream, as returned by the bindings."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


@dataclass
class Recorded:
    """The state of an event: a place in the work of a stream."""

    stream: int
    done: bool = False


@dataclass
class Gpu:
    """The GPUs of the machine; tests change the fields."""

    name: str = "NVIDIA H100 80GB HBM3"
    sm: tuple[int, int] = (9, 0)
    driver: int = 13000
    runtime: int = 13000
    count: int = 1
    others: dict[int, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    """Name and compute capability of GPUs that differ from the first."""
    memory: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    streams: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    host_copies: list[tuple[str, int]] = field(default_factory=list)
    """Kind and size in bytes of each copy to or from the host."""
    events: dict[int, Recorded | None] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    """Page-locked blocks of host memory by address."""
    synchronizations: int = 0
    """Number of times that a thread waited for a stream."""
    free_bytes: int = 1 << 34
    """Limit for all memory allocated at a time."""
    devices: dict[int, int] = field(default_factory=dict)
    """GPU of each block and stream."""
    allocations: int = 0
    """Number of calls of cudaMalloc and cudaFree."""
    synchronize_fails: bool = False
    """Fail as after a kernel that read beyond its memory."""

    def __post_init__(self) -> None:
        self._next = itertools.count(1)
        self._lock = threading.RLock()  # a destructor may free memory during an allocation
        self._current = threading.local()

    @property
    def current(self) -> int:
        """The current GPU of this thread; 0 if the thread has not set one."""
        return getattr(self._current, "device", 0)

    @property
    def current_sm(self) -> tuple[int, int]:
        """Compute capability of the current GPU."""
        return self.others.get(self.current, (self.name, self.sm))[1]

    def allocate(self, size: int) -> int | None:
        """Allocate a block on the current GPU; return None if it is full."""
        with self._lock:
            if sum(block.size for block in list(self.memory.values())) + size > self.free_bytes:
                return None
            address = BASE + (next(self._next) << 32)
            self.devices[address] = self.current
            self.memory[address] = np.full(size, 0xA5, np.uint8)
        return address

    def block(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
        """Return device memory at an allocated address, at most as many bytes as were allocated."""
        block = self.memory.get(address)
        assert block is not None, f"{address:#x} is not device memory, or was freed"
        assert size_bytes <= block.size, f"{size_bytes} bytes of a block of {block.size}"
        return block[:size_bytes]

    def drain(self, stream: int, event: Recorded | None = None) -> None:
        """Do the work of a stream, all of it or up to an event."""
        with self._lock:
            waiting = self.streams.get(stream, [])
            while waiting and not (event and event.done):
                waiting.pop(0)()

    def is_pinned(self, address: int) -> bool:
        return any(start <= address < start + len(block) for start, block in self.pinned.items())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert stream in self.streams, f"{stream} is not a stream, or was destroyed"
        self.streams[stream].append(work)


def make_runtime(gpu: Gpu) -> ModuleType:
    """Create the module; each function returns a tuple that starts with the error code."""

    def cudaGetDeviceCount() -> Any:
        return (OK, gpu.count) if gpu.count else (cudaError_t.cudaErrorNoDevice, None)

    def cudaSetDevice(device: int) -> Any:
        if device >= gpu.count:
            return (cudaError_t.cudaErrorInvalidDevice,)
        gpu._current.device = device
        return (OK,)

    def cudaGetDeviceProperties(device: int) -> Any:
        name, sm = gpu.others.get(device, (gpu.name, gpu.sm))
        return OK, SimpleNamespace(name=name.encode(), major=sm[0], minor=sm[1])

    def cudaDriverGetVersion() -> Any:
        return OK, gpu.driver

    def cudaRuntimeGetVersion() -> Any:
        return OK, gpu.runtime

    def cudaMalloc(size: int) -> Any:
        gpu.allocations += 1
        address = gpu.allocate(size)
        return (cudaError_t.cudaErrorMemoryAllocation, None) if address is None else (OK, address)

    def cudaFree(devPtr: int) -> Any:
        gpu.allocations += 1
        for stream in list(gpu.streams):
            gpu.drain(stream)
        return (OK if gpu.memory.pop(devPtr, None) is not None else INVALID,)

    def cudaHostAlloc(size: int, flags: int) -> Any:
        block = ctypes.create_string_buffer(size)
        gpu.pinned[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaFreeHost(ptr: int) -> Any:
        return (OK if gpu.pinned.pop(ptr, None) is not None else INVALID,)

    def cudaEventCreateWithFlags(flags: int) -> Any:
        assert flags == 2, "events with times are slower"
        with gpu._lock:
            number = next(gpu._next)
        gpu.events[number] = None
        return OK, Handle(number)

    def cudaEventRecord(event: Any, stream: Any) -> Any:
        recorded = gpu.events[int(event)] = Recorded(int(stream))
        gpu.enqueue(int(stream), lambda: setattr(recorded, "done", True))
        return (OK,)

    def cudaEventSynchronize(event: Any) -> Any:
        recorded = gpu.events[int(event)]
        if recorded is not None:
            gpu.drain(recorded.stream, recorded)
        return (OK,)

    def cudaEventDestroy(event: Any) -> Any:
        return (OK if gpu.events.pop(int(event), INVALID) is not INVALID else INVALID,)

    def cudaStreamWaitEvent(stream: Any, event: Any, flags: int) -> Any:
        recorded = gpu.events[int(event)]
        if recorded is not None:
            gpu.enqueue(int(stream), lambda: gpu.drain(recorded.stream, recorded))
        return (OK,)

    def cudaStreamCreateWithFlags(flags: int) -> Any:
        assert flags == 1
        with gpu._lock:
            number = next(gpu._next)
        gpu.devices[number] = gpu.current
        gpu.streams[number] = []
        return OK, Handle(number)

    def cudaStreamSynchronize(stream: Any) -> Any:
        gpu.synchronizations += 1
        if gpu.synchronize_fails:
            gpu.streams[int(stream)].clear()
            return (cudaError_t.cudaErrorIllegalAddress,)
        gpu.drain(int(stream))
        return (OK,)

    def cudaStreamDestroy(stream: Any) -> Any:
        gpu.drain(int(stream))  # CUDA keeps a destroyed stream until its work is done
        return (OK if gpu.streams.pop(int(stream), None) is not None else INVALID,)

    def cudaMemcpyAsync(dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any) -> Any:
        gpu.host_copies.append((kind.name, count))
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            target = gpu.block(dst, count)
            content = None if gpu.is_pinned(src) else ctypes.string_at(src, count)  # pageable memory is read now

            def work() -> None:
                assert dst in gpu.memory, "freed before the copy"
                target[:] = np.frombuffer(ctypes.string_at(src, count) if content is None else content, np.uint8)
        else:
            assert kind == cudaMemcpyKind.cudaMemcpyDeviceToHost

            def work() -> None:
                ctypes.memmove(dst, gpu.block(src, count).ctypes.data, count)

        gpu.enqueue(int(stream), work)
        return (OK,)

    module = ModuleType("cuda.bindings.runtime")
    functions = [value for value in locals().values() if callable(value) and value is not gpu]
    for function in functions:
        if getattr(function, "__name__", "").startswith("cuda"):
            setattr(module, function.__name__, function)
    module.cudaError_t, module.cudaMemcpyKind = cudaError_t, cudaMemcpyKind  # type: ignore[attr-defined]
    module.cudaStreamNonBlocking = 1  # type: ignore[attr-defined]
    module.cudaEventDisableTiming = 2  # type: ignore[attr-defined]
    return module
