"""The two forms of engines: contents of the files, results, and the default form of an export."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.exporter import ExportConfig, export_engines
from runtime import ConfigError, EngineError, Segmenter
from runtime.engines.manifest import Target, read_manifest
from tests.engine_sources import renew_sums
from tests.small import SMALL

BOXES = [[20, 30, 80, 90], [100, 200, 180, 260], [5, 5, 250, 510]]


@pytest.fixture(scope="module")
def for_gpus(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the small model in float32, which includes an element-by-element comparison with PyTorch."""
    out = tmp_path_factory.mktemp("targets") / "gpu"
    export_engines(small_checkpoint, out, ExportConfig(target="gpu"))
    return out


def widths(path: Path) -> list[tuple[int, int]]:
    """Return the channels of queries and values of each attention in a file: a product, a softmax, a product."""
    graph = onnx.load(path).graph
    sizes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    made = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        softmax = made.get(node.input[0]) if node.op_type == "MatMul" else None
        if softmax is not None and softmax.op_type == "Softmax":
            product = made[softmax.input[0]]
            found.append((sizes[product.input[0]][-1].dim_value, sizes[node.input[1]][-1].dim_value))
    return found


def test_values_are_as_wide_as_queries_for_gpus_alone(for_gpus: Path, small_engines: Path) -> None:
    wide, narrow = widths(for_gpus / "encoder.onnx"), widths(small_engines / "encoder.onnx")
    assert len(wide) == len(narrow) == SMALL.encoder_depth
    assert all(query == value and query % 8 == 0 for query, value in wide)
    assert all(query > value for query, value in narrow)


def test_both_forms_give_the_same_cells(for_gpus: Path, small_engines: Path, image: Any) -> None:
    def segmenter(directory: Path) -> Segmenter:
        settings = replace(read_manifest(directory).config, iou_threshold=-1000.0, min_area_px=0)
        return Segmenter(directory, backend="cpu", config=settings)

    one, other = (segmenter(directory)(image, boxes=BOXES) for directory in (for_gpus, small_engines))
    assert (one.labels == other.labels).mean() > 0.999
    np.testing.assert_allclose(one.iou_predictions, other.iou_predictions, rtol=1e-3, atol=1e-3)


def test_the_manifest_names_the_form(for_gpus: Path, small_engines: Path, tmp_path: Path) -> None:
    assert read_manifest(for_gpus).target == "gpu"
    assert read_manifest(small_engines).target == "any"
    out = Path(shutil.copytree(for_gpus, tmp_path / "engines"))
    content = json.loads((out / "manifest.json").read_text())
    content["target"] = "phone"
    (out / "manifest.json").write_text(json.dumps(content))
    renew_sums(out)
    with pytest.raises(EngineError, match="target"):
        read_manifest(out)
    del content["target"]  # missing in older exports
    (out / "manifest.json").write_text(json.dumps(content))
    renew_sums(out)
    assert read_manifest(out).target == "any"


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({}, "any"),
        ({"precision": "fp16"}, "gpu"),
        ({"precision": "fp16", "target": "any"}, "any"),
        ({"precision": "fp16", "attention": "fused"}, "any"),
        ({"precision": "int8"}, "any"),
        ({"target": "gpu"}, "gpu"),
    ],
)
def test_half_precision_is_for_gpus_unless_told_otherwise(options: dict[str, Any], form: Target) -> None:
    assert ExportConfig(**options).form == form


@pytest.mark.parametrize("other", [{"precision": "int8"}, {"attention": "fused"}])
def test_forms_that_exclude_each_other_are_rejected(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"target='gpu' is the form for TensorRT, but .*target='any'"):
        ExportConfig(target="gpu", **other)
