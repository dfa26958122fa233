"""onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from runtime.backends.base import BackendOptions, Engine, Tensor, Tensors
from runtime.errors import BackendError
from runtime.manifest import TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


class OrtEngine(Engine):
    """One ONNX file in an onnxruntime session."""

    def __init__(self, path: Path, options: BackendOptions) -> None:
        """Load the file.

        Raises:
            BackendError: onnxruntime cannot load it.
        """
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        # Attention maps of one call are not kept for the next: the arena would hold gigabytes between images.
        settings.enable_cpu_mem_arena = False
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        self._name = path.name
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises bare Exception subclasses of its own
            raise BackendError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: {error}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        names = [output.name for output in self.outputs]
        try:
            arrays = self._session.run(names, contiguous)
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in contiguous.items())
            raise BackendError(f"onnxruntime failed in {self._name} with {shapes}: {error}") from error
        return dict(zip(names, arrays, strict=True))


def _spec(node: Any) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=_DTYPES.get(node.type, node.type))
