"""Tests that the 8-bit benchmark measures every way and leaves the engines unchanged; no time is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import int8
from benchmarks.int8 import WAYS
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import read_manifest
from tests.small import SMALL


def test_the_command_measures_every_way(
    small_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["int8", "--model", str(small_engines), "--runs", "2", "--threads", "1", "--out", str(tmp_path)]
    )
    int8.main()
    (path,) = tmp_path.glob("int8-*px_*.json")
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    record = json.loads(path.read_text())
    assert [row["way"] for row in record["encoder"]] == list(WAYS)
    assert [row["backend"] for row in record["labels"]] == list(WAYS)[1:]
    assert record["products_in_integers"] == 4 * SMALL.encoder_depth
    assert record["encoder_mib"]["int8"] < record["encoder_mib"]["fp32"]
    for row in record["encoder"]:
        assert 0 < row["ms"]["p50"] <= row["ms"]["p99"]
        wanted = {"onnxruntime, fp32": 1e-9, "OpenVINO, fp32": 1e-3}.get(row["way"], 0.2)
        assert all(error < wanted for error in row["relative_error"].values()), row
        if WAYS[row["way"]].int8:
            assert all(error > 1e-4 for error in row["relative_error"].values()), "nothing was rounded"
    check_files(small_engines, read_manifest(small_engines))  # the engines themselves are unchanged
    assert str(tmp_path) not in path.read_text(), "no paths of this machine"
