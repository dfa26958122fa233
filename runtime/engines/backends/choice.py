"""Choose the backend that ``auto`` means on this machine, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from runtime.engines.backends.gpus import count_gpus
from runtime.engines.backends.plan_keys import LIBRARIES, PlanBackend
from runtime.engines.backends.tensorrt import TensorRtEngine
from runtime.engines.backends.tensorrt_rtx import RtxEngine
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.errors import BackendError


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend that ``auto`` means, and the reason."""

    backend: str
    reason: str
    left_unused: tuple[str, ...] = ()
    """Hardware or plans that the choice does not use (a GPU, TensorRT plans), each with the reason."""

    def __str__(self) -> str:
        return "; ".join((self.reason, *self.left_unused))


def choose_backend(directory: Path, device: int = 0) -> BackendChoice:
    """Choose the fastest backend that can run on this machine.

    TensorRT is chosen only if every engine has a plan that fits this machine; plans that were measured on this GPU come
    before those of TensorRT for RTX. ``tensorrt-ort`` is never chosen, because building its engines takes minutes.

    Args:
        directory: the engine directory.
        device: number of the GPU to use.

    Raises:
        EngineError: the directory holds plans, or there is a GPU, but the manifest cannot be used.
    """
    gpus = count_gpus()
    unused: tuple[str, ...] = ()
    if gpus and _in_integers(directory):
        gpus, unused = 0, ("the GPU is not used: engines with 8-bit integers are for CPUs",)
    for backend, library in LIBRARIES.items():
        if gpus and (directory / backend).is_dir():
            problem = plans_problem(directory, device, backend)
            if problem is None:
                return BackendChoice(backend, f"found a GPU, {library} and plans")
            unused = (*unused, f"{library} is not used: {problem}")
    if gpus and "CUDAExecutionProvider" in onnxruntime_providers():
        return BackendChoice("cuda", "found a GPU and onnxruntime's CUDA provider", unused)
    if gpus:
        missing = "the GPU is not used because onnxruntime has no CUDA provider: install onnxruntime-gpu"
        unused = (missing, *unused)
    if find_spec("openvino") is not None:
        return BackendChoice("openvino", "found OpenVINO, which is faster on a CPU than onnxruntime", unused)
    return BackendChoice("cpu", "onnxruntime always runs on the CPU", unused)


def _in_integers(directory: Path) -> bool:
    """Return whether engines use 8-bit integers; False without a manifest, whose reader raises the error."""
    if not (directory / MANIFEST_NAME).is_file():
        return False
    return any(spec.integers for spec in read_manifest(directory).engines.values())


def plans_problem(directory: Path, device: int, backend: PlanBackend = "tensorrt") -> str | None:
    """Return why the plans of a directory cannot be used on this machine; None if they can."""
    engine = TensorRtEngine if backend == "tensorrt" else RtxEngine
    try:
        engine.check_usable(directory, read_manifest(directory).engines.values(), device)
    except BackendError as error:
        return str(error)
    return None


def onnxruntime_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
