"""A double of ``cuda.bindings.driver``: it records launches, and can run them in Triton's interpreter.

Arguments are read from ``kernelParams`` as the driver reads them, by position and C type, and pointers are addresses in
the memory of ``tests.tensorrt_double.gpu``. So what the interpreter computes has gone through the launcher. The
interpreter must be switched on before Triton is imported: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from runtime.engines.kernels.kernel_files import SCHEMA, Argument, KernelFile, KernelIndex
from tests.tensorrt_double.gpu import Gpu, make_runtime

DTYPES = {
    "*fp16": np.float16,
    "*fp32": np.float32,
    "*i32": np.int32,
    "*i64": np.int64,
    "*u8": np.uint8,
    "*u16": np.uint16,
}
LARGE_BLOCKS = {"ROWS": 32, "COLUMNS": 64, "BLOCK": 8192}
"""Constants for the interpreter, whose time depends on the number of blocks, not on their size."""
WIDTHS = {"i32": ctypes.c_int, "i64": ctypes.c_longlong, "fp32": ctypes.c_float}


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_FOUND = 500


OK = CUresult.CUDA_SUCCESS


@dataclass
class Launch:
    """One recorded launch."""

    kernel: str
    grid: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared_bytes: int
    stream: int
    values: tuple[Any, ...]
    types: tuple[Any, ...]


@dataclass
class Driver:
    """A record of all calls of the driver."""

    gpu: Gpu
    run: Callable[[Gpu, Launch], None] | None = None
    """Does the work of a launch; without it, launches do nothing."""
    launches: list[Launch] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    fails: str = ""
    """Name of the function that fails."""


def make_driver(driver: Driver) -> ModuleType:
    """Create the module ``cuda.bindings.driver``; each function returns a tuple that starts with the error code."""

    def answer(name: str, *values: Any) -> Any:
        return (CUresult.CUDA_ERROR_INVALID_VALUE if driver.fails == name else OK, *values)

    def cuModuleLoadData(image: bytes) -> Any:
        driver.loaded.append(image.decode())
        return answer("cuModuleLoadData", image.decode())

    def cuModuleGetFunction(hmod: str, name: bytes) -> Any:
        kernel, entry = hmod.split()
        return (
            answer("cuModuleGetFunction", kernel) if name.decode() == entry else (CUresult.CUDA_ERROR_NOT_FOUND, None)
        )

    def cuModuleUnload(hmod: str) -> Any:
        driver.unloaded.append(hmod)
        return answer("cuModuleUnload")

    def cuMemsetD32Async(dstDevice: int, ui: int, N: int, hStream: int) -> Any:
        target = driver.gpu.block(dstDevice, 4 * N).view(np.uint32)
        driver.gpu.enqueue(hStream, lambda: target.fill(ui))
        return answer("cuMemsetD32Async")

    def cuLaunchKernel(f: str, *shape: Any) -> Any:
        blocks, threads, (shared, stream, (values, types), extra) = shape[:3], shape[3:6], shape[6:]
        assert extra == 0
        launch = Launch(f, blocks, threads, shared, stream, values, types)
        driver.launches.append(launch)
        if driver.run is not None:
            driver.gpu.enqueue(stream, lambda: driver.run and driver.run(driver.gpu, launch))
        return answer("cuLaunchKernel")

    module = ModuleType("cuda.bindings.driver")
    functions = (cuModuleLoadData, cuModuleGetFunction, cuModuleUnload, cuMemsetD32Async, cuLaunchKernel)
    for function in functions:
        setattr(module, function.__name__, function)
    module.CUresult = CUresult  # type: ignore[attr-defined]
    return module


def install(monkeypatch: pytest.MonkeyPatch, run: Callable[[Gpu, Launch], None] | None = None) -> Driver:
    """Replace ``cuda.bindings.driver`` and ``cuda.bindings.runtime`` by doubles."""
    driver = Driver(Gpu(), run)
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    runtime, module = make_runtime(driver.gpu), make_driver(driver)
    bindings.runtime, bindings.driver, cuda.bindings = runtime, module, bindings  # type: ignore[attr-defined]
    for name, one in {
        "cuda": cuda,
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": runtime,
        "cuda.bindings.driver": module,
    }.items():
        monkeypatch.setitem(sys.modules, name, one)
    return driver


def write_index(directory: Path, targets: tuple[str, ...] = ("sm_90a",)) -> KernelIndex:
    """Write an index of all kernels, and files that the double loads in place of compiled code."""
    from export.kernels.table import KERNELS

    directory.mkdir(parents=True, exist_ok=True)
    kernels = []
    for target in targets:
        for kernel in KERNELS:
            code = f"{kernel.name} {kernel.function.__name__}".encode()
            file = f"{kernel.name}-{target}.cubin"
            (directory / file).write_bytes(code)
            kernels.append(
                KernelFile(
                    name=kernel.name,
                    entry=kernel.function.__name__,
                    target=target,
                    file=file,
                    sha256=hashlib.sha256(code).hexdigest(),
                    num_warps=4,
                    shared_bytes=512,
                    arguments=tuple(Argument(name=name, type=kind) for name, kind in kernel.types.items()),
                    scratch_pointers=2,
                    constants=constants_of(kernel),
                )
            )
    index = KernelIndex(schema=SCHEMA, triton="3.8.0", kernels=tuple(kernels))
    index.write(directory)
    return index


def constants_of(kernel: Any) -> dict[str, Any]:
    """Return the constants of a kernel, with large blocks."""
    return {name: LARGE_BLOCKS.get(name, value) for name, value in kernel.constants.items()}


def interpret(gpu: Gpu, launch: Launch) -> None:
    """Run a launch in Triton's interpreter, on the memory of the double."""
    import torch

    from export.kernels.table import KERNELS

    (kernel,) = [one for one in KERNELS if one.name == launch.kernel]
    assert len(launch.values) == len(launch.types) == len(kernel.types) + 2, "two scratch pointers"
    arguments = {}
    for (name, kind), value, width in zip(kernel.types.items(), launch.values, launch.types, strict=False):
        if kind.startswith("*"):
            assert width is ctypes.c_void_p
            arguments[name] = torch.from_numpy(gpu.memory[value].view(DTYPES[kind]))
        else:
            assert width is WIDTHS[kind]
            arguments[name] = value
    kernel.function[launch.grid](**arguments, **constants_of(kernel))
