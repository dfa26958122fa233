"""Compiled kernels in a directory: their layout, and the choice of those that fit a GPU.

    kernels/kernels.json
    kernels/<kernel>-sm_<capability>.cubin

The directory ``kernels`` of the engine directory is used if it exists, else that of the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.engines.manifest import is_plain_name
from runtime.errors import BackendError
from runtime.typed_json import FieldError, convert

SCHEMA = 1
KERNELS = "kernels"
"""Name of the directory with compiled kernels."""
INDEX_NAME = "kernels.json"
COMMAND = "python -m export.kernels --out"
"""Command that compiles the kernels, without the directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """An argument of a kernel."""

    name: str
    type: str
    """Triton's name of the type: ``i32``, ``i64``, ``fp32``, or a pointer such as ``*fp16``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFile:
    """One kernel, compiled for one architecture."""

    name: str
    """Name of the kernel and its variant."""
    entry: str
    """Name of the function in the file."""
    target: str
    """Architecture: ``sm_86``, or ``sm_90a`` for code that runs on 9.0 alone."""
    file: str
    sha256: str
    num_warps: int
    shared_bytes: int
    """Shared memory of each block."""
    arguments: tuple[Argument, ...]
    scratch_pointers: int
    """Further pointers behind the arguments, all null."""
    constants: dict[str, int | bool]
    """Constants of the compilation, such as the size of a block in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelIndex:
    """Content of ``kernels.json``."""

    schema: int
    triton: str
    """Version of Triton that compiled the kernels."""
    kernels: tuple[KernelFile, ...]

    def write(self, directory: Path) -> None:
        """Write ``kernels.json`` into the directory."""
        (directory / INDEX_NAME).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def kernel_directory(engine_dir: Path) -> Path:
    """Find the compiled kernels: in the engine directory or, if it has none, in the user's cache directory.

    Raises:
        BackendError: neither has any.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellsam-engine"
    places = [engine_dir / KERNELS, cache / KERNELS]
    for place in places:
        if (place / INDEX_NAME).is_file():
            return place
    raise BackendError(
        f"there are no GPU kernels in {places[0]} or {places[1]}; gpu_kernels needs compiled ones. Run '{COMMAND} "
        f"{places[0]}', or leave gpu_kernels out.",
        kind="not_found",
        field="gpu_kernels",
    )


def read_index(directory: Path) -> KernelIndex:
    """Read ``kernels.json``.

    Raises:
        BackendError: the file is unreadable, damaged or of another version.
    """
    path = directory / INDEX_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise BackendError(
                f"{path} has schema {schema!r}; expected {SCHEMA}. Compile the kernels again: {COMMAND} {directory}",
                kind="wrong_version",
            )
        index = convert(content, KernelIndex)
    except (OSError, ValueError, FieldError) as error:
        raise BackendError(
            f"{path} cannot be read ({error}); expected the list that the compilation wrote. Compile the kernels "
            f"again: {COMMAND} {directory}",
            kind="damaged",
        ) from error
    for kernel in index.kernels:
        if not is_plain_name(kernel.file):
            raise BackendError(
                f"{path} lists the file {kernel.file!r}; expected a name without a directory. Compile the kernels "
                f"again: {COMMAND} {directory}",
                kind="damaged",
            )
    return index


def kernels_for(index: KernelIndex, capability: str, gpu: str, directory: Path) -> tuple[KernelFile, ...]:
    """Choose the kernels that run on a GPU: those of the highest architecture that it can execute.

    Code for ``sm_86`` also runs on later GPUs of the same major version; code for ``sm_90a`` runs on 9.0 alone.

    Source: NVIDIA, CUDA programming guide, "Binary Compatibility"; PTX ISA, ".target", architecture-specific targets.

    Args:
        index: all compiled kernels.
        capability: compute capability of the GPU, such as 8.6.
        gpu: name of the GPU, for the error.
        directory: directory of the kernels, for the error.

    Raises:
        BackendError: there are none.
    """
    targets = sorted({kernel.target for kernel in index.kernels}, key=_version)
    fitting = [target for target in targets if _runs_on(target, capability)]
    if not fitting:
        raise BackendError(
            f"{gpu} has compute capability {capability}; the kernels in {directory} are for {', '.join(targets)}. "
            f"Compile them for this GPU: {COMMAND} {directory} --compute-capability {capability}",
            kind="unsupported",
            field="gpu_kernels",
        )
    return tuple(kernel for kernel in index.kernels if kernel.target == fitting[-1])


def _version(target: str) -> tuple[int, int]:
    number = target.removeprefix("sm_").rstrip("af")
    return int(number[:-1]), int(number[-1])


def _runs_on(target: str, capability: str) -> bool:
    major, minor = map(int, capability.split("."))
    built = _version(target)
    return built == (major, minor) if target[-1].isalpha() else built[0] == major and built[1] <= minor


def read_code(directory: Path, kernels: Sequence[KernelFile]) -> dict[str, bytes]:
    """Read and check the files of some kernels.

    Returns:
        The code by name of the kernel.

    Raises:
        BackendError: a file is missing, unreadable or altered.
    """
    code = {}
    for kernel in kernels:
        path = directory / kernel.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BackendError(
                f"{path} cannot be read ({error.strerror}); {INDEX_NAME} lists it. Compile the kernels again: "
                f"{COMMAND} {directory}",
                kind="unreadable",
            ) from error
        if hashlib.sha256(content).hexdigest() != kernel.sha256:
            raise BackendError(
                f"{path} has another sha256 than {INDEX_NAME} lists; expected the file that was compiled. Compile the "
                f"kernels again: {COMMAND} {directory}",
                kind="damaged",
            )
        code[kernel.name] = content
    return code
