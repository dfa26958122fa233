"""What ``backend="auto"`` stands for on this machine, and why."""

from __future__ import annotations

from importlib.util import find_spec

from runtime.backends.gpus import count_gpus


def choose_backend(*, has_plans: bool) -> tuple[str, str]:
    """The fastest backend that can run here.

    Args:
        has_plans: TensorRT plans lie in the engine directory.

    Returns:
        Its name, and the reason in words. Where a GPU is left unused, the reason says what is missing.
    """
    gpus = count_gpus()
    if gpus and has_plans and find_spec("tensorrt") is not None:
        return "tensorrt", "a GPU, TensorRT and plans are here"
    if gpus and _onnxruntime_has_cuda():
        return "cuda", "a GPU and onnxruntime's CUDA provider are here"
    unused = ""
    if gpus:
        unused = "; the GPU is not used, because onnxruntime has no CUDA provider: install onnxruntime-gpu"
    if find_spec("openvino") is not None:
        return "openvino", f"OpenVINO is here, which is faster on a CPU than onnxruntime{unused}"
    return "cpu", f"onnxruntime on the CPU always works{unused}"


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
