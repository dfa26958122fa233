"""Time of several forms of the ViT's attention with relative positions, on every installed backend.

    python -m benchmarks.attention

The inputs are projected queries, keys and values and the bias of each query's row and column, as in SAM's ViT-B: 12
heads of 64 channels over 64 x 64 tokens, or over 25 windows of 14 x 14. All forms compute the same.

``bias``       adds the bias to the logits, broadcast over rows and columns (Li et al. 2022, section 4.1).
``folded``     moves the bias into the product: queries are extended by it, keys by one-hot codes of row and column.
``Attention``  puts the folded queries and keys into one ``Attention`` operator of ONNX opset 23.
``MultiHeadAttention``  uses onnxruntime's operator of that name, with heads widened to a multiple of 8 channels.
``padded``     also widens the values to the channels of the queries, as flash attention needs.

The whole ViT-B encoder (random weights) is timed with ``bias``, ``folded`` and ``fused``, because the operators around
an attention matter. ``fused`` is the form of ``export --attention fused``: ``padded`` in float16, else
``MultiHeadAttention``. On a CPU, models and arrays are float32. On a GPU, models are float16, typed like the engines,
with the runtime's options; inputs are on the GPU before the clock starts, and outputs stay there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import percentiles_ms, write_record
from export.engine_files import EngineGraph
from export.graphs import EncoderGraph, Form
from export.graphs.fused import aligned
from export.graphs.half import halve
from export.onnx_file import write_onnx
from runtime.engines.backends.openvino import shared_core
from runtime.engines.backends.ort import CUDA, DTYPES, OnDevice, cuda_provider
from runtime.errors import BackendError
from runtime.types import F32
from training.model import CellSAM, ModelConfig

Feeds = Mapping[str, F32]
Run = Callable[[], Any]
"""One run; returns the first output, an array or a value that converts to one."""
Load = Callable[[bytes, Feeds], Run]
"""Load a model and bind the inputs of all its runs."""


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of one attention."""

    name: str
    groups: int
    """Number of images times windows."""
    side: int
    """Tokens per side."""
    heads: int = 12
    channels: int = 64

    @property
    def tokens(self) -> int:
        """Number of tokens of a group."""
        return self.side**2

    def feeds(self, seed: int = 0) -> dict[str, F32]:
        """Return random queries, keys, values (G, H, N, D) and biases (G, H, N, side)."""
        rng = np.random.default_rng(seed)
        shape = (self.groups, self.heads, self.tokens)
        drawn = {name: rng.standard_normal((*shape, self.channels), np.float32) for name in ("q", "k", "v")}
        return drawn | {name: rng.standard_normal((*shape, self.side), np.float32) for name in ("rows", "columns")}


SIZES = (Size("global", 1, 64), Size("windows", 25, 14))


def bias_form(size: Size) -> onnx.ModelProto:
    """Build the form ``bias``."""
    grid = (size.groups, size.heads, size.tokens, size.side, size.side)
    nodes = [
        *_scaled_queries(size),
        helper.make_node("Transpose", ["k"], ["k_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q_s", "k_t"], ["plain"]),
        helper.make_node("Reshape", ["plain", "grid"], ["plain_grid"]),
        helper.make_node("Unsqueeze", ["rows", "last"], ["rows_grid"]),
        helper.make_node("Unsqueeze", ["columns", "before_last"], ["columns_grid"]),
        helper.make_node("Add", ["plain_grid", "rows_grid"], ["with_rows"]),
        helper.make_node("Add", ["with_rows", "columns_grid"], ["with_both"]),
        helper.make_node("Reshape", ["with_both", "flat"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["out"]),
    ]
    flat = (size.groups, size.heads, size.tokens, size.tokens)
    return _model(size, nodes, {"grid": grid, "flat": flat, "last": (4,), "before_last": (3,)})


def folded_form(size: Size) -> onnx.ModelProto:
    """Build the form ``folded``."""
    nodes = [
        *_folded(size),
        helper.make_node("Transpose", ["keys"], ["keys_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["queries", "keys_t"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["out"]),
    ]
    return _model(size, nodes, {})


def attention_form(size: Size) -> onnx.ModelProto:
    """Build the form ``Attention``."""
    nodes = [*_folded(size), helper.make_node("Attention", ["queries", "keys", "v"], ["out"], scale=1.0)]
    return _model(size, nodes, {}, opset=23)


def multi_head_form(size: Size, *, padded: bool = False) -> onnx.ModelProto:
    """Build the form ``MultiHeadAttention`` or ``padded``; its tensors are (G, N, H D)."""
    folded = size.channels + 2 * size.side
    wide = aligned(folded)
    values = wide if padded else size.channels
    nodes = [*_folded(size)]
    for name in ("queries", "keys", "v"):
        nodes.append(helper.make_node("Pad", [name, f"{name}_pads"], [f"{name}_wide"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_wide"], [f"{name}_n"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"{name}_n", f"{name}_shape"], [f"{name}_flat"]))
    nodes += [
        helper.make_node(
            "MultiHeadAttention",
            ["queries_flat", "keys_flat", "v_flat"],
            ["flat"],
            domain="com.microsoft",
            num_heads=size.heads,
            scale=1.0,
        ),
        helper.make_node("Reshape", ["flat", "split"], ["out_wide"]),
        helper.make_node("Slice", ["out_wide", "first", "last", "axis"], ["out_n"]),
        helper.make_node("Transpose", ["out_n"], ["out"], perm=[0, 2, 1, 3]),
    ]
    flat = (size.groups, size.tokens)
    shapes = {
        "queries_shape": (*flat, size.heads * wide),
        "keys_shape": (*flat, size.heads * wide),
        "v_shape": (*flat, size.heads * values),
        "split": (*flat, size.heads, values),
        "queries_pads": (*[0] * 7, wide - folded),
        "keys_pads": (*[0] * 7, wide - folded),
        "v_pads": (*[0] * 7, values - size.channels),
        **{"first": (0,), "last": (size.channels,), "axis": (3,)},
    }
    return _model(size, nodes, shapes)


FORMS: Mapping[str, Callable[[Size], onnx.ModelProto]] = {
    "bias": bias_form,
    "folded": folded_form,
    "Attention": attention_form,
    "MultiHeadAttention": multi_head_form,
    "padded": partial(multi_head_form, padded=True),
}
ENCODERS = get_args(Form)


def _scaled_queries(size: Size) -> list[Any]:
    scale = numpy_helper.from_array(np.array(size.channels**-0.5, np.float32), "scale_value")
    return [
        helper.make_node("Constant", [], ["scale"], value=scale),
        helper.make_node("Mul", ["q", "scale"], ["q_s"]),
    ]


def _folded(size: Size) -> list[Any]:
    """Return nodes for queries and keys (G, H, N, D + 2 side), extended by the bias and by row and column codes."""
    code = np.eye(size.side, dtype=np.float32)
    codes = np.concatenate((np.repeat(code, size.side, axis=0), np.tile(code, (size.side, 1))), axis=1)
    spread = np.broadcast_to(codes, (size.groups, size.heads, *codes.shape))
    return [
        *_scaled_queries(size),
        helper.make_node("Constant", [], ["codes"], value=numpy_helper.from_array(np.ascontiguousarray(spread), "c")),
        helper.make_node("Concat", ["q_s", "rows", "columns"], ["queries"], axis=-1),
        helper.make_node("Concat", ["k", "codes"], ["keys"], axis=-1),
    ]


def _model(size: Size, nodes: list[Any], shapes: Mapping[str, tuple[int, ...]], opset: int = 18) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in size.feeds().items()
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, size.feeds()["v"].shape)
    weights = [numpy_helper.from_array(np.array(shape, np.int64), name) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "attention", inputs, [out], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert inputs, constants and output of a model from float32 to float16."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    constants = [attribute.t for node in half.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in constants:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return half


@dataclass(frozen=True, slots=True)
class Backend:
    """Way to run the models."""

    load: Load
    half: bool = False
    """Whether the models are in float16."""


def on_cpu(model: bytes, feeds: Feeds) -> Run:
    """Load a model in onnxruntime, with arrays as inputs and outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, _settings(), providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    return lambda: session.run([first], dict(feeds))[0]


def bound_runner(device: str) -> Load:
    """Return a loader for onnxruntime with inputs and outputs in the memory of ``cuda`` or ``cpu``."""

    def load(model: bytes, feeds: Feeds) -> Run:
        import onnxruntime

        provider, given = (CUDA, cuda_provider(0)) if device == "cuda" else ("CPUExecutionProvider", {})
        session = onnxruntime.InferenceSession(model, _settings(), providers=[(provider, given)], enable_fallback=0)
        if provider not in session.get_providers():
            raise BackendError(
                f"{provider} did not load; expected a working installation. Check it with: cellsam-engine doctor"
            )
        binding = session.io_binding()
        for node in session.get_inputs():
            array = feeds[node.name].astype(DTYPES[node.type])
            binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
        for node in session.get_outputs():
            binding.bind_output(node.name, device, 0)
        binding.synchronize_inputs()

        def run() -> OnDevice:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return OnDevice(binding.get_outputs()[0])

        return run

    return load


def _settings() -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return settings


def openvino_runner(precision: str) -> Load:
    """Return a loader for OpenVINO on the CPU."""

    def load(model: bytes, feeds: Feeds) -> Run:
        core = shared_core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

        def run() -> F32:
            request.infer(dict(feeds), share_inputs=True)
            out: F32 = request.get_output_tensor(0).data
            return out

        return run

    return load


def backends() -> dict[str, Backend]:
    """Return the installed backends."""
    import onnxruntime

    found = {"onnxruntime CPU": Backend(on_cpu)}
    if CUDA in onnxruntime.get_available_providers():
        found["onnxruntime CUDA"] = Backend(bound_runner("cuda"), half=True)
    try:
        import openvino  # noqa: F401
    except ImportError:
        return found
    hints = {"fp32": "f32", "bf16": "bf16"}
    return found | {f"OpenVINO {name}": Backend(openvino_runner(hint)) for name, hint in hints.items()}


def encoder_form(model: CellSAM, form: Form, *, half: bool = False) -> bytes:
    """Return the whole encoder of a model as an ONNX engine."""
    side = model.config.image_size
    graph = EncoderGraph(model.encoder, features=True, embedding=True, form=form)
    engine = EngineGraph(
        name="encoder",
        graph=halve(graph) if half else graph,
        inputs={"pixel_values": torch.zeros(2, 3, side, side)},
        outputs=("patch_features", "image_embedding"),
        dynamic={"pixel_values": {0: "batch"}},
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / engine.file
        write_onnx(engine, path)
        return path.read_bytes()


def measure_attention(size: Size, runs: int, warmup: int = 0) -> list[dict[str, Any]]:
    """Time every form of one attention."""

    def forms(half: bool) -> dict[str, bytes]:
        built = {form: build(size) for form, build in FORMS.items()}
        return {form: (in_half(model) if half else model).SerializeToString() for form, model in built.items()}

    return measure(size.name, forms, size.feeds(), runs, warmup)


def measure_encoder(config: ModelConfig, runs: int, warmup: int = 0) -> list[dict[str, Any]]:
    """Time the whole encoder with random weights on one image."""
    torch.manual_seed(0)
    model = CellSAM(config).eval()

    def forms(half: bool) -> dict[str, bytes]:
        return {form: encoder_form(model, form, half=half) for form in ENCODERS}

    pixels = np.random.default_rng(0).standard_normal((1, 3, *2 * (model.config.image_size,)), np.float32)
    return measure("encoder", forms, {"pixel_values": pixels}, runs, warmup)


def measure(
    name: str, forms: Callable[[bool], Mapping[str, bytes]], feeds: Feeds, runs: int, warmup: int
) -> list[dict[str, Any]]:
    """Time every form on every backend, in turn; if a backend cannot load a form, record the reason.

    Args:
        name: name of the record.
        forms: function that returns the models by form, in float16 if its argument is True.
        feeds: inputs of the models.
        runs: counted runs of each model.
        warmup: runs before those, besides the one whose output is compared.
    """
    records: list[dict[str, Any]] = []
    ready = []
    found = backends()
    models = {half: forms(half) for half in {backend.half for backend in found.values()}}
    for backend, way in found.items():
        for form, model in models[way.half].items():
            precision = "fp16" if way.half else "fp32"
            record: dict[str, Any] = {"size": name, "backend": backend, "models": precision, "form": form}
            records.append(record)
            try:
                run = way.load(model, feeds)
                record["output"] = np.array(run(), np.float32)
            except Exception as error:  # backends raise errors of their own types
                record["refused"] = str(error).strip().splitlines()[0][:200]
            else:
                ready.append((record, run))
    seconds: dict[int, list[float]] = {id(record): [] for record, _ in ready}
    for turn in range(warmup + runs):
        for record, run in ready:
            start = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[id(record)].append(time.perf_counter() - start)
    reference = records[0]["output"]
    for record, _ in ready:
        record["ms"] = percentiles_ms(seconds[id(record)])
        record["largest_difference"] = float(np.abs(record.pop("output") - reference).max())
    return records


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--warmup", type=int, default=0, help="runs that are not counted, besides the one whose output is compared"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    records = [record for size in SIZES for record in measure_attention(size, options.runs, options.warmup)]
    records += measure_encoder(ModelConfig(), options.runs, options.warmup)
    for record in records:
        result = f"{record['ms']['p50']:.1f} ms" if "ms" in record else f"refused: {record['refused']}"
        print(f"{record['size']:8} {record['backend']:17} {record['form']:19} {result}")  # noqa: T201
    print(write_record(options.out, "attention", {"warmup": options.warmup, "runs": options.runs, "results": records}))  # noqa: T201


if __name__ == "__main__":
    main()
