"""Ahead-of-time compilation of the kernels, which needs no GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("triton")

from export.kernels.compile import compile_kernels
from export.kernels.table import CAPABILITIES, KERNELS
from runtime.engines.kernels.kernel_files import kernels_for, read_code, read_index

ELF = b"\x7fELF"


def test_types_name_all_arguments_in_order() -> None:
    for kernel in KERNELS:
        names = list(kernel.function.arg_names)
        assert [*kernel.types, *kernel.constants] == [
            *(name for name in names if name in kernel.types),
            *kernel.constants,
        ]
        assert sorted(names) == sorted([*kernel.types, *kernel.constants]), kernel.name
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)


def test_one_kernel_compiles_for_one_architecture(tmp_path: Path) -> None:
    (chosen,) = [kernel for kernel in KERNELS if kernel.name == "look_up_bins_u16"]
    written = compile_kernels(tmp_path / "kernels", capabilities=[90], kernels=[chosen])
    index = read_index(tmp_path / "kernels")
    assert index == written
    (kernel,) = kernels_for(index, "9.0", "H100", tmp_path / "kernels")
    code = read_code(tmp_path / "kernels", [kernel])["look_up_bins_u16"]
    assert code.startswith(ELF)
    assert hashlib.sha256(code).hexdigest() == kernel.sha256
    assert (kernel.entry, kernel.target, kernel.num_warps) == ("look_up_bins", "sm_90a", 4)
    assert [(argument.name, argument.type) for argument in kernel.arguments] == list(chosen.types.items())
    assert kernel.constants == {"BLOCK": 1024}


@pytest.mark.slow
def test_all_kernels_compile_for_all_architectures(tmp_path: Path) -> None:
    index = compile_kernels(tmp_path)
    assert len(index.kernels) == len(KERNELS) * len(CAPABILITIES)
    for capability in CAPABILITIES:
        chosen = kernels_for(index, f"{capability / 10:.1f}", "a GPU", tmp_path)
        assert {kernel.name for kernel in chosen} == {kernel.name for kernel in KERNELS}
        assert all(code.startswith(ELF) for code in read_code(tmp_path, chosen).values())
