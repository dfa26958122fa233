"""Files of an engine directory, damaged or made up."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from onnx import TensorProto, helper, numpy_helper

from runtime import BackendOptions
from runtime.engines.backends.ort import OrtEngine
from runtime.engines.builtin import builtin_engine
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import MANIFEST_NAME, Manifest, describe_check, read_manifest
from runtime.engines.sums import SUMS_NAME
from tests.robustness.base import Case, InputClass
from tests.robustness.mutations import edited, edits, replaced, replacements


def _of_tree_or_bytes() -> SearchStrategy[Case]:
    changes = {"tree": st.just([]) | replacements(), "edits": st.just([]) | edits(3)}
    return st.fixed_dictionaries({**changes, "sums": st.sampled_from(("none", "right", "damaged"))})


def _check_directory(case: Case) -> None:
    """A manifest and a list of hashes, of which one or both are damaged."""
    content = (builtin_engine() / MANIFEST_NAME).read_bytes()
    if case["tree"]:
        content = json.dumps(replaced(json.loads(content), case["tree"])).encode()
    sums = (builtin_engine() / SUMS_NAME).read_bytes()
    if case["sums"] == "damaged":
        sums = edited(sums, case["edits"])
    else:
        content = edited(content, case["edits"])
    if case["sums"] == "right":
        own = hashlib.sha256(content).hexdigest().encode()
        sums = b"\n".join(own + line[64:] if MANIFEST_NAME.encode() in line else line for line in sums.split(b"\n"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST_NAME).write_bytes(content)
        if case["sums"] != "none":
            (Path(folder) / SUMS_NAME).write_bytes(sums)
        manifest = read_manifest(folder)
        _check_manifest(manifest, Path(folder))


def _check_manifest(manifest: Manifest, folder: Path) -> None:
    for check in manifest.verification.get("checks", []):  # as 'cellsam-engine info' shows them
        assert describe_check(check)
    for engine in manifest.engines.values():
        assert (folder / engine.file).resolve().parent == folder.resolve(), "no file elsewhere"
    again = folder / "again"
    again.mkdir()
    manifest.write(again)
    assert read_manifest(again) == manifest


OPERATORS = (
    *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "DequantizeLinear", "Expand"),
    *("Gather", "Gelu", "Gemm", "InstanceNormalization", "LayerNormalization", "MatMul", "Mul", "Range", "ReduceMean"),
    *("Reshape", "Shape", "Slice", "Softmax", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Pow"),
    *("QuantizeLinear", "Clip", "Flatten", "Max", "ReduceSum", "MultiHeadAttention", "If", "Loop"),
)
ATTRIBUTES = (
    *("strides", "dilations", "kernel_shape", "pads", "group", "axis", "axes", "perm", "num_outputs", "to", "keepdims"),
    *("allowzero", "start", "end", "transA", "num_heads", "output_padding", "output_shape", "stash_type", "block_size"),
)
CONSTANTS: dict[str, Any] = {
    "kernel": np.ones((2, 2, 3, 3), np.float32),
    "vector": np.arange(4, dtype=np.float32),
    "bytes": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "scale": np.float32(0.5),
    "shape": np.array([1, 2, 8, 8]),
    "one": np.int64(1),
    "none": np.zeros((0, 4), np.float32),
    "true": np.array([True, False]),
}


def graphs() -> SearchStrategy[Case]:
    """Graphs of a few nodes, and changes of the bytes."""
    number = st.integers(-2, 5) | st.sampled_from((0, -1, 1 << 20, 1 << 31, 1 << 40, -(1 << 63), (1 << 63) - 1))
    name = st.integers(0, 15)
    node = st.fixed_dictionaries(
        {
            "operator": st.sampled_from(OPERATORS),
            "inputs": st.lists(name, max_size=4),
            "attributes": st.dictionaries(
                st.sampled_from(ATTRIBUTES), number | st.lists(number, max_size=6), max_size=3
            ),
        }
    )
    sizes = st.lists(number, max_size=4)
    changes = st.just([]) | st.just([]) | edits()
    return st.fixed_dictionaries({"nodes": st.lists(node, min_size=1, max_size=6), "shape": sizes, "edits": changes})


def _graph(case: Case) -> bytes:
    nodes = []
    for place, one in enumerate(case["nodes"]):
        domain = "com.microsoft" if one["operator"] == "MultiHeadAttention" else ""
        attributes = {key: value for key, value in one["attributes"].items() if value != []}
        names = ["x", *(f"y{earlier}" for earlier in range(place)), *CONSTANTS]
        inputs = [names[number % len(names)] for number in one["inputs"]]
        nodes.append(helper.make_node(one["operator"], inputs, [f"y{place}"], domain=domain, **attributes))
    constants = {**CONSTANTS, "shape": np.array(case["shape"], np.int64)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8, 8])
    y = helper.make_tensor_value_info(f"y{len(nodes) - 1}", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return edited(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), case["edits"])


def _check_graph(case: Case) -> None:
    """Load what passes the check, as a segmenter would."""
    content = bytes.fromhex(case["content"]) if "content" in case else _graph(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        path.write_bytes(content)
        engine = OrtEngine(EngineSource(path, hashlib.sha256(content).hexdigest()), BackendOptions())
        assert engine.inputs is not None


def _pinned_graph(case: Case) -> Case:
    return {"content": (case.get("content") or _graph(case).hex())}


CLASSES = (
    InputClass("manifests and sums", _of_tree_or_bytes, _check_directory),
    InputClass("ONNX graphs", graphs, _check_graph, _pinned_graph),
)
