"""Tests that the latency benchmark compares equal work and writes a complete record; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.latency import check_integers, engine_variants
from benchmarks.measure import Measured, gpu_peak_mib, measure_in_turn
from runtime.errors import EngineError


def test_record(calm_checkpoint: Path, calm_engines: Path, integer_engines: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.latency", "--checkpoint", str(calm_checkpoint)]
    command += ["--model", str(calm_engines), "--integers", str(integer_engines), "--runs", "2"]
    command += ["--boxes", "5", "--size", "96", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["case"] == "latency"
    assert record["labels_equal_to_baseline_full_masks"] > 0.999
    assert record["speedup"][record["baseline"]] == 1.0
    for variant in record["variants"].values():
        assert variant["runs"] == 2
        assert variant["total_ms"]["p50"] <= variant["total_ms"]["p99"]
        assert set(variant["steps_ms"]) == {"encode", "detect", "decode"}
        assert variant["peak_mib"] > 50
    integers = "engines, OpenVINO, 8-bit integers"
    (row,) = (row for row in record["agreement"] if row["variant"] == integers)
    assert row["mean_iou"] > 0.9
    assert integers in record["variants"].keys() - record["share_of_matrix_product_rate"].keys()
    assert str(tmp_path) not in path.read_text(), "no paths of this machine"


def test_integers_are_those_of_the_engines(calm_engines: Path, integer_engines: Path, small_engines: Path) -> None:
    check_integers(calm_engines, integer_engines)
    with pytest.raises(EngineError, match="has precision fp32; expected engines exported with precision='int8'"):
        check_integers(calm_engines, calm_engines)
    with pytest.raises(EngineError, match="different checkpoints"):
        check_integers(small_engines, integer_engines)


def test_summary_by_hand() -> None:
    runs = [{"a": 0.1, "b": 0.2}, {"a": 0.3, "b": 0.2}, {"a": 0.2, "b": 0.2}]
    summary = Measured(runs, None, 10.4).summary()  # type: ignore[arg-type]
    assert summary["total_ms"]["p50"] == 400.0
    assert summary["steps_ms"]["a"]["p50"] == 200.0
    assert summary["peak_mib"] == 10
    assert "gpu_peak_mib" not in summary
    assert Measured(runs, None, 10.4, 20.6).summary()["gpu_peak_mib"] == 21  # type: ignore[arg-type]


def test_ways_on_a_gpu() -> None:
    ways = engine_variants("cuda", "fp16")
    assert [(way.backend, way.cuda_graphs) for way in ways.values()] == [
        ("cuda", False),
        ("cuda", False),
        ("cuda", True),
        ("tensorrt", False),
        ("tensorrt-ort", False),
    ]
    assert not any(way.cuda_graphs for way in engine_variants("cpu", "fp32").values())
    both = [list(engine_variants("cpu", "fp32", integers=integers).values()) for integers in (False, True)]
    assert [(way.backend, way.precision) for way in both[1][len(both[0]) :]] == [("openvino", "int8")]


def test_memory_on_a_gpu_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert gpu_peak_mib() is None, "PyTorch is here and has used none"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**20)
    assert gpu_peak_mib() == 3


def failing() -> None:
    raise OSError("no such engine")


def test_a_failing_variant_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such engine"):
        measure_in_turn({"x": failing}, warmup=0, runs=1)  # type: ignore[dict-item]
