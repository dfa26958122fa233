"""Damaged or invented files of an engine directory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from onnx import NodeProto, TensorProto, helper, numpy_helper

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
    """Read a directory whose manifest, list of hashes or both are damaged."""
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
    for check in manifest.verification.get("checks", []):  # 'cellsam-engine info' shows them
        assert describe_check(check)
    for engine in manifest.engines.values():
        assert (folder / engine.file).resolve().parent == folder.resolve(), "engine files are in the directory"
    again = folder / "again"
    again.mkdir()
    manifest.write(again)
    assert read_manifest(again) == manifest


WINDOW = ("strides", "dilations", "kernel_shape", "pads", "group")

OPERATORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("Add", "Mul", "Pow", "Max", "MatMul", "Where", "Div"), (("?", "?"), ())),
    **dict.fromkeys(("Gelu", "Clip", "Loop", "Range", "Constant"), (("?",), ())),
    **dict.fromkeys(("Reshape", "Expand", "Tile"), (("?", "shape"), ("allowzero",))),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "Squeeze", "Unsqueeze"), (("?", "axes"), ("keepdims",))),
    "Conv": (("?", "kernel"), WINDOW),
    "ConvTranspose": (("?", "kernel"), (*WINDOW, "output_padding")),
    "Softmax": (("?",), ("axis",)),
    "Flatten": (("?",), ("axis",)),
    "Split": (("?",), ("axis", "num_outputs")),
    "Transpose": (("?",), ("perm",)),
    "Cast": (("?",), ("to",)),
    "Shape": (("?",), ("start", "end")),
    "Slice": (("?", "axes", "shape"), ()),
    "Gather": (("?", "one"), ("axis",)),
    "Concat": (("?", "?"), ("axis",)),
    "LayerNormalization": (("?", "eight"), ("axis", "stash_type")),
    "InstanceNormalization": (("?", "two", "two"), ()),
    "QuantizeLinear": (("?", "scale"), ("axis",)),
    "DequantizeLinear": (("bytes", "scale"), ("axis", "block_size")),
    "ConstantOfShape": (("shape",), ()),
    "Gemm": (("flat", "flat"), ("transA", "transB")),
    "MultiHeadAttention": (("?", "?", "?"), ("num_heads",)),
}
"""Inputs and attributes by operator; ``?`` is the graph's input or the output of an earlier node."""

LISTS = ("strides", "dilations", "kernel_shape", "pads", "perm", "output_padding")

CONSTANTS: dict[str, Any] = {
    "kernel": np.ones((2, 2, 3, 3), np.float32),
    "two": np.ones(2, np.float32),
    "eight": np.ones(8, np.float32),
    "flat": np.ones((4, 4), np.float32),
    "bytes": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "scale": np.float32(0.5),
    "one": np.int64(1),
}


def graphs() -> SearchStrategy[Case]:
    """Draw graphs of a few nodes, and changes of their bytes."""
    usual = st.integers(1, 4)
    number = (
        usual | usual | st.integers(-2, 9) | st.sampled_from((1 << 20, 1 << 31, 1 << 40, -(1 << 63), (1 << 63) - 1))
    )
    operator = st.sampled_from(sorted(OPERATORS))
    sizes = st.lists(number, max_size=4)
    node = st.tuples(
        operator, st.lists(st.integers(0, 15), max_size=3), st.lists(st.none() | number | sizes, max_size=5)
    )
    changes = st.just([]) | st.just([]) | st.just([]) | edits()
    return st.fixed_dictionaries(
        {
            "nodes": st.lists(node.map(list), min_size=1, max_size=6),
            "shape": st.just([1, 2, 8, 8]) | sizes,
            "axes": st.lists(st.integers(-4, 4), max_size=2),
            "edits": changes,
        }
    )


def _node(place: int, operator: str, chosen: list[int], given: list[Any]) -> NodeProto:
    """Make the node at a place of the graph; its output is ``y`` with the place as suffix."""
    earlier = ["x", *(f"y{number}" for number in range(place))]
    free = iter(chosen)
    inputs = [
        earlier[-1 - next(free, 0) % len(earlier)] if name == "?" else name
        for name in (("one", "?", "one") if operator == "Range" else OPERATORS[operator][0])
    ]
    attributes = {}
    for name, value in zip(OPERATORS[operator][1], given, strict=False):
        as_list = value if isinstance(value, list) else [value] * (4 if name == "pads" else 2)
        if value is not None and as_list:
            attributes[name] = as_list if name in LISTS else as_list[0]
    domain = "com.microsoft" if operator == "MultiHeadAttention" else ""
    return helper.make_node(operator, inputs, [f"y{place}"], domain=domain, **attributes)


def _graph(case: Case) -> bytes:
    nodes = [_node(place, *one) for place, one in enumerate(case["nodes"])]
    constants = {**CONSTANTS, **{name: np.array(case[name], np.int64) for name in ("shape", "axes")}}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8, 8])
    y = helper.make_tensor_value_info(f"y{len(nodes) - 1}", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return edited(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), case["edits"])


def _check_graph(case: Case) -> None:
    """Load a graph as a segmenter does."""
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
