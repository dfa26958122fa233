"""TensorRT on an NVIDIA GPU: plans that ``cellsam-engine build`` made on this machine from the same ONNX files.

This module uses the documented API of TensorRT 10.3 to 11.x. Memory and copies are in ``cuda``, which also explains
the choice of CUDA bindings.

- A plan built for another GPU or version raises ``BackendError``. The message names the GPU and versions it was built
  for, those of this machine, and the build command. Plans are never rebuilt automatically.
- Every run has its own execution context and stream, as TensorRT requires (``contexts``).
- Outputs that the caller keeps stay in GPU memory, where the next engine reads them. If all outputs stay there, ``run``
  returns while the GPU still computes. An event marks the end of its work; whatever reads, writes or reuses this memory
  makes its own stream wait for that event, so any thread and stream can read the results.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from runtime.engines.backends import cuda
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.contexts import Lane, Lanes
from runtime.engines.backends.gpus import gpu_label
from runtime.engines.backends.input_shapes import within
from runtime.engines.backends.plan_keys import LIBRARIES, Key, PlanBackend, PlanKey, build_command
from runtime.engines.backends.plan_record import PlanFile, read_plan
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import EngineFile, TensorSpec
from runtime.errors import BackendError, OutOfMemoryError
from runtime.provenance import EngineReport
from runtime.types import Tensor, Tensors

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger(__name__)

_NO_MEMORY = ("out of memory", "outofmemory")
"""TensorRT's out-of-memory messages, in lower case."""


_MOST_ERRORS = 100
"""Most errors kept until ``pop_errors`` takes them."""


def load_tensorrt() -> Any:
    """Import the module ``tensorrt``.

    Raises:
        BackendError: TensorRT is not installed, is a placeholder package, or is older than 10.3.
    """
    try:
        import tensorrt
    except Exception as error:  # missing or unsuitable libraries do not always raise ImportError
        raise BackendError(
            f"the backend 'tensorrt' needs TensorRT ({error}): {cuda.INSTALL}.", kind="not_installed"
        ) from error
    version = getattr(tensorrt, "__version__", None)
    if version is None or not hasattr(tensorrt, "Runtime"):
        raise BackendError(f"the installed package 'tensorrt' is not NVIDIA's: {cuda.INSTALL}.", kind="not_installed")
    if tuple(int(part) for part in version.split(".")[:2]) < (10, 3):
        raise BackendError(
            f"TensorRT {version} is installed; 10.3 or later is needed: {cuda.INSTALL}.", kind="wrong_version"
        )
    return tensorrt


def machine_key(device: int) -> PlanKey:
    """Return the key that plans must have to run on this GPU.

    Raises:
        BackendError: TensorRT, the driver or the GPU is missing.
    """
    tensorrt = load_tensorrt()
    cuda.check_gpu(device)
    gpu, sm = cuda.gpu_name_and_sm(device)
    return PlanKey(
        gpu=gpu,
        sm=sm,
        driver=cuda.driver_version(),
        tensorrt=tensorrt.__version__,
        cuda=cuda.runtime_version().split(".")[0],
    )


@cache
def message_log(tensorrt: Any) -> Any:
    """Return the process's TensorRT logger, which forwards to ``logging`` and keeps errors for exceptions.

    There is one logger per process: while any builder or runtime exists, TensorRT writes to the logger of the first and
    ignores later ones (see its warning "The logger passed into createInferRuntime differs").
    """
    severity = tensorrt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,  # TensorRT warns of much that is harmless
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.NOTSET,
    }

    class MessageLog(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: deque[tuple[int, str]] = deque(maxlen=_MOST_ERRORS)
            """Pairs of thread identifier and message."""

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append((threading.get_ident(), msg))
            elif level > logging.NOTSET:
                _log.log(level, "%s", msg)

    return MessageLog()


def pop_errors(log: Any) -> str:
    """Remove and return the errors that TensorRT reported to this thread since the last call.

    If there are none, return those of all other threads, because TensorRT has threads of its own.
    """
    errors = log.errors.copy()
    chosen = [error for error in errors if error[0] == threading.get_ident()] or errors
    for error in chosen:
        with suppress(ValueError):  # another thread was faster
            log.errors.remove(error)
    return "; ".join(message for _, message in chosen) or "TensorRT gave no reason"


class TensorRtEngine(Engine):
    """One TensorRT plan. ``tensorrt_rtx`` overrides what differs for TensorRT for RTX."""

    backend: ClassVar[PlanBackend] = "tensorrt"

    def __init__(self, source: EngineSource, options: BackendOptions) -> None:
        """Load the plan of an ONNX file.

        Args:
            source: the ONNX file, which is only checked; its plans lie beside it.
            options: the backend options; only those of this backend are used.

        Raises:
            BackendError: TensorRT, the driver or the GPU is missing, there is no plan for this machine, or TensorRT
                cannot load it.
            EngineError: the ONNX file is missing, unreadable or altered.
        """
        key = self.machine_key(options.device)
        source.read()
        content, plan, place = read_plan(source.path, source.sha256, key, options.device)
        self._load(content, plan, source.path.parent, options, place)

    @classmethod
    def from_plan(cls, content: bytes, plan: PlanFile, engine_dir: Path, options: BackendOptions) -> Self:
        """Create an engine from a plan that is not yet in its final directory.

        Raises:
            BackendError: TensorRT is missing or cannot load the plan.
        """
        engine = cls.__new__(cls)
        engine._load(content, plan, engine_dir, options, None)
        return engine

    @staticmethod
    def load_library() -> Any:
        """Import the library's module; see ``load_tensorrt``."""
        return load_tensorrt()

    @staticmethod
    def machine_key(device: int) -> Key:
        """Return the key that plans must fit; see ``machine_key``."""
        return machine_key(device)

    @classmethod
    def check_usable(cls, directory: Path, engines: Iterable[EngineFile], device: int) -> None:
        """Check that every engine of a directory has an intact plan for this machine.

        Raises:
            BackendError: the library, the driver or the GPU is missing, or plans are missing, altered or for another
                machine. For plans, the message names the difference and the build command.
        """
        key = cls.machine_key(device)
        for engine in engines:
            read_plan(directory / engine.file, engine.sha256, key, device)

    def _contexts(self, options: BackendOptions, place: Path | None) -> Callable[[], Any]:
        """Return what creates an execution context. Args: place: the plan's directory, if it is in its final one."""
        create: Callable[[], Any] = self._engine.create_execution_context
        return create

    def _load(
        self, content: bytes, plan: PlanFile, engine_dir: Path, options: BackendOptions, place: Path | None
    ) -> None:
        self._tensorrt, device = self.load_library(), options.device
        self._name, self._plan, self._device = plan.file, plan, device
        self._library = f"{LIBRARIES[self.backend]} {self._tensorrt.__version__}"
        self._build_command = build_command(engine_dir, device, self.backend)
        self._log = message_log(self._tensorrt)
        cuda.use_device(device)  # an engine belongs to the GPU that is current when it is loaded
        # A runtime must outlive its engine, and an engine its contexts.
        self._runtime = self._tensorrt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            reason = pop_errors(self._log)
            if _is_memory(reason):
                raise OutOfMemoryError(f"{self._library} cannot load {plan.file}: {reason}. Is the GPU's memory full?")
            raise BackendError(
                f"{self._library} cannot load {plan.file}: {reason}. Build the plans again: {self._build_command}",
                kind="mismatch",
            )
        contexts = self._contexts(options, place)
        self._free, self._lanes = cuda.FreeList(), Lanes(partial(_new_lane, contexts, plan.file, self._log, device))
        self.inputs, self.outputs = plan.inputs, plan.outputs
        self._check_tensors()

    @property
    def cuda_engine(self) -> Any:
        """TensorRT's own ``ICudaEngine``, for its inspector."""
        return self._engine

    def report(self) -> EngineReport:
        """See ``Engine``; a plan belongs to the GPU on which it was loaded."""
        return EngineReport(
            device=gpu_label(*cuda.gpu_name_and_sm(self._device)),
            providers=("TensorRT",),
            libraries={self._tensorrt.__name__: self._tensorrt.__version__},
        )

    def _check_tensors(self) -> None:
        """Compare the plan's inputs and outputs with its record.

        TensorRT may report an output size as unknown although the ONNX file states it.
        """
        rt, engine = self._tensorrt, self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        wanted = {spec.name: (spec, mode) for spec, mode in self._tensors()}
        fits = names == wanted.keys()
        for name in names & wanted.keys():
            spec, mode = wanted[name]
            shape = tuple(engine.get_tensor_shape(name))
            fits &= engine.get_tensor_mode(name) == mode
            fits &= engine.get_tensor_location(name) == rt.TensorLocation.DEVICE
            fits &= np.dtype(rt.nptype(engine.get_tensor_dtype(name))) == np.dtype(spec.dtype)
            fits &= len(shape) == len(spec.shape)
            fits &= all(dim in (-1, want) for dim, want in zip(shape, spec.shape, strict=False))
        if not fits:
            found = {name: (list(engine.get_tensor_shape(name)), str(engine.get_tensor_dtype(name))) for name in names}
            raise BackendError(
                f"{self._name} has inputs and outputs {found}; its record lists {[*self.inputs, *self.outputs]}. "
                f"Build the plans again: {self._build_command}",
                kind="mismatch",
            )

    def _tensors(self) -> list[tuple[TensorSpec, Any]]:
        modes = self._tensorrt.TensorIOMode
        return [*((spec, modes.INPUT) for spec in self.inputs), *((spec, modes.OUTPUT) for spec in self.outputs)]

    def max_size(self, name: str) -> int | None:
        """See ``Engine``; the plan's profile sets the limit."""
        return self._plan.ranges[name][2][0] if name in self._plan.ranges else None

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``.

        Raises:
            OutOfMemoryError: the GPU's memory is full; the message lists the input shapes.
        """
        cuda.use_device(self._device)
        try:
            with self._lanes.borrowed() as lane:
                return self._run(lane, feeds, keep)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the GPU's memory is full: {self._name} with {_shapes(feeds)}: {error} "
                "Lower images_per_call or boxes_per_call."
            ) from error

    def close(self) -> None:
        """See ``Engine``. Contexts are freed before their engine, and the engine before its runtime."""
        for name in ("_lanes", "_free", "_engine", "_runtime"):
            self.__dict__.pop(name, None)

    def _run(self, lane: Lane, feeds: Mapping[str, Tensor], keep: Collection[str]) -> Tensors:
        given = self._set_inputs(lane, feeds)
        tensors = {}
        for tensor in given:
            lane.stream.wait(tensor.memory.events)
        for spec in self.outputs:
            shape = tuple(int(dim) for dim in lane.context.get_tensor_shape(spec.name))
            if any(dim < 0 for dim in shape):
                raise BackendError(
                    f"{self._name} does not state the shape of {spec.name} before it runs: {list(shape)}."
                )
            dtype = np.dtype(spec.dtype)
            size = cuda.size_bytes(shape, dtype)
            kept = spec.name in keep
            block = cuda.DeviceMemory(size, self._device, self._free) if kept else lane.block(spec.name, size)
            lane.stream.wait(block.events)
            self._check(lane.context.set_tensor_address(spec.name, block.address), feeds)
            tensors[spec.name] = cuda.CudaTensor(block, shape, dtype)
        done = lane.context.execute_async_v3(lane.stream.handle)
        lane.broken = not done
        self._check(done, feeds)
        outputs: Tensors = {
            name: tensor if name in keep else cuda.to_host(tensor.memory, tensor.shape, tensor.dtype, lane.stream)
            for name, tensor in tensors.items()
        }
        if keep and {*tensors} <= {*keep}:
            done_at = cuda.Event(lane.stream)
            for written in tensors.values():
                written.memory.events = (done_at,)
            for read in given:
                read.memory.events += (done_at,)
        else:
            lane.stream.synchronize()
            for written in tensors.values():
                written.memory.events = ()
        return outputs

    def _set_inputs(self, lane: Lane, feeds: Mapping[str, Tensor]) -> list[cuda.CudaTensor]:
        """Set all input shapes and addresses, copy arrays to the GPU, and return the tensors that were there."""
        if feeds.keys() != {spec.name for spec in self.inputs}:
            raise BackendError(
                f"{self._name} got {sorted(feeds)}; expected {[spec.name for spec in self.inputs]}.", kind="wrong_shape"
            )
        given: list[cuda.CudaTensor] = []
        for spec in self.inputs:
            tensor = feeds[spec.name]
            if not isinstance(tensor, cuda.CudaTensor):
                tensor = np.ascontiguousarray(tensor)
            elif tensor.memory.device != self._device:
                raise BackendError(
                    f"{self._name} runs on GPU {self._device}; {spec.name} lies on GPU {tensor.memory.device}. "
                    "Pass it as an array, or run all engines on one GPU.",
                    kind="mismatch",
                )
            if str(tensor.dtype) != spec.dtype:
                raise BackendError(
                    f"{self._name}: {spec.name} is {tensor.dtype}; expected {spec.dtype}.", kind="wrong_type"
                )
            self._check_range(spec.name, tensor.shape)
            self._check(lane.context.set_input_shape(spec.name, tensor.shape), feeds)
            if isinstance(tensor, cuda.CudaTensor):
                given.append(tensor)
                block = tensor.memory
            else:
                block = lane.send(spec.name, tensor)
            self._check(lane.context.set_tensor_address(spec.name, block.address), feeds)
        return given

    def _check_range(self, name: str, shape: tuple[int, ...]) -> None:
        least, _, most = self._plan.ranges[name]
        if not within(shape, self._plan.ranges[name]):
            raise BackendError(
                f"{self._name} was built for {name} of {list(least)} to {list(most)}; got {list(shape)}. "
                "Send fewer images or boxes per call, or build larger plans: "
                f"{self._build_command} --max-batch N --max-boxes N",
                kind="wrong_shape",
            )

    def _check(self, done: bool, feeds: Mapping[str, Tensor]) -> None:
        if not done:
            reason = pop_errors(self._log)
            kind = OutOfMemoryError if _is_memory(reason) else BackendError
            raise kind(f"{LIBRARIES[self.backend]} failed in {self._name} with {_shapes(feeds)}: {reason}.")


def _new_lane(create: Callable[[], Any], name: str, log: Any, device: int) -> Lane:
    """Create an execution context, with its stream and memory.

    Raises:
        OutOfMemoryError: TensorRT cannot create one, even after unused memory of all engines was freed.
    """
    context = create()
    if context is None:
        first = pop_errors(log)
        cuda.empty_free_lists()
        context = create()
        if context is None:
            raise OutOfMemoryError(
                f"{name}: no execution context; it needs memory for the plan's largest shapes: {first}."
            )
    return Lane(context, device)


def _is_memory(reason: str) -> bool:
    # TensorRT returns None or False if it fails; only its log gives the reason.
    return any(words in reason.lower() for words in _NO_MEMORY)


def _shapes(feeds: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in feeds.items())
