"""Launches of compiled kernels through the CUDA driver (``cuda.bindings.driver``), without Triton and torch.

Source: NVIDIA, CUDA driver API, "Module Management" and "Execution Control"; cuda-bindings documentation, "Tips and
Tricks" for ``kernelParams``. Triton passes null pointers for scratch memory behind the arguments.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.backends import cuda
from runtime.engines.kernels.kernel_files import KernelFile, kernels_for, read_code, read_index
from runtime.errors import BackendError
from runtime.extras import install_command

_WARP = 32
"""Threads of a warp."""

_CTYPES: Mapping[str, Any] = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "fp32": ctypes.c_float}

Grid = tuple[int, ...]
"""Number of blocks along up to three axes."""


def driver() -> Any:
    """Import the module ``cuda.bindings.driver``.

    Raises:
        BackendError: the module is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(
            f"gpu_kernels needs cuda-bindings, which cannot be imported ({error}). Install it: "
            f"{install_command('tensorrt')}",
            kind="not_installed",
            field="gpu_kernels",
        ) from error
    return driver


def call_driver(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA driver; return the value beside the error code, or None.

    Raises:
        BackendError: the call failed; the message contains CUDA's name of the error.
    """
    error, *values = getattr(driver(), name)(*arguments)
    if error != driver().CUresult.CUDA_SUCCESS:
        raise BackendError(f"{name} failed: {error.name} (CUDA error {int(error)}).")
    return values[0] if values else None


class GpuKernels:
    """The compiled kernels of a directory on one GPU, each loaded at its first launch. Threads may share them."""

    def __init__(self, directory: Path, device: int) -> None:
        """Read and check the kernels.

        Args:
            directory: directory that ``python -m export.kernels`` wrote.
            device: index of the GPU.

        Raises:
            BackendError: cuda-bindings, the driver or the GPU is missing, or no kernels in the directory fit the GPU.
        """
        driver()
        cuda.check_gpu(device)
        gpu, capability = cuda.gpu_name_and_sm(device)
        kernels = kernels_for(read_index(directory), capability, gpu, directory)
        self.device, self.free = device, cuda.FreeList()
        self._directory = directory
        self._kernels = {kernel.name: kernel for kernel in kernels}
        self._code = read_code(directory, kernels)
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._loading = threading.Lock()

    def close(self) -> None:
        """Unload all kernels. None may be running."""
        cuda.use_device(self.device)
        with self._loading:
            while self._loaded:
                module, _ = self._loaded.popitem()[1]
                call_driver("cuModuleUnload", module)
        self.free.empty()

    def constant(self, name: str, constant: str) -> int:
        """Return a constant with which a kernel was compiled, such as the size of its blocks."""
        return int(self._kernel(name).constants[constant])

    def launch(self, name: str, grid: Grid, stream: cuda.Stream, **arguments: Any) -> None:
        """Launch a kernel; the GPU of the kernels must be current in this thread.

        Args:
            name: name of the kernel.
            grid: number of blocks; nothing is launched if it is 0 along an axis.
            stream: the stream that the kernel runs in.
            arguments: all arguments by name: ``DeviceMemory`` for pointers, numbers for others.

        Raises:
            BackendError: there is no such kernel, the arguments are not its own, or the launch failed.
        """
        kernel = self._kernel(name)
        if arguments.keys() != {argument.name for argument in kernel.arguments}:
            raise BackendError(
                f"the kernel {name} got the arguments {sorted(arguments)}; it has "
                f"{[argument.name for argument in kernel.arguments]}. Compile the kernels again with this version.",
                kind="mismatch",
            )
        if 0 in grid:
            return
        packed = [_packed(argument.type, arguments[argument.name]) for argument in kernel.arguments]
        packed += [(0, ctypes.c_void_p)] * kernel.scratch_pointers
        values, types = zip(*packed, strict=True)
        blocks = (*grid, 1, 1)[:3]
        threads = (_WARP * kernel.num_warps, 1, 1)
        shape = (*blocks, *threads, kernel.shared_bytes)
        call_driver("cuLaunchKernel", self._function(kernel), *shape, stream.handle, (values, types), 0)

    def _kernel(self, name: str) -> KernelFile:
        if name not in self._kernels:
            raise BackendError(
                f"{self._directory} has no kernel {name!r}; it has {', '.join(sorted(self._kernels))}. Compile the "
                "kernels again with this version.",
                kind="not_found",
            )
        return self._kernels[name]

    def _function(self, kernel: KernelFile) -> Any:
        with self._loading:
            if kernel.name not in self._loaded:
                module = call_driver("cuModuleLoadData", self._code[kernel.name])
                self._loaded[kernel.name] = module, call_driver("cuModuleGetFunction", module, kernel.entry.encode())
            return self._loaded[kernel.name][1]


def _packed(kind: str, value: Any) -> tuple[Any, Any]:
    """Return an argument as cuda-bindings passes it: the value and its ctypes type."""
    if kind.startswith("*"):
        return value.address, ctypes.c_void_p
    return (float(value) if kind == "fp32" else int(value)), _CTYPES[kind]


class DeviceWork:
    """A stream of kernel launches, with the memory that they use. One thread at a time may use it."""

    def __init__(self, kernels: GpuKernels) -> None:
        """Create the stream on the GPU of the kernels."""
        self.kernels = kernels
        self.use()
        self.stream, self._ring = cuda.Stream(), cuda.StagingRing()
        self._held: list[cuda.DeviceMemory] = []

    def use(self) -> None:
        """Make the GPU the current one of this thread."""
        cuda.use_device(self.kernels.device)

    def empty(self, size_bytes: int) -> cuda.DeviceMemory:
        """Allocate memory whose content is unknown; it may be used in this stream alone."""
        memory = cuda.DeviceMemory(max(1, size_bytes), self.kernels.device, self.kernels.free)
        self.stream.wait(memory.events)
        memory.events = ()
        self._held.append(memory)
        return memory

    def filled(self, count: int, bits: int) -> cuda.DeviceMemory:
        """Allocate ``count`` values of 32 bits and set all to the same bits."""
        memory = self.empty(4 * count)
        call_driver("cuMemsetD32Async", memory.address, bits, count, self.stream.handle)
        return memory

    def send(self, array: NDArray[Any]) -> cuda.DeviceMemory:
        """Copy an array to the GPU."""
        memory = self.empty(array.nbytes)
        if array.nbytes:
            self._ring.send(np.ascontiguousarray(array), memory, self.stream)
        return memory

    def launch(self, name: str, grid: Grid, **arguments: Any) -> None:
        """Launch a kernel in this stream; see ``GpuKernels.launch``."""
        self.kernels.launch(name, grid, self.stream, **arguments)

    def receive(self, memory: cuda.DeviceMemory, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Copy an array from the GPU after all work so far, and wait for it."""
        array = cuda.to_host(memory, shape, np.dtype(dtype), self.stream)
        self.stream.synchronize()
        return array

    def finish(self) -> None:
        """Wait for all work, and release the memory that no caller holds any more."""
        self.stream.synchronize()
        self._held.clear()
