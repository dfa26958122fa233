"""Checks of the backends that can run on this machine, and reasons for those that cannot."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from runtime.engines.backends.choice import onnxruntime_providers, plans_problem
from runtime.engines.backends.gpus import count_gpus

NO_GPU = "no NVIDIA GPU: the driver shows this process none"


def backend_problems(directory: Path, device: int = 0) -> dict[str, str | None]:
    """Return why each backend cannot run the engines of a directory on this machine; None for those that can.

    Args:
        directory: the engine directory.
        device: number of the GPU to use.

    Raises:
        EngineError: there is a GPU and TensorRT, but the manifest cannot be read.
    """
    from runtime.engines.backends.ort import CUDA, INSTALL_GPU
    from runtime.engines.backends.ort_tensorrt import INSTALL, TENSORRT

    gpu = None if count_gpus() else NO_GPU
    return {
        "cpu": None,
        "openvino": None if find_spec("openvino") else "OpenVINO is not installed; the extra 'openvino' adds it",
        "cuda": gpu or _missing(CUDA, INSTALL_GPU),
        "tensorrt": gpu or plans_problem(directory, device),
        "tensorrt-rtx": gpu or plans_problem(directory, device, "tensorrt-rtx"),
        "tensorrt-ort": gpu or _missing(TENSORRT, INSTALL),
    }


def _missing(provider: str, advice: str) -> str | None:
    if provider in onnxruntime_providers():
        return None
    return f"onnxruntime has no {provider}. {advice}"


def onnxruntime_clash() -> str | None:
    """Return advice if onnxruntime and onnxruntime-gpu are both installed, else None.

    They share a folder, and the one installed last overwrites the other.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) < 2:
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files; keep one: "
        "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
