"""Ahead-of-time compilation of the kernels for NVIDIA GPUs; needs no GPU.

Source: Triton, ``python/triton/compiler/compiler.py``: ``compile`` of an ``ASTSource`` for a ``GPUTarget``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from export.kernels.table import CAPABILITIES, KERNELS, Kernel
from runtime.engines.kernels.kernel_files import SCHEMA, Argument, KernelFile, KernelIndex

_WARP = 32
_TARGET = re.compile(r"^\.target (sm_\w+)", re.MULTILINE)
_SHARED_BYTES = 48 << 10
"""Shared memory that a kernel may use without being granted more."""


def compile_kernels(
    directory: Path,
    *,
    capabilities: Iterable[int] = CAPABILITIES,
    kernels: Sequence[Kernel] = KERNELS,
    progress: Callable[[str], None] = lambda line: None,
) -> KernelIndex:
    """Compile kernels and write them with their index; files of an earlier compilation are overwritten.

    Args:
        directory: directory to write to; created.
        capabilities: compute capabilities times ten.
        kernels: the kernels.
        progress: receives a line for each architecture.

    Returns:
        The content of ``kernels.json``.

    Raises:
        RuntimeError: Triton or NVIDIA's assembler failed.
    """
    import triton

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for capability in capabilities:
        written += [_compile(kernel, capability, directory) for kernel in kernels]
        progress(f"{written[-1].target}: {len(kernels)} kernels")
    index = KernelIndex(schema=SCHEMA, triton=triton.__version__, kernels=tuple(written))
    index.write(directory)
    return index


def _compile(kernel: Kernel, capability: int, directory: Path) -> KernelFile:
    """Compile one kernel for one architecture, and write its file."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: kernel.types.get(name, "constexpr") for name in kernel.function.arg_names}
    source = ASTSource(kernel.function, types, dict(kernel.constants))
    # The numpy path rounds every product; a fused multiply-add would not.
    built: Any = triton.compile(
        source, target=GPUTarget("cuda", capability, _WARP), options={"enable_fp_fusion": False}
    )
    code, ptx, about = built.asm["cubin"], built.asm["ptx"], built.metadata
    match = _TARGET.search(ptx)
    parameters = len(re.findall(rf"^\s*\.param .*{about.name}_param_\d+", ptx, re.MULTILINE))
    if match is None or about.shared > _SHARED_BYTES or about.global_scratch_size or parameters < len(kernel.types):
        raise RuntimeError(
            f"Triton {triton.__version__} compiled {kernel.name} to {parameters} parameters, {about.shared} bytes of "
            f"shared and {about.global_scratch_size} bytes of scratch memory; expected at least {len(kernel.types)} "
            f"parameters, at most {_SHARED_BYTES} bytes and 0 bytes. Use another version of Triton."
        )
    file = f"{kernel.name}-{match[1]}.cubin"
    (directory / file).write_bytes(code)
    return KernelFile(
        name=kernel.name,
        entry=about.name,
        target=match[1],
        file=file,
        sha256=hashlib.sha256(code).hexdigest(),
        num_warps=about.num_warps,
        shared_bytes=about.shared,
        arguments=tuple(Argument(name=name, type=kind) for name, kind in kernel.types.items()),
        scratch_pointers=parameters - len(kernel.types),
        constants=dict(kernel.constants),
    )
