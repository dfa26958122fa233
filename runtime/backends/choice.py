"""What ``backend="auto"`` stands for on this machine, and why."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from runtime.backends.gpus import count_gpus
from runtime.errors import BackendError
from runtime.manifest import MANIFEST_NAME, read_manifest
from runtime.plans import PLANS


def choose_backend(directory: Path, device: int = 0) -> tuple[str, str]:
    """The fastest backend that can run here.

    TensorRT is it only if there are plans for every engine that fit this machine as it is now. ``tensorrt-ort`` never
    is: who asked for nothing should not wait minutes for engines to be built.

    Args:
        directory: the engines.
        device: the GPU that would be used.

    Returns:
        Its name, and the reason in words. Where a GPU or plans are left unused, the reason says "not used" and why.

    Raises:
        EngineError: there are plans, or a GPU, but the manifest is not usable.
    """
    gpus = count_gpus()
    unused = ""
    if gpus and _in_integers(directory):
        gpus, unused = 0, "; the GPU is not used: engines exported with --precision int8 are for CPUs"
    if gpus and (directory / PLANS).is_dir():
        problem = _plans_problem(directory, device)
        if problem is None:
            return "tensorrt", "a GPU, TensorRT and plans are here"
        unused = f"; TensorRT is not used: {problem}"
    if gpus and _onnxruntime_has_cuda():
        return "cuda", f"a GPU and onnxruntime's CUDA provider are here{unused}"
    if gpus:
        unused = f"; the GPU is not used, because onnxruntime has no CUDA provider: install onnxruntime-gpu{unused}"
    if find_spec("openvino") is not None:
        return "openvino", f"OpenVINO is here, which is faster on a CPU than onnxruntime{unused}"
    return "cpu", f"onnxruntime on the CPU always works{unused}"


def _in_integers(directory: Path) -> bool:
    """Whether engines are in 8-bit integers; a directory without a manifest is left to who reads it."""
    if not (directory / MANIFEST_NAME).is_file():
        return False
    return any(spec.integers for spec in read_manifest(directory).engines.values())


def _plans_problem(directory: Path, device: int) -> str | None:
    """Why the plans of a directory cannot be used here; None where they can."""
    from runtime.backends.tensorrt import check_usable  # it needs the backends' base, which needs this

    try:
        check_usable(directory, read_manifest(directory).engines.values(), device)
    except BackendError as error:
        return str(error)
    return None


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
