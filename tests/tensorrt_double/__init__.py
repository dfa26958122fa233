"""A test double of TensorRT and of the CUDA runtime, for machines without a GPU.

Names and arguments come from the documentation (``api.json``); ``tests/test_tensorrt_double.py`` compares the double
with it. The double cannot show whether TensorRT builds these graphs, or how fast and accurate the plans are.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tests.tensorrt_double.gpu import Gpu, make_runtime
from tests.tensorrt_double.strict import RTX
from tests.tensorrt_double.trt import Double, make_tensorrt

__all__ = ["RTX", "Double", "Gpu", "install"]


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> Double:
    """Replace the modules that ``import tensorrt`` and ``from cuda.bindings import runtime`` load by doubles.

    With the version ``RTX``, ``import tensorrt_rtx`` loads the double, and ``import tensorrt`` is left alone.
    """
    double = Double(version, Gpu())
    cuda, bindings, runtime = ModuleType("cuda"), ModuleType("cuda.bindings"), make_runtime(double.gpu)
    bindings.runtime = runtime  # type: ignore[attr-defined]
    cuda.bindings = bindings  # type: ignore[attr-defined]
    modules = {"cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime}
    library = "tensorrt_rtx" if version == RTX else "tensorrt"
    for name, module in {**modules, library: make_tensorrt(double)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for module in [module for name, module in sys.modules.items() if name.startswith("polygraphy.")]:
        lazy = vars(module).get("trt")
        if type(lazy).__name__ == "LazyModule":  # it keeps the module that it loaded first
            object.__setattr__(lazy, "module", None)
    return double
