"""``auto`` takes the fastest backend that can run, and says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime import BackendError
from runtime.engines.backends import choice
from runtime.engines.backends.load import resolve_backend


@pytest.mark.parametrize(
    ("gpus", "plans", "packages", "cuda", "expected", "reason"),
    [
        (1, None, {"tensorrt", "openvino"}, True, "tensorrt", "TensorRT and plans"),
        (1, "of another GPU", {"tensorrt"}, True, "cuda", "CUDA provider.*TensorRT is not used: of another GPU"),
        (1, "of another GPU", set(), False, "cpu", "the GPU is not used.*TensorRT is not used: of another GPU"),
        (2, False, {"tensorrt"}, True, "cuda", "CUDA provider"),
        (0, None, {"tensorrt", "openvino"}, True, "openvino", "faster on a CPU"),
        (0, False, set(), False, "cpu", "always runs"),
        (1, False, set(), False, "cpu", "the GPU is not used.*install onnxruntime-gpu"),
        (1, False, {"openvino"}, False, "openvino", "the GPU is not used"),
    ],
)
def test_choice(
    gpus: int,
    plans: str | bool | None,
    packages: set[str],
    cuda: bool,
    expected: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if plans is not False:
        (tmp_path / "tensorrt").mkdir()
    monkeypatch.setattr(choice, "plans_problem", lambda directory, device, backend: plans)
    monkeypatch.setattr(choice, "count_gpus", lambda: gpus)
    monkeypatch.setattr(choice, "find_spec", lambda name: name if name in packages else None)
    monkeypatch.setattr(choice, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",) if cuda else ())
    chosen = choice.choose_backend(tmp_path)
    assert chosen.backend == expected
    assert re.search(reason, str(chosen))
    assert bool(chosen.left_unused) == ("not used" in reason)


def test_plans_of_tensorrt_come_before_those_for_rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problems = {"tensorrt": None, "tensorrt-rtx": None}
    for backend in problems:
        (tmp_path / backend).mkdir()
    monkeypatch.setattr(choice, "plans_problem", lambda directory, device, backend: problems[backend])
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    assert choice.choose_backend(tmp_path).backend == "tensorrt"
    problems["tensorrt"] = "of another GPU"
    chosen = choice.choose_backend(tmp_path)
    assert (chosen.backend, str(chosen)) == ("tensorrt-rtx", "found a GPU, TensorRT for RTX and plans")


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELLSAM_BACKEND", "openvino")
    assert resolve_backend("auto", tmp_path) == "openvino"
    assert resolve_backend("cpu", tmp_path) == "cpu"
    monkeypatch.setenv("CELLSAM_BACKEND", "tensorrt-ort")
    assert resolve_backend("auto", tmp_path) == "tensorrt-ort"
    monkeypatch.setenv("CELLSAM_BACKEND", "gpu")
    with pytest.raises(BackendError, match="CELLSAM_BACKEND is 'gpu'; expected one of 'auto', 'cpu'"):
        resolve_backend("auto", tmp_path)


def test_the_log_says_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CELLSAM_BACKEND", raising=False)
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    monkeypatch.setattr(choice, "onnxruntime_providers", tuple)
    assert resolve_backend("auto", tmp_path) == "cpu"
    assert "the GPU is not used" in caplog.text, "a warning, seen without asking for the log"
    monkeypatch.setattr(choice, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",))
    with caplog.at_level("INFO"):
        assert resolve_backend("auto", tmp_path) == "cuda"
    assert "'auto' is 'cuda': found a GPU and onnxruntime's CUDA provider" in caplog.text
