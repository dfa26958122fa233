"""TensorRT on an NVIDIA GPU: plans that ``cellsam-engine build`` made on this machine from the same ONNX files.

Written to the documented API of TensorRT 10.3 to 11.x; memory and copies are in ``runtime.backends.cuda``, with the
reason for the package they go through.

- A plan built for another GPU or version is refused with what it was built for, what is here, and the command that
  builds it anew; nothing is rebuilt unasked.
- Every thread has an execution context and a stream of its own, as TensorRT asks.
- Outputs that the caller keeps stay in the GPU's memory and go into the next engine from there. ``run`` waits for its
  stream before it returns, so that what it gives can be read by any thread and stream.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends import cuda
from runtime.backends.base import BackendOptions, Engine, Tensor, Tensors
from runtime.errors import BackendError
from runtime.manifest import TensorSpec, sha256_file
from runtime.plans import PlanFile, PlanKey, build_command, find_plans

_log = logging.getLogger(__name__)


def load_tensorrt() -> Any:
    """The module ``tensorrt``.

    Raises:
        BackendError: it is not installed, or is a placeholder, or older than 10.3.
    """
    try:
        import tensorrt
    except Exception as error:  # its libraries may be missing or fit no driver, which is no ImportError
        raise BackendError(f"the backend 'tensorrt' needs TensorRT ({error}): {cuda.INSTALL}.") from error
    version = getattr(tensorrt, "__version__", None)
    if version is None or not hasattr(tensorrt, "Runtime"):
        raise BackendError(f"the package 'tensorrt' that is installed is not NVIDIA's: {cuda.INSTALL}.")
    if tuple(int(part) for part in version.split(".")[:2]) < (10, 3):
        raise BackendError(f"TensorRT {version} is installed; 10.3 or later is needed: {cuda.INSTALL}.")
    return tensorrt


def machine_key() -> PlanKey:
    """What plans must have been built for to run here.

    Raises:
        BackendError: no TensorRT, no driver or no GPU.
    """
    tensorrt = load_tensorrt()
    cuda.check_gpu()
    gpu, sm = cuda.gpu_name_and_sm()
    return PlanKey(
        gpu=gpu,
        sm=sm,
        driver=cuda.driver_version(),
        tensorrt=tensorrt.__version__,
        cuda=cuda.runtime_version().split(".")[0],
    )


def message_log(tensorrt: Any) -> Any:
    """A TensorRT logger that hands on to ``logging`` and keeps the errors, in ``errors``, for what is raised."""
    severity = tensorrt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,  # TensorRT warns of much that is as it should be
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.NOTSET,
    }

    class MessageLog(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append(msg)
            elif level > logging.NOTSET:
                _log.log(level, "%s", msg)

    return MessageLog()


def said(log: Any) -> str:
    """The errors that TensorRT reported since this was last asked."""
    errors, log.errors = log.errors, []
    return "; ".join(errors) or "TensorRT gave no reason"


class _OfThread:
    """What one thread runs an engine with."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.stream = cuda.Stream()
        self.blocks: dict[str, cuda.DeviceMemory] = {}

    def block(self, name: str, size_bytes: int) -> cuda.DeviceMemory:
        """Memory for a tensor that does not outlive the call, kept for the next one."""
        block = self.blocks.get(name)
        if block is None or block.size_bytes < size_bytes:
            block = self.blocks[name] = cuda.DeviceMemory(size_bytes)
        return block


class TensorRtEngine(Engine):
    """One plan."""

    def __init__(self, path: Path, options: BackendOptions) -> None:
        """Load the plan of an ONNX file.

        Args:
            path: the ONNX file; its plans lie in ``tensorrt/`` beside it.
            options: none applies here.

        Raises:
            BackendError: TensorRT, the driver or the GPU is missing, there is no plan for this machine, or TensorRT
                cannot load it.
        """
        again = f"Build the plans again: {build_command(path.parent)}"
        onnx_sha256 = sha256_file(path)
        found = [
            (directory / plan.file, plan)
            for directory, record in find_plans(path.parent, machine_key())
            for plan in record.plans.values()
            if plan.onnx_sha256 == onnx_sha256
        ]
        if not found:
            raise BackendError(f"no TensorRT plan for this machine was built from this {path}. {again}")
        file, plan = found[0]
        try:
            content = file.read_bytes()
            whole = sha256_file(file) == plan.sha256
        except OSError as error:
            raise BackendError(f"{file} cannot be read: {error}. {again}") from error
        if not whole:
            raise BackendError(f"{file} was altered after it was built. {again}")
        self._load(content, plan, path.parent)

    @classmethod
    def from_plan(cls, content: bytes, plan: PlanFile, engine_dir: Path) -> TensorRtEngine:
        """An engine of a plan that is not in its place yet.

        Raises:
            BackendError: as for a plan that is.
        """
        engine = cls.__new__(cls)
        engine._load(content, plan, engine_dir)
        return engine

    def _load(self, content: bytes, plan: PlanFile, engine_dir: Path) -> None:
        self._tensorrt = load_tensorrt()
        self._name, self._plan, self._engine_dir = plan.file, plan, engine_dir
        self._log = message_log(self._tensorrt)
        # An engine must not outlive its runtime, nor a context its engine.
        self._runtime = self._tensorrt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(
                f"TensorRT {self._tensorrt.__version__} cannot load {plan.file}: {said(self._log)}. "
                f"Build the plans again: {build_command(engine_dir)}"
            )
        self._lock, self._threads = threading.Lock(), threading.local()
        self.inputs, self.outputs = plan.inputs, plan.outputs
        self._check_tensors()

    @property
    def cuda_engine(self) -> Any:
        """TensorRT's own ``ICudaEngine``, for its inspector."""
        return self._engine

    def _check_tensors(self) -> None:
        """Compare the plan's inputs and outputs with its record.

        Where a size of an output follows from others, TensorRT may call it unknown although the ONNX file states it.
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
                f"{self._name} has inputs and outputs {found}; its record says {[*self.inputs, *self.outputs]}. "
                f"Build the plans again: {build_command(self._engine_dir)}"
            )

    def _tensors(self) -> list[tuple[TensorSpec, Any]]:
        modes = self._tensorrt.TensorIOMode
        return [*((spec, modes.INPUT) for spec in self.inputs), *((spec, modes.OUTPUT) for spec in self.outputs)]

    def most(self, name: str) -> int | None:
        """See ``Engine``: as the plan's profile has it."""
        return self._plan.ranges[name][2][0] if name in self._plan.ranges else None

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        own = self._of_thread()
        waiting = self._set_inputs(own, feeds)
        memory = {}
        for spec in self.outputs:
            shape = tuple(int(dim) for dim in own.context.get_tensor_shape(spec.name))
            if any(dim < 0 for dim in shape):
                raise BackendError(f"{self._name} does not say the shape of {spec.name} before it runs: {list(shape)}.")
            dtype = np.dtype(spec.dtype)
            size = cuda.size_bytes(shape, dtype)
            block = cuda.DeviceMemory(size) if spec.name in keep else own.block(spec.name, size)
            self._check(own.context.set_tensor_address(spec.name, block.address), feeds)
            memory[spec.name] = (block, shape, dtype)
        self._check(own.context.execute_async_v3(own.stream.handle), feeds)
        outputs: Tensors = {
            name: cuda.CudaTensor(*tensor) if name in keep else cuda.to_host(*tensor, own.stream)
            for name, tensor in memory.items()
        }
        own.stream.synchronize()
        del waiting  # what was copied from had to live until here
        return outputs

    def _of_thread(self) -> _OfThread:
        own: _OfThread | None = getattr(self._threads, "own", None)
        if own is None:
            with self._lock:
                context = self._engine.create_execution_context()
            if context is None:
                raise BackendError(f"{self._name}: no execution context: {said(self._log)}. Is the GPU's memory full?")
            own = self._threads.own = _OfThread(context)
        return own

    def _set_inputs(self, own: _OfThread, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """Shapes and addresses of all inputs; arrays are copied to the GPU. Gives what must live until that is done."""
        if feeds.keys() != {spec.name for spec in self.inputs}:
            raise BackendError(f"{self._name} got {sorted(feeds)}; expected {[spec.name for spec in self.inputs]}.")
        waiting: list[Tensor] = []
        for spec in self.inputs:
            tensor = feeds[spec.name]
            if not isinstance(tensor, cuda.CudaTensor):
                tensor = np.ascontiguousarray(tensor)
            if str(tensor.dtype) != spec.dtype:
                raise BackendError(f"{self._name}: {spec.name} is {tensor.dtype}; expected {spec.dtype}.")
            self._check_range(spec.name, tensor.shape)
            self._check(own.context.set_input_shape(spec.name, tensor.shape), feeds)
            address = self._address(own, spec.name, tensor)
            self._check(own.context.set_tensor_address(spec.name, address), feeds)
            waiting.append(tensor)
        return waiting

    @staticmethod
    def _address(own: _OfThread, name: str, tensor: cuda.CudaTensor | NDArray[Any]) -> int:
        if isinstance(tensor, cuda.CudaTensor):
            return tensor.memory.address
        block = own.block(name, tensor.nbytes)
        cuda.to_device(tensor, block, own.stream)
        return block.address

    def _check_range(self, name: str, shape: tuple[int, ...]) -> None:
        least, _, most = self._plan.ranges[name]
        if len(shape) != len(least) or not all(
            low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True)
        ):
            raise BackendError(
                f"{self._name} was built for {name} of {list(least)} to {list(most)}; got {list(shape)}. "
                f"Give less at once, or build with larger --max-batch or --max-boxes: {build_command(self._engine_dir)}"
            )

    def _check(self, done: bool, feeds: Mapping[str, Tensor]) -> None:
        if not done:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in feeds.items())
            raise BackendError(f"TensorRT failed in {self._name} with {shapes}: {said(self._log)}.")
