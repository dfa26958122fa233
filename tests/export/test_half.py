"""Half precision: which parts use it, and what the gates accept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import exporter
from export.errors import ExportError, VerificationError
from export.exporter import ExportConfig, export_engines, verify_directory
from export.gates import GateCheck, HalfTolerance
from export.graphs import CellFinderGraph, EncoderGraph, MaskDecoderGraph
from export.graphs.half import halve
from export.half_range import RangeCheck
from runtime import Segmenter
from runtime.engines.manifest import read_manifest
from tests.small import calm_model, small_model

MULTIPLIED = ("MatMul", "Gemm", "Conv", "ConvTranspose")


@pytest.fixture(scope="module")
def checkpoint(calm_checkpoint: Path) -> Path:
    return calm_checkpoint


@pytest.fixture(scope="module")
def engines(half_engines: Path) -> Path:
    return half_engines


def test_halving_leaves_the_model_as_it_was() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    halved = halve(MaskDecoderGraph(model))
    assert any(p.dtype == torch.float16 for p in halved.parameters())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_weights_beyond_float16_are_rejected() -> None:
    model = small_model()
    with torch.no_grad():
        model.encoder.blocks[0].mlp.lin1.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match="weights of up to 1e\\+05 do not fit into float16"):
        halve(EncoderGraph(model.encoder, features=True, embedding=True))


def test_islands_stay_float32() -> None:
    graph = halve(CellFinderGraph(calm_model().cellfinder or pytest.fail("no detector")))
    assert graph.anchor_logits.dtype == torch.float32
    assert {p.dtype for p in graph.bbox_embed.parameters()} == {torch.float32}
    norms = [m for m in graph.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)]
    assert len(norms) > 3
    assert {p.dtype for norm in norms for p in norm.parameters()} == {torch.float32}


def test_products_are_typed_float16_in_the_files(engines: Path) -> None:
    """Count products, which shows the share that a strongly typed TensorRT build runs in half precision."""
    for name, least in (("encoder", 1.0), ("cellfinder", 0.8), ("mask_decoder", 0.6)):
        graph = onnx.shape_inference.infer_shapes(onnx.load(engines / f"{name}.onnx")).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        products = [node for node in graph.node if node.op_type in MULTIPLIED]
        half = [node for node in products if types.get(node.output[0]) == onnx.TensorProto.FLOAT16]
        assert len(half) >= least * len(products), (name, len(half), len(products))


def test_types_between_engines_and_to_the_user(engines: Path) -> None:
    manifest = read_manifest(engines)
    assert manifest.precision == "fp16"
    tensors = {t.name: t.dtype for spec in manifest.engines.values() for t in (*spec.inputs, *spec.outputs)}
    assert {name for name, dtype in tensors.items() if dtype == "float16"} == {"patch_features", "image_embedding"}


def test_cells_are_those_of_float32(engines: Path, checkpoint: Path, image: Any, tmp_path: Path) -> None:
    export_engines(checkpoint, tmp_path / "full")
    config = replace(read_manifest(engines).config, iou_threshold=-1000.0, min_area_px=0)
    boxes = [[20, 30, 80, 90], [100, 200, 180, 260], [5, 5, 250, 510]]
    half, full = (Segmenter(path, config=config)(image, boxes=boxes) for path in (engines, tmp_path / "full"))
    assert (half.labels == full.labels).mean() > 0.99
    np.testing.assert_allclose(half.iou_predictions, full.iou_predictions, atol=0.01)


def test_verification_is_by_gates(engines: Path, checkpoint: Path) -> None:
    checks = verify_directory(engines, checkpoint)
    assert all(isinstance(check, GateCheck | RangeCheck) and check.passed for check in checks)
    assert [check.engine for check in checks if isinstance(check, RangeCheck)] == list(read_manifest(engines).engines)
    measures = {check.measure for check in checks if isinstance(check, GateCheck)}
    assert {"relative error", "pixels of 1024", "mean mask IoU", "least mask IoU"} <= measures
    recorded = read_manifest(engines).verification["outputs"]
    assert len(recorded) == len(checks)
    for check in checks:
        if isinstance(check, RangeCheck):
            (nodes,) = (entry["nodes"] for entry in recorded if entry["engine"] == check.engine and "nodes" in entry)
            assert nodes.keys() == check.nodes.keys()
            assert max(nodes.values()) < 16384


def test_a_failed_gate_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = exporter.verify_half_engines
    strict = HalfTolerance(relative_error=1e-9)
    monkeypatch.setattr(exporter, "verify_half_engines", lambda *a, **k: check(*a, **{**k, "tolerance": strict}))
    with pytest.raises(
        VerificationError, match=r"encoder.patch_features: FAILED, relative error .* \(expected <= 1e-09"
    ):
        export_engines(checkpoint, tmp_path / "out", ExportConfig(precision="fp16"))
    assert not list(tmp_path.iterdir())


def test_nan_never_passes() -> None:
    for at_least in (True, False):
        gate = GateCheck("s", "o", "m", float("nan"), 1.0, at_least=at_least)
        assert not gate.passed
