"""onnxruntime on an NVIDIA GPU with CUDA graphs: repeated shapes are replayed as a whole, not kernel by kernel.

Constraints of onnxruntime (pages "CUDA Execution Provider" and "I/O Binding", and the provider's source), and how this
module meets them:

- A graph has fixed shapes and addresses. Every shape has its own inputs and outputs on the GPU. Boxes are padded to a
  few counts, so that shapes repeat. A shape is captured at its second run.
- A graph belongs to the thread that captured it, and only one thread at a time may run a session that captures. Each
  session therefore has one thread, and callers submit their runs to it.
- During a capture, CUDA calls from any other thread fail and invalidate it (``cudaStreamCaptureModeGlobal``). A
  capture waits until no engine of this class runs or copies, and blocks new runs until it ends. Other GPU code in the
  process, such as PyTorch, must not capture or allocate while a shape is new.
- A graph's intermediate results lie in memory that the session's allocator considers free and may reuse for outputs of
  another run. Data that outlives a run is therefore copied to memory outside that allocator.
- The session's stream does not wait for copies on the default stream, so a run waits for them before it reads.
- Captures are freed only with their session, so there are at most ``MOST_CAPTURES``.

Known risk: before onnxruntime's pull request #32121 (August 2026), a replay could give wrong numbers without an error.
It read host memory that a run of another shape had since reused, in Concat and Split of unequal parts, ScatterND and
batched MatMul. Hence ``LEAST_VERSION``, and a test for this fault, marked ``gpu``: run it on your GPU.
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
"""Oldest onnxruntime version that supports ``cuda_graphs`` here."""

MOST_CAPTURES = 32
"""Most captures per engine; further shapes run without a graph."""

BOX_COUNTS = (4, 16, 64)
"""Box counts to pad to; calls with more boxes than the last are not padded."""

BOXES = "boxes"
"""Name of the padded dimension in exported engines."""

_log = logging.getLogger(__name__)

Key = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every input."""


class Gate:
    """Lock that admits many runs at a time, or one capture."""

    def __init__(self) -> None:
        """Create an open gate."""
        self._changed = threading.Condition()
        self._running = 0

    @contextmanager
    def run(self) -> Iterator[None]:
        """Admit code that calls CUDA without capturing."""
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
        """Admit one capture. A thread inside ``run`` must not enter it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            yield  # holds the lock, so that no run begins


GATE = Gate()
"""Shared by all engines of the process, because captures are invalidated by CUDA calls of any thread."""


class KeptOnDevice(OnDevice):
    """An output in device memory, which is never copied to the host during a capture."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """See ``DeviceTensor``."""
        with GATE.run():
            return super().__array__(dtype, copy)


@dataclass(frozen=True)
class Capture:
    """The graph of a shape: its onnxruntime options and the memory that it reads and writes."""

    binding: Any
    options: Any
    """``onnxruntime.RunOptions`` with the graph's number."""
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def run(self, session: Any, feeds: Mapping[str, Tensor]) -> None:
        """Fill the inputs and run. At the first call, onnxruntime runs normally twice, then captures."""
        for name, tensor in feeds.items():
            source = tensor.value if isinstance(tensor, OnDevice) else np.ascontiguousarray(tensor)
            self.inputs[name].update_inplace(source)
        self.binding.synchronize_inputs()
        session.run_with_iobinding(self.binding, self.options)
        self.binding.synchronize_outputs()


class OrtCudaGraphEngine(OrtCudaEngine):
    """One ONNX file on an NVIDIA GPU with CUDA graphs; see the module.

    If onnxruntime cannot use graphs for a file, or a capture fails, a warning is logged. The file then runs on the same
    GPU as without this option, except that calls run one at a time.
    """

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """See ``OrtEngine``.

        Raises:
            BackendError: onnxruntime is older than ``LEAST_VERSION``, or cannot load the file.
        """
        check_version()
        self._graphs = True
        self._seen: dict[Key, dict[str, tuple[int, ...]]] = {}
        """Output shapes by key of the shapes that were run."""
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
        self._captures.clear()  # graphs must be freed before their session
        super().close()

    def _run(self, feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        """Run in the session's thread."""
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
        """Capture and run a shape. If that fails, disable graphs for this engine and return False."""
        try:
            capture = self._new_capture(key)
            capture.run(self._session, feeds)
        except Exception as error:  # onnxruntime's own classes; the same shape has already run without a graph
            self._forget_graphs(self._name, error)
        else:
            self._captures[key] = capture
            return True
        # A stream may stay unusable after a failed capture. Free the old session first: two may not fit into memory.
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
        _log.warning("%s runs without CUDA graphs, on the same GPU and with the same results: %s", name, error)
        self._graphs = False
        self._captures.clear()
        self._seen.clear()

    def _memory(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Allocate an ``OrtValue`` on the device, outside the session's allocator."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self.device, self._device_id
        )

    def _results(self, values: Mapping[str, Any], feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        """Copy the outputs without padding. A padded output is copied to the host even if it is in ``keep``."""
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
                # For host memory, numpy() may return a view, which the next replay would overwrite.
                results[spec.name] = array if array.base is None else array.copy()
        if keep:
            self._session.io_binding().synchronize_outputs()  # nothing may overwrite the outputs until they are copied
        return results


def check_version() -> None:
    """Check the version of onnxruntime.

    Raises:
        BackendError: onnxruntime is older than ``LEAST_VERSION``.
    """
    found = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if found < LEAST_VERSION:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} is installed; cuda_graphs needs {LEAST_VERSION[0]}."
            f"{LEAST_VERSION[1]} or later, because replays can give wrong numbers in earlier versions. Leave "
            f"cuda_graphs out, or update onnxruntime. {INSTALL_GPU}",
            kind="wrong_version",
        )


def numbered(graph: int) -> Any:
    """Return run options that capture or replay graph number ``graph`` (from 1); -1 runs without a graph."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def box_count(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Tensor]) -> int | None:
    """Return the number of boxes in a call; None if the engine takes no boxes."""
    return next((feeds[spec.name].shape[0] for spec in inputs if spec.shape[:1] == (BOXES,)), None)


def pad_boxes(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Repeat the last box up to the next of ``BOX_COUNTS``. Boxes do not affect one another.

    Args:
        inputs: the engine's inputs; those whose first dimension is named ``BOXES`` are padded.
        feeds: input tensors of one call.
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
    """Return the key that identifies the graph for these inputs."""
    return tuple(
        sorted(
            (name, tuple(t.shape), DTYPES[t.value.data_type()] if isinstance(t, OnDevice) else str(np.asarray(t).dtype))
            for name, t in feeds.items()
        )
    )
