"""Magnitudes beyond float16 are detected on the CPU, where onnxruntime computes in float32."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from export.engine_files import engine_graphs
from export.errors import VerificationError
from export.gates import HalfTolerance, check_relative, run_cast
from export.half_range import CLOSE, LARGEST, RangeCheck, check_range
from export.onnx_file import write_onnx
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.ort import OrtEngine
from runtime.types import F32
from tests.engine_sources import source_of
from tests.small import calm_model

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def save(path: Path, nodes: list[onnx.NodeProto], **constants: Any) -> Path:
    """Build a graph from ``x``, float32 with three axes, to ``y``."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", "c"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def to_half(source: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], to=TensorProto.FLOAT16, name=f"to_{out}")


def to_float(source: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], to=TensorProto.FLOAT, name=f"to_{out}")


def test_logits_beyond_the_range_pass_the_values_and_fail_the_range(tmp_path: Path) -> None:
    """All keys and queries share one large component that cancels in the softmax, so the outputs are right."""
    offsets = np.array([707.0, 0, 0, 0], np.float16)
    path = save(
        tmp_path / "attention.onnx",
        [
            to_half("x", "half"),
            helper.make_node("Add", ["half", "offsets"], ["q"], name="queries"),
            helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1], name="keys"),
            helper.make_node("MatMul", ["q", "k"], ["logits"], name="the_logits"),
            helper.make_node("Softmax", ["logits"], ["weights"], name="softmax"),
            helper.make_node("MatMul", ["weights", "half"], ["attended"], name="attended"),
            to_float("attended", "y"),
        ],
        offsets=offsets,
    )
    x = np.random.default_rng(0).normal(size=(1, 50, 4)).astype(np.float32)
    x[..., 0] = 0
    q = (x + offsets).astype(np.float64)
    logits = q @ q.transpose(0, 2, 1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ x
    found = run_cast(OrtEngine(source_of(path), BackendOptions()), {"x": x})["y"]
    assert check_relative("made", "y", found, expected, HalfTolerance()).passed
    check = check_range("made", path, [{"x": x}])
    assert not check.passed
    assert check.output == "the_logits (MatMul)"
    assert check.value == pytest.approx(5e5, rel=1e-3)
    beyond = [node for node, value in check.nodes.items() if value > LARGEST]
    assert beyond == ["the_logits (MatMul)"]
    assert "made: FAILED, exceeds the range of half precision (65504)" in str(check)
    assert "the_logits (MatMul) 4.99" in str(check)
    assert "precision='fp32'" in str(check)


def test_an_encoder_whose_logits_are_beyond_the_range(tmp_path: Path) -> None:
    model = calm_model()
    attention: Any = model.encoder.blocks[1].attn
    width = attention.qkv.weight.shape[1]
    with torch.no_grad():
        for first, bias in ((0, 866.0), (width, 2000.0)):  # one component of the queries, and the same one of the keys
            attention.qkv.weight[first] = 0
            attention.qkv.bias[first] = bias
        attention.rel_pos_h[:, 0] = attention.rel_pos_w[:, 0] = 0
    engine = engine_graphs(model, "fp16")[0]
    write_onnx(engine, tmp_path / engine.file)
    feeds = {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 160, 160)).astype(np.float32)}
    found = run_cast(OrtEngine(source_of(tmp_path / engine.file), BackendOptions()), feeds)
    with torch.inference_mode():
        features, embedding = model.encode(torch.from_numpy(feeds["pixel_values"]))
    for name, expected in (("patch_features", features), ("image_embedding", embedding)):
        assert check_relative("encoder", name, found[name], expected.numpy(), HalfTolerance()).passed
    check = check_range("encoder", tmp_path / engine.file, [feeds])
    assert check.value == pytest.approx(5e5, rel=0.01)
    assert [node for node, value in check.nodes.items() if value > LARGEST] == [check.output]
    assert "(MatMul, blocks.1.attention" in check.output


@pytest.fixture(scope="module")
def casting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a cast to float16, through nodes that move values and one that changes nothing."""
    return save(
        tmp_path_factory.mktemp("made") / "casting.onnx",
        [
            to_half("x", "half"),
            helper.make_node("Transpose", ["half"], ["turned"], perm=[1, 0, 2], name="turned"),
            helper.make_node("Add", ["turned", "zero"], ["same"], name="same"),
            to_float("same", "wide"),
            helper.make_node("Mul", ["wide", "large"], ["y"], name="island"),
        ],
        zero=np.float16(0),
        large=np.float32(1e9),
    )


@settings(max_examples=30)  # each example creates a session
@given(arrays(np.float32, (2, 3, 4), elements=FINITE), arrays(np.float32, (1, 2, 3), elements=FINITE))
def test_magnitudes_are_those_of_the_unrounded_values(casting: Path, x: F32, other: F32) -> None:
    check = check_range("made", casting, [{"x": x}, {"x": other}])
    largest = float(max(np.abs(x).max(), np.abs(other).max()))
    assert check.nodes == {"to_half (Cast)": largest, "same (Add)": largest}
    assert check.passed == (largest <= LARGEST)
    assert bool(check.close) == (largest > CLOSE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 511, 4095])
def test_what_is_not_finite_fails(casting: Path, value: float, at: int) -> None:
    x = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    x[at] = value
    check = check_range("made", casting, [{"x": np.ones((1, 1, 1), np.float32)}, {"x": x.reshape(4, 8, 128)}])
    assert not check.passed
    assert check.output == "to_half (Cast)"
    assert not np.isfinite(check.value)


def test_a_message_names_the_first_nodes_and_counts_the_others() -> None:
    nodes = {f"n{i} (Add)": 1e5 for i in range(11)}
    text = str(RangeCheck("encoder", "n0 (Add)", 1e5, nodes))
    assert "n7 (Add) 1e+05; and 3 more" in text
    assert "n8" not in text


def test_float32_engines_have_nothing_to_measure(tmp_path: Path) -> None:
    path = save(tmp_path / "full.onnx", [helper.make_node("Add", ["x", "x"], ["y"])])
    with pytest.raises(VerificationError, match=r"full\.onnx computes nothing in float16"):
        check_range("made", path, [])


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from export.half_range import check_range
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
path = Path(sys.argv[1])
check_range("made", path, [{"x": np.ones((1, 1, 1), np.float32)}])
before = peak()
check_range("made", path, [{"x": np.ones((1, 1024, 4096), np.float32)}])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_measured_tensors_are_not_kept(tmp_path: Path) -> None:
    """The graph computes 40 tensors of 16 MiB, one after the other."""
    adds = [helper.make_node("Add", [f"h{i}", "one"], [f"h{i + 1}"], name=f"add{i}") for i in range(40)]
    path = save(tmp_path / "long.onnx", [to_half("x", "h0"), *adds, to_float("h40", "y")], one=np.float16(1))
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10 * 16
