"""A test double of TensorRT and of the CUDA runtime, for machines without a GPU.

Names and arguments come from the documentation (``api.json``); ``tests/test_tensorrt_double.py`` compares the double
with it. The double cannot show whether TensorRT builds these graphs, or how fast and accurate the plans are.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tests.tensorrt_double.gpu import Gpu, make_runtime
from tests.tensorrt_double.trt import Double, make_tensorrt

__all__ = ["Double", "Gpu", "install"]


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> Double:
    """Replace the modules that ``import tensorrt`` and ``from cuda.bindings import runtime`` load by doubles."""
    double = Double(version, Gpu())
    cuda, bindings, runtime = ModuleType("cuda"), ModuleType("cuda.bindings"), make_runtime(double.gpu)
    bindings.runtime = runtime  # type: ignore[attr-defined]
    cuda.bindings = bindings  # type: ignore[attr-defined]
    modules = {"cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime}
    for name, module in {**modules, "tensorrt": make_tensorrt(double)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return double
