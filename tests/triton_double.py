"""Stand-in for ``triton_python_backend_utils``: requests to other models run their ONNX files through onnxruntime.

The double enforces what Triton's core enforces: known models and tensors, data types, ranks, fixed lengths and
``max_batch_size``. Source: triton-inference-server/python_backend, ``README.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

TYPES = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}
_PORT = re.compile(
    r'^(input|output) \[ \{ name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (.*?) \](.*) \} \]$', re.MULTILINE
)


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = range(5)

    def __init__(self, text: str, code: int = 1) -> None:
        self._text, self._code = text, code

    def message(self) -> str:
        return self._text

    def code(self) -> int:
        return self._code


@dataclass
class InferenceResponse:
    output_tensors: Sequence[Tensor] = ()
    error_: TritonError | None = None

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.output_tensors, self.error_ = output_tensors, error

    def has_error(self) -> bool:
        return self.error_ is not None

    def error(self) -> TritonError | None:
        return self.error_


@dataclass(frozen=True)
class Port:
    dtype: type
    dims: tuple[int, ...]
    optional: bool

    def check(self, name: str, array: NDArray[Any], batch: int) -> None:
        shape = array.shape[1:] if batch else array.shape
        fits = len(shape) == len(self.dims) and all(d in (-1, s) for d, s in zip(self.dims, shape, strict=True))
        if array.dtype != self.dtype or not fits or (batch and not 1 <= array.shape[0] <= batch):
            raise ValueError(f"unexpected shape {array.shape} or type {array.dtype} for tensor {name!r}")


class Model:
    """A model directory: its configuration and, for networks, an onnxruntime session."""

    def __init__(self, directory: Path) -> None:
        text = (directory / "config.pbtxt").read_text()
        (batch,) = re.findall(r"^max_batch_size: (\d+)$", text, re.MULTILINE)
        self.max_batch = int(batch)
        self.ports: dict[str, dict[str, Port]] = {"input": {}, "output": {}}
        for kind, name, dtype, dims, flags in _PORT.findall(text):
            lengths = tuple(int(one) for one in dims.split(", "))
            self.ports[kind][name] = Port(TYPES[dtype], lengths, "optional: true" in flags)
        file = directory / "1" / "model.onnx"
        self.session = onnxruntime.InferenceSession(file) if file.exists() else None
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def check(self, kind: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        ports = self.ports[kind]
        missing = {name for name, port in ports.items() if not port.optional} - tensors.keys()
        if missing or tensors.keys() - ports.keys():
            raise ValueError(f"expected {kind}s {sorted(ports)}, got {sorted(tensors)}")
        for name, array in tensors.items():
            ports[name].check(name, array, self.max_batch)

    def run(self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[Tensor]:
        self.check("input", inputs)
        self.calls.append({name: array.shape for name, array in inputs.items()})
        assert self.session is not None
        outputs = dict(zip(names, self.session.run(list(names), dict(inputs)), strict=True))
        self.check("output", outputs)
        return [Tensor(name, array) for name, array in outputs.items()]


class Server:
    """The models of a repository, and the module that its Python models import."""

    def __init__(self, repository: Path) -> None:
        self.models = {directory.name: Model(directory) for directory in sorted(repository.iterdir())}
        self.failing: dict[str, str] = {}
        """Error messages of models that fail."""
        self.repository = repository
        self.utils = SimpleNamespace(
            Tensor=Tensor,
            TritonError=TritonError,
            InferenceResponse=InferenceResponse,
            InferenceRequest=lambda **given: _Request(self, **given),
            PreferredMemory=lambda kind, device: (kind, device),
            TRITONSERVER_MEMORY_CPU=0,
            get_input_tensor_by_name=lambda request, name: _named(request.inputs, name),
            get_output_tensor_by_name=lambda response, name: _named(response.output_tensors, name),
        )

    def ask(self, model: str, inputs: Mapping[str, NDArray[Any]], **parameters: Any) -> Any:
        """Build a client's request, checked like Triton does."""
        self.models[model].check("input", inputs)
        tensors = [Tensor(name, array) for name, array in inputs.items()]
        return SimpleNamespace(inputs=tensors, parameters=lambda: json.dumps(parameters))

    def arguments(self, model: str) -> dict[str, str]:
        """Arguments of ``initialize``."""
        directory = str(self.repository / model)
        return {"model_name": model, "model_version": "1", "model_repository": directory, "model_config": "{}"}


class _Request:
    def __init__(
        self, server: Server, model_name: str, requested_output_names: list[str], inputs: list[Tensor], **other: Any
    ) -> None:
        assert other == {"preferred_memory": (0, 0)}
        self._server, self._model, self._names = server, model_name, requested_output_names
        self._inputs = {tensor.name(): tensor.as_numpy() for tensor in inputs}

    def exec(self) -> InferenceResponse:
        if self._model in self._server.failing:
            return InferenceResponse(error=TritonError(self._server.failing[self._model]))
        try:
            return InferenceResponse(self._server.models[self._model].run(self._inputs, self._names))
        except Exception as error:  # Triton hands any failure on as a message
            return InferenceResponse(error=TritonError(str(error)))


def _named(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


@contextmanager
def python_model(server: Server, name: str, modules: dict[str, Any]) -> Iterator[Any]:
    """Load a repository's ``model.py`` as Triton does, and finalize it.

    Args:
        server: the double.
        name: name of the Python model.
        modules: ``sys.modules``, or a patched copy.
    """
    modules["triton_python_backend_utils"] = server.utils
    try:
        scope: dict[str, Any] = {}
        exec((server.repository / name / "1" / "model.py").read_text(), scope)
        model = scope["TritonPythonModel"]()
        model.initialize(server.arguments(name))
        yield model
        model.finalize()
    finally:
        del modules["triton_python_backend_utils"]
