"""onnxruntime on an NVIDIA GPU with CUDA graphs: shapes that come again are replayed as a whole, not kernel by kernel.

What onnxruntime asks for (its pages "CUDA Execution Provider" and "I/O Binding", and the provider's source), and what
follows from it here:

- A graph has fixed shapes and addresses. Every shape has inputs and outputs of its own on the GPU; boxes are padded to
  a few counts, so that shapes come again. A shape is captured when it comes the second time.
- A graph belongs to the thread that captured it, and a session that captures must not be run by several at a time:
  each session has one thread, to which callers hand their runs.
- While a graph is captured, calls of CUDA from any other thread fail and spoil it (``cudaStreamCaptureModeGlobal``):
  a capture waits until no engine of this kind runs or copies, and none begins before it is done. Other users of the
  GPU in the process, such as PyTorch, must not capture or allocate while a shape is new.
- A graph's intermediate results lie in memory that the session's allocator considers free, where another run's outputs
  could be put. So whatever outlives a run is copied to memory that is not that allocator's.
- The session's stream does not wait for copies on the default stream; they are waited for before a run reads them.
- Captures are not freed before their session: there are at most ``MOST_CAPTURES``.

Known risk: before pull request #32121 of onnxruntime (August 2026) a replay read host memory that a run of another
shape had taken over since, in Concat and Split of unequal parts, ScatterND and batched MatMul, and gave wrong numbers
without an error. Hence ``LEAST_VERSION``, and the test marked ``gpu`` that looks for it: run it on your GPU.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.ort import DTYPES, INSTALL_GPU, OnDevice, OrtCudaEngine, failure, session_settings
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import TensorSpec
from runtime.errors import BackendError
from runtime.types import Tensor, Tensors

LEAST_VERSION = (1, 31)
"""Of onnxruntime."""

MOST_CAPTURES = 32
"""Of one engine; shapes that come later run without a graph."""

BOX_COUNTS = (4, 16, 64)
"""Boxes are padded to one of these; more than the last are not."""

BOXES = "boxes"
"""The exports' name of the dimension that is padded."""

_log = logging.getLogger(__name__)

Key = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every input."""


class Gate:
    """Many may run at a time; a capture is alone."""

    def __init__(self) -> None:
        """Open."""
        self._changed = threading.Condition()
        self._running = 0

    @contextmanager
    def run(self) -> Iterator[None]:
        """Anything that calls CUDA and is no capture."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """A capture; must not be entered by a thread inside ``run``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            yield  # with the lock held, so that no run begins


GATE = Gate()
"""Of all engines of the process: CUDA knows no narrower bound."""


class KeptOnDevice(OnDevice):
    """An output in the device's memory, whose copy to the host does not meet a capture."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """See ``DeviceTensor``."""
        with GATE.run():
            return super().__array__(dtype, copy)


@dataclass(frozen=True)
class Capture:
    """A shape's graph: what onnxruntime knows it by, and the memory that it reads and writes."""

    binding: Any
    options: Any
    """``onnxruntime.RunOptions`` with the graph's number."""
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def run(self, session: Any, feeds: Mapping[str, Tensor]) -> None:
        """Fill the inputs and run; the first time, onnxruntime runs twice as usual and then captures."""
        for name, tensor in feeds.items():
            source = tensor.value if isinstance(tensor, OnDevice) else np.ascontiguousarray(tensor)
            self.inputs[name].update_inplace(source)
        self.binding.synchronize_inputs()
        session.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()


class OrtCudaGraphEngine(OrtCudaEngine):
    """One ONNX file on an NVIDIA GPU, with CUDA graphs; see the module.

    Where onnxruntime cannot use graphs for a file, or a capture fails, a warning says so and the file is run on the
    same GPU as without this option, but for one thread at a time.
    """

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """See ``OrtEngine``.

        Raises:
            BackendError: onnxruntime is older than ``LEAST_VERSION``, or cannot load the file.
        """
        check_version()
        self._graphs = True
        self._seen: dict[Key, dict[str, tuple[int, ...]]] = {}
        """Shapes of the outputs, by the shapes that were run."""
        self._captures: dict[Key, Capture] = {}
        super().__init__(source, options)
        self._source, self._options = source, options
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"cuda-graphs-{source.path.stem}")
        weakref.finalize(self, self._thread.shutdown, wait=False)

    def _load(self, source: EngineSource, settings: onnxruntime.SessionOptions, options: BackendOptions) -> Any:
        try:
            return super()._load(source, settings, options)
        except BackendError as error:
            if not self._graphs or error.kind != "unsupported":
                raise
            self._forget_graphs(source.path.name, error)
        return super()._load(source, settings, options)

    def _provider(self, options: BackendOptions) -> dict[str, str]:
        provider = super()._provider(options)
        return provider | {"enable_cuda_graph": "1"} if self._graphs else provider

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        try:
            return self._thread.submit(self._run, feeds, frozenset(keep)).result()
        except BackendError:
            raise
        except Exception as error:
            raise failure(self._name, feeds, error) from error

    def close(self) -> None:
        """See ``Engine``."""
        self._thread.shutdown()
        self._captures.clear()  # graphs go before their session
        super().close()

    def _run(self, feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        """``run``, in the session's thread."""
        if not self._graphs:
            return self._run_without(feeds, keep)
        padded = pad_boxes(self.inputs, feeds)
        key = key_of(padded)
        room = len(self._captures) < MOST_CAPTURES
        if key in self._captures:
            with GATE.run():
                self._captures[key].run(self._session, padded)
                return self._results(self._captures[key].outputs, feeds, keep)
        if room and key in self._seen:
            with GATE.capture():
                if self._capture(key, padded):
                    return self._results(self._captures[key].outputs, feeds, keep)
            return self._run_without(feeds, keep)
        with GATE.run():
            values = self._run_bound(padded if room else feeds, keep, numbered(-1))
            if room:
                self._seen[key] = {name: tuple(value.shape()) for name, value in values.items()}
            return self._results(values, feeds, keep)

    def _run_without(self, feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        with GATE.run():
            outputs = super().run(feeds, keep=keep)
        return {name: KeptOnDevice(t.value) if isinstance(t, OnDevice) else t for name, t in outputs.items()}

    def _capture(self, key: Key, feeds: Mapping[str, Tensor]) -> bool:
        """Run a shape with a graph for the first time; False, and no graphs from then on, where that fails."""
        try:
            capture = self._new_capture(key)
            capture.run(self._session, feeds)
        except Exception as error:  # of onnxruntime's own kinds; a run of the same shape without a graph has succeeded
            self._forget_graphs(self._name, error)
        else:
            self._captures[key] = capture
            return True
        # A stream on which a capture failed may stay unusable. Its session goes first: both may not fit.
        self._session = None
        self._session = self._load(self._source, session_settings(self._options), self._options)
        return False

    def _new_capture(self, key: Key) -> Capture:
        dtypes = {spec.name: spec.dtype for spec in self.outputs}
        inputs = {name: self._memory(shape, dtype) for name, shape, dtype in key}
        outputs = {name: self._memory(shape, dtypes[name]) for name, shape in self._seen[key].items()}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return Capture(binding, numbered(len(self._captures) + 1), inputs, outputs)

    def _forget_graphs(self, name: str, error: Exception) -> None:
        _log.warning("%s is run without CUDA graphs, on the same GPU and with the same results: %s", name, error)
        self._graphs = False
        self._captures.clear()
        self._seen.clear()

    def _memory(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An ``OrtValue`` on the device, not of the session's allocator."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self.device, self._device_id
        )

    def _results(self, values: Mapping[str, Any], feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        """What the caller gets of a run: copies, without what was padded. A tensor to be cut comes to the host."""
        count = box_count(self.inputs, feeds)
        results: Tensors = {}
        for spec in self.outputs:
            value = values[spec.name]
            padded = count is not None and spec.shape[:1] == (BOXES,) and value.shape()[0] != count
            if spec.name in keep and not padded:
                copy = self._memory(tuple(value.shape()), spec.dtype)
                copy.update_inplace(value)
                results[spec.name] = KeptOnDevice(copy)
            else:
                array: NDArray[Any] = value.numpy()
                array = array[:count] if padded else array
                # Of memory on the host, numpy() may be a view, which the next replay would overwrite.
                results[spec.name] = array if array.base is None else array.copy()
        if keep:
            self._session.io_binding().synchronize_outputs()  # until the copies are done, nothing may overwrite
        return results


def check_version() -> None:
    """Raises: BackendError: onnxruntime is older than ``LEAST_VERSION``."""
    found = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if found < LEAST_VERSION:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} is installed; cuda_graphs needs {LEAST_VERSION[0]}."
            f"{LEAST_VERSION[1]} or later, because replays of earlier ones can give wrong numbers. Leave cuda_graphs "
            f"out, or update. {INSTALL_GPU}",
            kind="wrong_version",
        )


def numbered(graph: int) -> Any:
    """Run options: the graph with this number, from 1, is captured or replayed; -1 for a run without one."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def box_count(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Tensor]) -> int | None:
    """Boxes of a call; None for an engine that takes none."""
    return next((feeds[spec.name].shape[0] for spec in inputs if spec.shape[:1] == (BOXES,)), None)


def pad_boxes(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The feeds with the last box repeated up to the next of ``BOX_COUNTS``. Boxes do not act on each other.

    Args:
        inputs: of the engine; those whose first dimension is named ``BOXES`` are padded.
        feeds: of a call.
    """
    count = box_count(inputs, feeds)
    if not count or count > BOX_COUNTS[-1]:
        return feeds
    missing = min(most for most in BOX_COUNTS if most >= count) - count
    if not missing:
        return feeds
    padded = dict(feeds)
    for spec in inputs:
        if spec.shape[:1] == (BOXES,):
            array = np.asarray(feeds[spec.name])
            padded[spec.name] = np.concatenate((array, np.repeat(array[-1:], missing, axis=0)))
    return padded


def key_of(feeds: Mapping[str, Tensor]) -> Key:
    """What tells one graph from another."""
    return tuple(
        sorted(
            (name, tuple(t.shape), DTYPES[t.value.data_type()] if isinstance(t, OnDevice) else str(np.asarray(t).dtype))
            for name, t in feeds.items()
        )
    )
