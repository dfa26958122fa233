"""Choice, loading and launches of compiled kernels, on a double of the CUDA driver; errors give advice."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")  # the double takes the arguments from the sources

from runtime import BackendError, BackendOptions, Segmenter
from runtime.engines.backends.cuda import DeviceMemory, Stream
from runtime.engines.kernels.kernel_files import (
    INDEX_NAME,
    KernelFile,
    KernelIndex,
    kernel_directory,
    kernels_for,
    read_index,
)
from runtime.engines.kernels.launcher import GpuKernels
from runtime.errors import ConfigError
from tests.kernel_double import Driver, install, write_index


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return install(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_index(tmp_path / "kernels")
    return tmp_path / "kernels"


@pytest.fixture
def kernels(driver: Driver, directory: Path) -> Iterator[GpuKernels]:
    loaded = GpuKernels(directory, 0)
    yield loaded
    loaded.close()


def launch(kernels: GpuKernels, **changed: Any) -> tuple[int, int]:
    """Launch a kernel with three buffers; return the addresses of two of them."""
    stream, blocks = Stream(), [DeviceMemory(64, 0) for _ in range(3)]
    names = ("levels", "extremes", "out")
    arguments: dict[str, Any] = {**dict(zip(names, blocks, strict=True)), "size": 32, **changed}
    kernels.launch("spread_levels", (3,), stream, **arguments)
    return blocks[0].address, blocks[2].address


def test_a_launch_passes_arguments_as_the_driver_reads_them(kernels: GpuKernels, driver: Driver) -> None:
    assert driver.loaded == [], "kernels are loaded when they are needed"
    levels, out = launch(kernels)
    launch(kernels)
    assert driver.loaded == ["spread_levels spread_levels"]
    first = driver.launches[0]
    assert (first.kernel, first.grid, first.threads, first.shared_bytes) == (
        "spread_levels",
        (3, 1, 1),
        (128, 1, 1),
        512,
    )
    pointer = ctypes.c_void_p
    assert first.types == (pointer, pointer, pointer, ctypes.c_int, pointer, pointer)
    assert first.values[::2] == (levels, out, 0)
    assert first.values[3:] == (32, 0, 0), "scratch pointers are null"
    kernels.close()
    assert driver.unloaded == ["spread_levels spread_levels"]


def test_an_empty_grid_launches_nothing(kernels: GpuKernels, driver: Driver) -> None:
    stream, block = Stream(), DeviceMemory(8, 0)
    kernels.launch("spread_levels", (0,), stream, levels=block, extremes=block, out=block, size=0)
    assert driver.launches == []


def test_wrong_launches_are_rejected(kernels: GpuKernels, driver: Driver) -> None:
    with pytest.raises(BackendError, match=r"spread_levels got .*'more'.*it has .*Compile the kernels again"):
        launch(kernels, more=1)
    with pytest.raises(BackendError, match=r"no kernel 'other'; it has .*Compile"):
        kernels.launch("other", (1,), Stream())
    driver.fails = "cuLaunchKernel"
    with pytest.raises(BackendError, match=r"cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE \(CUDA error 1\)"):
        launch(kernels)


@pytest.mark.parametrize(
    ("capability", "target"),
    [("8.0", "sm_80"), ("8.6", "sm_86"), ("8.7", "sm_86"), ("8.9", "sm_86"), ("9.0", "sm_90a"), ("10.0", "sm_100a")],
)
def test_the_highest_architecture_that_runs_is_chosen(capability: str, target: str) -> None:
    index = made_index("sm_100a", "sm_80", "sm_86", "sm_90a")
    assert [kernel.target for kernel in kernels_for(index, capability, "a GPU", Path("kernels"))] == [target]


@pytest.mark.parametrize("capability", ["7.5", "9.1", "10.3", "12.0"])
def test_a_gpu_without_kernels(capability: str) -> None:
    index = made_index("sm_80", "sm_90a", "sm_100a")
    expected = (
        rf"GPU X has compute capability {capability}; the kernels in kernels are for sm_80, sm_90a, sm_100a\. "
        rf"Compile them for this GPU: python -m export\.kernels --out kernels --compute-capability {capability}"
    )
    with pytest.raises(BackendError, match=expected):
        kernels_for(index, capability, "GPU X", Path("kernels"))


def made_index(*targets: str) -> KernelIndex:
    one: dict[str, Any] = {"name": "k", "entry": "k", "file": "k", "sha256": "", "num_warps": 4, "shared_bytes": 0}
    kernels = (KernelFile(**one, target=target, arguments=(), scratch_pointers=2, constants={}) for target in targets)
    return KernelIndex(schema=1, triton="3.8.0", kernels=tuple(kernels))


def test_a_damaged_directory(driver: Driver, directory: Path) -> None:
    changed = directory / "count_bins-sm_90a.cubin"
    changed.write_bytes(b"other")
    with pytest.raises(BackendError, match=r"count_bins-sm_90a\.cubin has another sha256.*Compile the kernels again"):
        GpuKernels(directory, 0)
    changed.unlink()
    with pytest.raises(BackendError, match=r"count_bins-sm_90a\.cubin cannot be read"):
        GpuKernels(directory, 0)
    index = directory / INDEX_NAME
    content = index.read_text()
    for old, new, message in (
        ('"schema": 1', '"schema": 2', "schema 2; expected 1"),
        ('"num_warps": 4', '"num_warps": "4"', "num_warps"),
        ("count_bins-sm_90a.cubin", "../count_bins", "expected a name without a directory"),
    ):
        index.write_text(content.replace(old, new))
        with pytest.raises(BackendError, match=message):
            read_index(directory)


def test_where_kernels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engines = tmp_path / "engines"
    with pytest.raises(BackendError, match=r"no GPU kernels in .*engines.*Run 'python -m export\.kernels --out"):
        kernel_directory(engines)
    write_index(tmp_path / "cache" / "cellsam-engine" / "kernels")
    assert kernel_directory(engines) == tmp_path / "cache" / "cellsam-engine" / "kernels"
    write_index(engines / "kernels")
    assert kernel_directory(engines) == engines / "kernels"


def test_backends_without_a_gpu_reject_the_option() -> None:
    with pytest.raises(ConfigError, match=r"gpu_kernels needs a backend with a CUDA device: 'cuda'.*is 'cpu'"):
        Segmenter(backend="cpu", options=BackendOptions(gpu_kernels=True))


def test_missing_bindings_name_the_install_command(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"gpu_kernels needs cuda-bindings.*pip install"):
        GpuKernels(directory, 0)
