"""OpenVINO on the CPU, with the same ONNX files; encoder and detector use bfloat16 if the processor supports it.

The mask decoder stays in float32, because in bfloat16 it shifts outlines more than any other engine does. Compare the
cells with ``cellsam-engine bench``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import Dim, TensorSpec, takes_boxes
from runtime.errors import BackendError
from runtime.extras import install_command
from runtime.provenance import EngineReport
from runtime.types import Tensor, Tensors

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's name of each precision."""

_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""Name of each precision in reports."""


class OpenVinoEngine(Engine):
    """One ONNX file compiled by OpenVINO for the CPU, with one inference request per thread."""

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """Compile the file.

        Raises:
            BackendError: OpenVINO is not installed or cannot compile the file.
            EngineError: the file is missing, unreadable or altered.
        """
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                f"the backend 'openvino' needs OpenVINO: {install_command('openvino')}.", kind="not_installed"
            ) from error
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        content = source.read()
        try:
            core = shared_core()
            model = core.read_model(content)
            # In the compiled model, a tensor may have the name of a neighbouring cast.
            self.inputs = tuple(_spec(port) for port in model.inputs)
            self.outputs = tuple(_spec(port) for port in model.outputs)
            precision = options.cpu_precision
            if precision == "auto" and takes_boxes(self.inputs):
                precision = "fp32"
            if precision != "auto":
                settings["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
            self._model = core.compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError for every failure
            raise BackendError(
                f"OpenVINO {openvino.__version__} cannot compile {source.path}: {error}", kind="unsupported"
            ) from error
        self._name = source.path.name
        self._version = openvino.__version__
        self._requests = threading.local()

    def report(self) -> EngineReport:
        """See ``Engine``; read from the compiled model."""
        devices = tuple(self._model.get_property("EXECUTION_DEVICES"))
        precision = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        return EngineReport(
            device=", ".join(devices),
            providers=devices,
            precision=_NAMES.get(precision, precision),
            libraries={"openvino": self._version},
        )

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._model.create_infer_request()
        contiguous = {spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs}
        try:
            request.infer(dict(enumerate(contiguous.values())), share_inputs=True)
            # The next call overwrites the request's own memory.
            return {output.name: request.get_output_tensor(i).data.copy() for i, output in enumerate(self.outputs)}
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in contiguous.items())
            raise BackendError(f"OpenVINO failed in {self._name} with {shapes}: {error}") from error

    def close(self) -> None:
        """See ``Engine``."""
        self._requests = threading.local()
        self._model = None


_core_lock = threading.Lock()


def shared_core() -> Any:
    """Return the OpenVINO core of this process.

    On processors with AMX, every core replaces the stack on which the calling thread handles signals, and restores the
    previous one when it is destroyed. Cores destroyed in any order but the reverse of their creation leave the thread
    with a stack that is no longer mapped, and the next signal ends the process. One core that lives as long as the
    process avoids this.
    """
    with _core_lock:
        return _made_core()


@functools.cache
def _made_core() -> Any:
    import openvino

    return openvino.Core()


def _spec(port: Any) -> TensorSpec:
    """Describe an input or output; OpenVINO does not name dynamic dimensions."""
    shape: list[Dim] = [dim.get_length() if dim.is_static else "" for dim in port.partial_shape]
    return TensorSpec(name=port.any_name, shape=tuple(shape), dtype=str(np.dtype(port.element_type.to_dtype())))
