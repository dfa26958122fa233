"""Tests of the commands ``doctor`` and ``warm-up``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from runtime.commands import doctor
from runtime.commands.app import app
from runtime.engines.backends import availability
from runtime.engines.backends.availability import NO_GPU, backend_problems, onnxruntime_clash
from runtime.engines.builtin import builtin_engine

runner = CliRunner()


def test_a_working_installation_passes() -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    findings = {one["name"]: one for one in json.loads(done.stdout)}
    assert findings["cpu"] == {"name": "cpu", "text": "can run", "state": "ok"}
    assert findings["tensorrt"]["state"] == "note"
    assert findings["auto"]["text"].startswith("cpu: set by CELLSAM_BACKEND")
    assert "numpy " in findings["packages"]["text"]
    for backend in ("cpu", "openvino"):
        assert "fluorescence_img.png: " in findings[f"test {backend}"]["text"]
        assert findings[f"test {backend}"]["state"] == "ok"


def test_the_report_is_a_line_for_each_finding() -> None:
    done = runner.invoke(app, ["doctor", "--no-self-test"])
    assert done.exit_code == 0, done.output
    names = [line[:14].strip() for line in done.stdout.splitlines()]
    assert names[:3] == ["cellsam-engine", "engines", "packages"]
    assert names[-7:] == ["cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx", "tensorrt-ort", "auto"]


def test_a_clash_of_packages_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_is_installed", lambda name: True)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in str(onnxruntime_clash())
    done = runner.invoke(app, ["doctor", "--no-self-test"])
    assert done.exit_code == 1
    assert "overwrite each other's files" in done.stdout


def test_one_package_is_no_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_is_installed", lambda name: name == "onnxruntime-gpu")
    assert onnxruntime_clash() is None


def test_reasons_of_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "count_gpus", lambda: 0)
    without = backend_problems(builtin_engine())
    assert without["cpu"] is None
    assert without["cuda"] == without["tensorrt"] == without["tensorrt-rtx"] == without["tensorrt-ort"] == NO_GPU
    monkeypatch.setattr(availability, "count_gpus", lambda: 1)
    monkeypatch.setattr(
        availability, "plans_problem", lambda directory, device, backend="": f"no plans {backend}".strip()
    )
    monkeypatch.setattr(availability, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",))
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    found = backend_problems(builtin_engine())
    assert found["cuda"] is None
    assert (found["tensorrt"], found["tensorrt-rtx"]) == ("no plans", "no plans tensorrt-rtx")
    assert "onnxruntime-gpu[cuda,cudnn]" in str(found["tensorrt-ort"])
    assert "not installed" in str(found["openvino"])


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    answer = SimpleNamespace(stdout="NVIDIA A100, 580.95, 81920 MiB, 80000 MiB\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: answer)
    (gpu,) = doctor._gpus()
    assert gpu.text == "0: NVIDIA A100, driver 580.95, 80000 MiB of 81920 MiB free"


def test_a_failing_self_test_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime import segmenter

    class Empty:
        """A segmenter that finds no cells."""

        manifest = SimpleNamespace(has_detector=True)

        def __init__(self, *args: object, **kwargs: object) -> None: ...

        def __enter__(self) -> Empty:
            return self

        def __exit__(self, *args: object) -> None: ...

        def __call__(self, image: np.ndarray, boxes: object) -> list[int]:
            return []

    monkeypatch.setattr(segmenter, "Segmenter", Empty)
    finding = doctor._self_test(builtin_engine(), "cpu")
    assert finding.state == "problem"
    assert "expected the same cells twice" in finding.text


def test_engines_that_are_not_there(tmp_path: Path) -> None:
    done = runner.invoke(app, ["doctor", "--model", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "none" in done.stderr


def test_warm_up_says_what_is_ready() -> None:
    done = runner.invoke(app, ["warm-up", "--backend", "cpu"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nano is ready on cpu after ")
