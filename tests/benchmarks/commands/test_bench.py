"""Tests of ``bench``: cases, record, and arithmetic counted by hand; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from benchmarks.arithmetic import engine_flop, matrix_product_rate
from benchmarks.commands import bench
from benchmarks.commands.bench import STEPS, Case
from runtime import BackendOptions, Segmentation, SegmentConfig
from runtime.commands.app import app
from runtime.errors import ConfigError
from tests.runtime.files.outputs.made import made_result


def test_the_command_measures_every_case(small_engines: Path, tmp_path: Path) -> None:
    command = [
        "bench",
        "--model",
        str(small_engines),
        "--backend",
        "cpu",
        "--backend",
        "openvino",
        "--size",
        "64",
        "--size",
        "96",
    ]
    command += ["--cells", "0", "--cells", "5", "--cells", "301", "--runs", "2", "--images", "2"]
    command += ["--batch", "2", "--batch", "1", "--batch", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "images/s" in result.stdout
    (path,) = tmp_path.glob("bench_*.json")
    record = json.loads(path.read_text())
    assert (record["warmup"], record["runs"]) == (1, 2)
    assert record["chosen_backends"] == {"cpu": "cpu", "openvino": "openvino"}
    cases = [(row["side_px"], row["cells"]) for row in record["latency"] if row["backend"] == "cpu"]
    assert cases == [(side, cells) for side in (64, 96) for cells in (0, 5, 301)]
    ((agreement),) = record["agreement"]
    assert (agreement["backend"], agreement["against"]) == ("openvino", "cpu")
    assert 0 <= agreement["matched"] <= 1
    for row in record["latency"]:
        assert tuple(row["steps_ms"]) == STEPS
        assert 0 < row["host_ms"]["p50"] < row["total_ms"]["p50"] <= row["total_ms"]["p99"]
    streams = [
        (row["side_px"], row["images_per_call"], row["given_cells"])
        for row in record["throughput"]
        if row["backend"] == "cpu"
    ]
    assert streams == [(side, batch, given) for side in (64, 96) for batch in (2, 1) for given in (None, 5)]
    for row in record["throughput"]:
        if row["given_cells"] is not None:
            assert row["cells_per_s"] == pytest.approx(row["given_cells"] * row["images_per_s"], rel=0.01)
        assert row["megapixels_per_s"] == pytest.approx(row["images_per_s"] * row["side_px"] ** 2 / 1e6, abs=2e-3)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in path.read_text(), "no paths of this machine"


def test_an_unknown_backend_is_wrong_usage() -> None:
    for wrong, said in (
        ("gpu", "'gpu' is not one of 'auto', 'cpu'"),
        ("cpu", "--cuda-graphs needs the backend 'cuda'"),
    ):
        arguments = ["--backend", wrong, "--cuda-graphs"]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bench", *arguments])
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_graphs_are_measured_beside_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def segmenter(engine: object, backend: str, options: BackendOptions) -> SimpleNamespace:
        asked.append((backend, options.cuda_graphs))
        return SimpleNamespace(backend="cuda" if backend == "auto" else backend)

    monkeypatch.setattr(bench, "Segmenter", segmenter)
    found = bench.load(None, ["auto", "tensorrt"], BackendOptions(), cuda_graphs=True)
    assert list(found) == ["auto", "auto, CUDA graphs", "tensorrt"]
    assert asked == [("auto", False), ("cuda", True), ("tensorrt", False)]
    assert list(bench.load(None, ["cuda"], BackendOptions(), cuda_graphs=False)) == ["cuda"]
    with pytest.raises(ConfigError, match="cuda_graphs needs the backend 'cuda' or 'tensorrt-rtx'; got 'cpu'"):
        bench.load(None, ["cpu"], BackendOptions(), cuda_graphs=True)


@pytest.mark.parametrize(("backend", "before"), [("cpu", 1), ("cuda", 3)])
def test_the_stream_warms_up_before_it_is_timed(backend: str, before: int) -> None:
    streams: list[int] = []

    def stream(views: list[np.ndarray], config: SegmentConfig, images_together: int) -> Iterator[Segmentation]:
        assert images_together == 8, "a call of the encoder is filled"
        streams.append(len(views))
        return (made_result(np.eye(3, dtype=np.int32)[:2] * [1, 2, 3]) for _ in views)

    pipeline = SimpleNamespace(images_per_call=8)
    double = SimpleNamespace(backend=backend, config=SegmentConfig(), stream=stream, pipeline=pipeline)
    rate, cell_rate = bench.images_per_second(double, 32, 3)  # type: ignore[arg-type]
    assert streams == [before, 3]
    assert cell_rate == pytest.approx(2 * rate)


@pytest.mark.parametrize("cells", [0, 1, 7, 300])
def test_boxes_lie_in_the_image_apart(cells: int) -> None:
    case = Case(200, cells)
    boxes = case.boxes()
    assert boxes.shape == (cells, 4)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min(initial=0) >= 0
    assert boxes.max(initial=0) <= 200
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert len(np.unique(centres.round(6), axis=0)) == cells
    assert case.image().shape[:2] == (200, 200)


def test_arithmetic_by_hand(tmp_path: Path) -> None:
    """Write a model: a 3x3 convolution from 2 to 4 channels on 8x8 pixels, then a product of (N, 256) and (256, 5)."""
    weights = [
        helper.make_tensor("kernel", TensorProto.FLOAT, (4, 2, 3, 3), np.zeros(72)),
        helper.make_tensor("matrix", TensorProto.FLOAT, (256, 5), np.zeros(1280)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["features"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 2, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 5))],
        weights,
    )
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    assert engine_flop(path, {"batch": 3}) == 3 * 2 * (8 * 8 * 4 * 2 * 9 + 256 * 5)
    with pytest.raises(ValueError, match="has a dimension 'batch'; expected its size"):
        engine_flop(path, {})


def test_every_engine_can_be_counted(small_engines: Path) -> None:
    one = engine_flop(small_engines / "encoder.onnx", {"batch": 1})
    assert engine_flop(small_engines / "encoder.onnx", {"batch": 3}) == 3 * one > 1e6
    shape = {"batch": 1, "boxes": 2, "window_height": 8, "window_width": 8}
    two = engine_flop(small_engines / "mask_decoder.onnx", shape)
    twenty = engine_flop(small_engines / "mask_decoder.onnx", {**shape, "boxes": 20})
    assert 1e6 < 5 * two < twenty <= 10 * two, "what the boxes of an image share is done once"


def test_the_rate_is_a_rate() -> None:
    assert matrix_product_rate("fp32", side=256, seconds=0.05) > 1e8
    assert matrix_product_rate("bf16", side=256, seconds=0.05) > 1e7
