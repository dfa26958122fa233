"""Engines that are models of the same Triton server, called through Business Logic Scripting (BLS).

Source: triton-inference-server/python_backend ``README.md``, section "Business Logic Scripting".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from runtime.engines.backends.base import Engine
from runtime.engines.manifest import EngineFile
from runtime.errors import BackendError, OutOfMemoryError
from runtime.types import Tensor, Tensors

_NO_MEMORY = ("failed to allocate memory", "out of memory", "bad_alloc", "cudnn_status_alloc_failed")
"""Out-of-memory messages of Triton's ONNX Runtime backend, in lower case."""


class BlsEngine(Engine):
    """One model of the server. Requests run only while Triton executes the Python model."""

    def __init__(self, utils: Any, model: str, spec: EngineFile, limits: Mapping[str, int]) -> None:
        """Store what a request needs.

        Args:
            utils: the module ``triton_python_backend_utils``.
            model: name of the model in the repository.
            spec: the engine as the manifest describes it.
            limits: most images or boxes per call, by input.
        """
        self._utils, self._model, self._limits = utils, model, limits
        self.inputs, self.outputs = spec.inputs, spec.outputs

    def max_size(self, name: str) -> int | None:
        """See ``Engine``."""
        return self._limits.get(name)

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``. Outputs come to host memory, where boxes of several requests are put together."""
        utils, names = self._utils, [output.name for output in self.outputs]
        request = utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=names,
            inputs=[utils.Tensor(name, np.ascontiguousarray(tensor)) for name, tensor in feeds.items()],
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise _failure(self._model, response.error().message())
        return {name: utils.get_output_tensor_by_name(response, name).as_numpy() for name in names}


def _failure(model: str, message: str) -> BackendError:
    text = f"Triton's model {model} failed: {message}"
    if any(words in message.lower() for words in _NO_MEMORY):
        return OutOfMemoryError(
            f"{text}. Use 'cellsam-engine export-triton' with a smaller --max-batch or --max-boxes."
        )
    return BackendError(f"{text}. Check the server's log.")
