"""The origin that results name is read from the sessions of the loaded engines."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime.engines.backends
from runtime import BackendOptions, Segmenter
from runtime.engines.backends import ort
from runtime.engines.backends.base import Engine
from runtime.engines.backends.reports import describe_engines
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest
from runtime.engines.sums import sums_sha256
from tests.foreign_session import report_other_providers


def test_onnxruntime_reports_the_providers_of_its_session() -> None:
    with Segmenter(backend="cpu") as segmenter:
        made_by = segmenter.provenance
    assert made_by is not None, "kept after the engines are released"
    assert (made_by.model, made_by.backend, made_by.version) == ("nano", "cpu", runtime.__version__)
    assert made_by.model_sha256 == sums_sha256(builtin_engine())
    assert made_by.libraries == {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    assert made_by.engines.keys() == read_manifest(builtin_engine()).engines.keys()
    for run in made_by.engines.values():
        assert (run.device, run.providers, run.precision) == ("CPU", ("CPUExecutionProvider",), "fp32")


def test_another_provider_than_asked_for_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    report_other_providers(monkeypatch, "DnnlExecutionProvider")
    made_by = Segmenter(backend="cpu").provenance
    assert made_by is not None
    for run in made_by.engines.values():
        assert (run.device, run.providers) == ("Dnnl", ("DnnlExecutionProvider", "CPUExecutionProvider"))


@pytest.mark.parametrize(("named", "device"), [("NVIDIA L4 (SM 8.9)", "NVIDIA L4 (SM 8.9)"), (None, "CUDA 1")])
def test_a_gpu_is_named_by_the_number_that_its_session_uses(
    named: str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ort, "describe_gpu", lambda number: asked.append(number) or named)
    report_other_providers(monkeypatch, ort.CUDA, device_id="1")
    made_by = Segmenter(backend="cpu").provenance
    assert made_by is not None
    assert {run.device for run in made_by.engines.values()} == {device}
    assert set(asked) == {1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_reports_the_precision_of_each_compiled_model(precision: Any) -> None:
    openvino = pytest.importorskip("openvino")
    made_by = Segmenter(backend="openvino", options=BackendOptions(cpu_precision=precision)).provenance
    assert made_by is not None
    assert made_by.libraries["openvino"] == openvino.__version__
    hints = {"f32": "fp32", "bf16": "bf16"}
    compiled = openvino.Core().compile_model(
        builtin_engine() / "encoder.onnx",
        "CPU",
        {"INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision)},
    )
    found = hints[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]
    for run in made_by.engines.values():
        assert (run.device, run.providers, run.precision) == ("CPU", ("CPU",), found)


def test_engines_that_report_nothing_are_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(builtin_engine())
    engines: dict[Any, Any] = {name: Silent() for name in manifest.engines}
    assert describe_engines(engines, manifest, Path("nano"), "cpu") is None


class Silent(Engine):
    """An engine of a test."""


def test_every_backend_reports() -> None:
    folder = runtime.engines.backends
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    classes = [kind for kind in subclasses(Engine) if kind.__module__.startswith(folder.__name__)]
    assert {"OrtEngine", "OpenVinoEngine", "TensorRtEngine", "OrtTensorRtEngine"} <= {kind.__name__ for kind in classes}
    for kind in classes:
        assert kind.report is not Engine.report, f"{kind.__name__} must report where it runs"


def subclasses(kind: Any) -> list[Any]:
    return [one for below in kind.__subclasses__() for one in (below, *subclasses(below))]
