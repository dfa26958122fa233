"""A double of the module ``tensorrt``: only the documented names, in the documented order of calls.

A plan is the ONNX file behind a header. Executing it runs onnxruntime on the contents of the (doubled) GPU memory, so
results can be compared.
"""

from __future__ import annotations

import json
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.tensorrt_double.gpu import Gpu
from tests.tensorrt_double.inspector import engine_information
from tests.tensorrt_double.strict import API, MODULE_VERSIONS, RTX, Strict, make_enum

MAGIC = b"double of a plan\n"
CACHE = b"double of a timing cache\n"

_NUMPY = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 9: "BOOL"}
"""TensorRT's names of ONNX element types."""


@dataclass
class Double:
    """Behaviour of TensorRT that tests inspect and change."""

    version: str
    gpu: Gpu
    parser_errors: list[str] = field(default_factory=list)
    """Errors with which the parser fails, if any."""
    build_fails: bool = False
    all_float32: bool = False
    """Plans compute in float32 throughout, as if TensorRT ignored the requested types."""
    noise: float = 0.0
    """Relative error of all float outputs."""
    context_bytes: int = 0
    """GPU memory of each execution context."""
    execute_fails: str = ""
    """Error with which execution fails, if any."""
    invalidity: str = ""
    """Reason for which TensorRT for RTX calls plans invalid, if any."""
    compiled: bytes = b""
    """Kernels in the runtime cache of TensorRT for RTX that was last loaded."""
    configured: dict[str, Any] = field(default_factory=dict)
    """Last runtime configuration that a context was created with."""
    calls: list[str] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)
    """Contents of the timing caches at the start of builds."""


def make_tensorrt(double: Double) -> ModuleType:
    """Create the module."""
    rt = ModuleType("tensorrt")
    rt.__version__ = MODULE_VERSIONS[double.version]  # type: ignore[attr-defined]
    enums = {name: make_enum(double.version, name) for name in API[double.version]["enums"]}
    severity = enums.pop("Severity")
    for name, enum in enums.items():
        setattr(rt, name, enum)
    types = enums["DataType"]
    numpy_of = {
        types.FLOAT: np.float32,
        types.HALF: np.float16,
        types.INT64: np.int64,
        types.INT32: np.int32,
        types.BOOL: np.bool_,
    }
    rt.init_libnvinfer_plugins = lambda logger, namespace: True  # type: ignore[attr-defined]
    rt.nptype = lambda trt_type: numpy_of[trt_type]  # type: ignore[attr-defined]
    modes, location = enums["TensorIOMode"], enums["TensorLocation"]

    class Base(Strict):
        version = double.version

    class ILogger:
        Severity = severity

        def __init__(self) -> None:
            self._made = True

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError("a logger must say what to do with messages")

    owners: weakref.WeakSet[Any] = weakref.WeakSet()
    used: list[ILogger] = []

    def the_logger(owner: Any, logger: ILogger) -> ILogger:
        """Return the logger of the first live builder or runtime; the loggers of all others are ignored."""
        assert logger._made, "ILogger.__init__ was not called"
        if not owners:
            used[:] = [logger]
        owners.add(owner)
        return used[0]

    class IProgressMonitor:
        def __init__(self) -> None:
            self._made = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            raise NotImplementedError

        def step_complete(self, phase_name: str, step: int) -> bool:
            raise NotImplementedError

        def phase_finish(self, phase_name: str) -> None:
            raise NotImplementedError

    class IHostMemory(Base):
        """TensorRT's class has the buffer protocol, which Python classes lack before 3.12; bytes() works for both."""

        documented = "IHostMemory"

        def __init__(self, content: bytes) -> None:
            self._content = content

        def __bytes__(self) -> bytes:
            return self._content

        @property
        def nbytes(self) -> int:
            return len(self._content)

    class ITimingCache(Base):
        documented = "ITimingCache"

        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._content)

    class IOptimizationProfile(Base):
        documented = "IOptimizationProfile"

        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            if not all(0 <= low <= best <= high for low, best, high in zip(min, opt, max, strict=True)):
                raise ValueError(f"shapes of {input} are not in order")
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

        def __bool__(self) -> bool:
            return bool(self._shapes)

    class IBuilderConfig(Base):
        documented = "IBuilderConfig"

        def __init__(self) -> None:
            self._flags = {enums["BuilderFlag"].TF32}  # on by default
            self._profiles: list[IOptimizationProfile] = []
            self._limits: dict[Any, int] = {}
            self._cache: ITimingCache | None = None
            self.builder_optimization_level = 3
            self.profiling_verbosity = enums["ProfilingVerbosity"].LAYER_NAMES_ONLY
            self.progress_monitor: Any = None
            self.DLA_core = -1
            self.default_device_type = enums["DeviceType"].GPU

        @property
        def num_optimization_profiles(self) -> int:
            return len(self._profiles)

        def get_flag(self, flag: Any) -> bool:
            return flag in self._flags

        def get_memory_pool_limit(self, pool: Any) -> int:
            return self._limits.get(pool, double.gpu.free_bytes)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(enums["BuilderFlag"](flag))

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self._limits[enums["MemoryPoolType"](pool)] = pool_size

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            if not profile:
                return -1
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            if serialized_timing_cache and not serialized_timing_cache.startswith(CACHE):
                return None
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            """Set the cache; a cache measured on another GPU is rejected."""
            content = cache._content
            if content and not ignore_mismatch and double.gpu.name.encode() not in content:
                return False
            double.caches.append(content)
            self._cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class ITensor(Base):
        documented = "ITensor"

        def __init__(self, value: onnx.ValueInfoProto) -> None:
            self._value = value

        @property
        def name(self) -> str:
            return self._value.name

        @property
        def dtype(self) -> Any:
            return types[_NUMPY[self._value.type.tensor_type.elem_type]]

        @property
        def shape(self) -> tuple[int, ...]:
            return tuple(_dims(self._value))

        @property
        def is_shape_tensor(self) -> bool:
            return False

    class INetworkDefinition(Base):
        documented = "INetworkDefinition"

        def __init__(self, strongly_typed: bool) -> None:
            self._strongly_typed = strongly_typed
            self._model: onnx.ModelProto | None = None

        def __getitem__(self, index: int) -> Any:
            raise IndexError("the double has no layers")

        @property
        def num_inputs(self) -> int:
            assert self._model is not None, "asked before it was parsed"
            return len(self._model.graph.input)

        def get_input(self, index: int) -> ITensor:
            assert self._model is not None, "asked before it was parsed"
            return ITensor(self._model.graph.input[index])

    class ParserError(Base):
        documented = "ParserError"

        def __init__(self, message: str) -> None:
            self._message = message

        def desc(self) -> str:
            return self._message

        def __str__(self) -> str:
            return f"In node 0 with name: n and operator: Op (parse): UNSUPPORTED_NODE: {self._message}"

    class OnnxParser(Base):
        documented = "OnnxParser"

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            assert logger._made, "ILogger.__init__ was not called"
            self._network = network
            self._errors: list[ParserError] = []

        def parse_from_file(self, model: str) -> bool:
            assert isinstance(model, str), "the bindings take a string"
            double.calls.append("parse")
            self._errors = [ParserError(message) for message in double.parser_errors]
            if not self._errors:
                self._network._model = onnx.load(model)
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class Builder(Base):
        documented = "Builder"

        def __init__(self, logger: ILogger) -> None:
            self._logger = the_logger(self, logger)

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            flag = 1 << int(enums["NetworkDefinitionCreationFlag"].STRONGLY_TYPED)
            return INetworkDefinition(double.version.startswith("11") or bool(flags & flag))

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            double.calls.append("build")
            assert network._model is not None, "built before it was parsed"
            assert network._strongly_typed, "a weakly typed network would compute in float32"
            assert config._profiles, "inputs with dynamic dimensions need a profile"
            assert enums["BuilderFlag"].TF32 not in config._flags
            profile = config._profiles[0]._shapes
            inputs = {value.name: _dims(value) for value in network._model.graph.input}
            assert profile.keys() == inputs.keys()
            for name, shapes in profile.items():
                for shape in shapes:
                    assert len(shape) == len(inputs[name])
                    assert all(want in (-1, dim) for dim, want in zip(shape, inputs[name], strict=True)), name
            if config.progress_monitor is not None:
                assert config.progress_monitor._made
                config.progress_monitor.phase_start("Building Engine", None, 2)
                config.progress_monitor.phase_start("Tactics", "Building Engine", 9)
                assert config.progress_monitor.step_complete("Building Engine", 0) is True
                config.progress_monitor.phase_finish("Tactics")
                config.progress_monitor.phase_finish("Building Engine")
            self._logger.log(severity.WARNING, "a warning")
            if double.build_fails:
                self._logger.log(severity.ERROR, "out of memory for tactic 7")
                return None
            assert config._cache is not None
            entries = config._cache._content or CACHE + double.gpu.name.encode()
            config._cache._content = entries + b"\nentry"
            header = {
                "version": MODULE_VERSIONS[double.version],
                "sm": double.gpu.current_sm,
                "profile": profile,
                "detailed": config.profiling_verbosity == enums["ProfilingVerbosity"].DETAILED,
                "level": config.builder_optimization_level,
                "workspace": config._limits.get(enums["MemoryPoolType"].WORKSPACE),
            }
            return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network._model.SerializeToString())

    class EngineInspector(Base):
        documented = "EngineInspector"

        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine

        def get_engine_information(self, format: Any) -> str:
            assert format == enums["LayerInformationFormat"].JSON
            detailed = self._engine._header["detailed"]
            model = self._engine._model
            return engine_information(model, double.version, detailed=detailed, all_float32=double.all_float32)

    class IExecutionContext(Base):
        documented = "IExecutionContext"

        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine
            self._thread: int | None = None
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}

        def _check_thread(self) -> None:
            """Check that one thread uses the context from its first call until its work is on the stream."""
            self._thread = self._thread or threading.get_ident()
            assert threading.get_ident() == self._thread, "a context was used by two threads at once"
            assert double.gpu.current == self._engine._device, "another GPU is current than the engine's"

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._check_thread()
            low, _, high = self._engine._header["profile"][name]
            shape = tuple(shape)
            if not all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True)):
                self._engine._logger.log(severity.ERROR, f"{name}: {shape} is not in the profile")
                return False
            self._shapes[name] = shape
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._check_thread()
            assert memory % 256 == 0
            self._addresses[name] = memory
            return name in self._engine._tensors

        def infer_shapes(self) -> list[str]:
            return [name for name in self._engine._header["profile"] if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> Dims:
            """Compute output sizes from the inputs' sizes, through the names of dimensions in the ONNX file."""
            value = self._engine._tensors[name]
            if name in self._shapes:
                return Dims(self._shapes[name])
            sizes: dict[str, int] = {}
            for given, shape in self._shapes.items():
                for dim, size in zip(self._engine._tensors[given].type.tensor_type.shape.dim, shape, strict=True):
                    assert sizes.setdefault(dim.dim_param or str(size), size) == size, (
                        f"{given}: unequal {dim.dim_param}"
                    )
            dims = value.type.tensor_type.shape.dim
            return Dims([eval(dim.dim_param, {}, sizes) if dim.dim_param else dim.dim_value for dim in dims])

        def execute_async_v3(self, stream_handle: int) -> bool:
            self._check_thread()
            assert not self.infer_shapes(), "executed before all shapes were set"
            if double.execute_fails:
                self._engine._logger.log(severity.ERROR, double.execute_fails)
                return False
            assert double.gpu.devices[stream_handle] == self._engine._device, "a stream of another GPU"
            shapes = {name: tuple(self.get_tensor_shape(name)) for name in self._engine._tensors}
            addresses = dict(self._addresses)
            blocks = {
                name: double.gpu.block(addresses[name], int(np.prod(shapes[name])) * self._engine._dtype(name).itemsize)
                for name in self._engine._tensors
            }

            def work() -> None:
                feeds = {
                    name: blocks[name].view(self._engine._dtype(name)).reshape(shapes[name]).copy()
                    for name in self._engine._header["profile"]
                }
                for name in addresses:
                    assert addresses[name] in double.gpu.memory, f"{name} was freed before the stream was waited for"
                outputs = [value.name for value in self._engine._model.graph.output]
                for name, array in zip(outputs, self._engine._session.run(outputs, feeds), strict=True):
                    changed = array * array.dtype.type(1 + double.noise) if array.dtype.kind == "f" else array
                    blocks[name][:] = np.frombuffer(np.ascontiguousarray(changed).tobytes(), np.uint8)

            double.gpu.enqueue(int(stream_handle), work)
            double.calls.append("execute")
            self._thread = None
            return True

    class Dims(Base):
        documented = "Dims"

        def __init__(self, shape: Any) -> None:
            self._shape = tuple(shape)

        def __len__(self) -> int:
            return len(self._shape)

        def __getitem__(self, index: int) -> int:
            return self._shape[index]

    class ICudaEngine(Base):
        documented = "ICudaEngine"

        def __init__(self, header: dict[str, Any], content: bytes, logger: Any) -> None:
            self._header, self._logger, self._device = header, logger, double.gpu.current
            self._model = onnx.load_model_from_string(content)
            self._tensors = {v.name: v for v in (*self._model.graph.input, *self._model.graph.output)}
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = 1
            settings.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

        def _dtype(self, name: str) -> np.dtype[Any]:
            return np.dtype(numpy_of[self.get_tensor_dtype(name)])

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[::-1][index]  # the order is not guaranteed

        def get_tensor_mode(self, name: str) -> Any:
            return modes.INPUT if name in self._header["profile"] else modes.OUTPUT

        def get_tensor_location(self, name: str) -> Any:
            return location.DEVICE

        def get_tensor_dtype(self, name: str) -> Any:
            return types[_NUMPY[self._tensors[name].type.tensor_type.elem_type]]

        def get_tensor_shape(self, name: str) -> Dims:
            return Dims(_dims(self._tensors[name]))

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
            if isinstance(strategy, IRuntimeConfig):
                double.configured = dict(vars(strategy))
                if strategy._cache is not None:
                    strategy._cache._content = CACHE + double.gpu.name.encode() + b"\nkernels"
            assert double.gpu.current == self._device, "another GPU is current than the engine's"
            memory = double.gpu.allocate(double.context_bytes)
            if memory is None:
                self._logger.log(severity.ERROR, "Error Code 2: OutOfMemory (no further information)")
                return None
            double.calls.append("context")
            context = IExecutionContext(self)
            weakref.finalize(context, double.gpu.memory.pop, memory, None)
            return context

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self)

    class IRuntimeCache(Base):
        documented = "IRuntimeCache"

        def __init__(self) -> None:
            self._content = b""

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._content)

        def deserialize(self, blob: bytes) -> bool:
            fits = blob.startswith(CACHE + double.gpu.name.encode())
            self._content = double.compiled = bytes(blob) if fits else b""
            return fits

    class IRuntimeConfig(Base):
        documented = "IRuntimeConfig"

        def __init__(self) -> None:
            self._cache: IRuntimeCache | None = None

        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
            self._cache = cache
            return True

    class Runtime(Base):
        documented = "Runtime"

        def __init__(self, logger: ILogger) -> None:
            assert double.gpu.count, "without a driver, the library ends the process"
            self._logger = the_logger(self, logger)

        @property
        def engine_header_size(self) -> int:
            return 64

        def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
            double.calls.append("validity")
            assert len(buffer) <= self.engine_header_size, "the header is enough"
            if double.invalidity:
                return enums["EngineValidity"].INVALID, int(enums["EngineInvalidityDiagnostics"][double.invalidity])
            return enums["EngineValidity"].VALID, 0

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            double.calls.append("deserialize")
            if not serialized_engine.startswith(MAGIC):
                self._logger.log(severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
                return None
            header, content = serialized_engine[len(MAGIC) :].split(b"\n", 1)
            described = json.loads(header)
            if described["version"] != MODULE_VERSIONS[double.version] or double.gpu.current_sm not in {
                tuple(sm) for sm in described.get("capabilities", [described["sm"]])
            }:
                self._logger.log(severity.ERROR, "Serialization assertion stdVersionRead == kVERSION failed.")
                return None
            return ICudaEngine(described, content, self._logger)

    if double.version != RTX:
        del ICudaEngine.create_runtime_config, Runtime.engine_header_size, Runtime.get_engine_validity
    only_rtx = () if double.version == RTX else (IRuntimeCache, IRuntimeConfig)
    for value in list(locals().values()):
        if value in only_rtx:
            continue
        if isinstance(value, type) and value not in (Base, ILogger) and value.__name__[0].isupper():
            setattr(rt, value.__name__, value)
    rt.ILogger = ILogger  # type: ignore[attr-defined]
    return rt


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


def plan_header(plan: Path) -> dict[str, Any]:
    """Return the header of a doubled plan, which records how it was built."""
    header: dict[str, Any] = json.loads(plan.read_bytes()[len(MAGIC) :].split(b"\n", 1)[0])
    return header


def rtx_plan(path: Path, ranges: Any, capabilities: Any) -> bytes:
    """Return a doubled plan of TensorRT for RTX, as its builder would make it from an ONNX file."""
    header = {
        "version": MODULE_VERSIONS[RTX],
        "sm": None,
        "capabilities": [tuple(map(int, capability.split("."))) for capability in capabilities],
        "profile": dict(ranges),
        "detailed": True,
    }
    return MAGIC + json.dumps(header).encode() + b"\n" + path.read_bytes()
