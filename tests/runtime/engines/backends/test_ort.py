"""onnxruntime backends: bound memory gives the same numbers, the CPU never replaces a GPU, memory errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from runtime import BackendError, BackendOptions, Segmenter
from runtime.engines.backends import ort
from runtime.errors import OutOfMemoryError
from runtime.pipeline.pipeline import Pipeline
from tests.engine_sources import source_of
from tests.runtime.test_segmenter import BOXES, OPEN, assert_same


def with_engines(segmenter: Segmenter, directory: Path, kind: Any) -> Segmenter:
    engines = {
        name: kind(source_of(directory / spec.file), BackendOptions())
        for name, spec in segmenter.manifest.engines.items()
    }
    return Segmenter.from_pipeline(Pipeline(engines, segmenter.manifest, images_per_call=2, boxes_per_call=32))


def test_bound_memory_gives_the_same(segmenter: Segmenter, small_engines: Path, image: Any) -> None:
    """Bind memory as on a GPU, with the CPU as the device: kept tensors do not become arrays."""
    bound = with_engines(segmenter, small_engines, ort.OrtDeviceEngine)
    encoded, plain = bound.encode(image), segmenter.encode(image)
    (features,), (expected_features,) = ([view.batch for view in views] for views in (encoded, plain))
    assert isinstance(features.image_embedding, ort.OnDevice)
    assert isinstance(features.patch_features, ort.OnDevice)
    assert features.image_embedding.shape == np.asarray(features.image_embedding).shape
    np.testing.assert_allclose(
        np.asarray(features.image_embedding), np.asarray(expected_features.image_embedding), rtol=1e-4, atol=1e-5
    )
    (found,), (expected,) = bound.detect(encoded, config=OPEN), segmenter.detect(plain, config=OPEN)
    assert len(found.boxes) == len(expected.boxes)
    for mine, other in zip(
        bound.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
        segmenter.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
        strict=True,
    ):
        assert_same(mine, other, exact=False)


@pytest.mark.parametrize("kind", [ort.OrtEngine, ort.OrtDeviceEngine])
def test_a_failing_call_names_the_engine_and_what_it_got(kind: Any, small_engines: Path) -> None:
    engine = kind(source_of(small_engines / "encoder.onnx"), BackendOptions())
    with pytest.raises(BackendError, match=r"onnxruntime failed in encoder.onnx with pixel_values \(1, 3, 5, 5\)"):
        engine({"pixel_values": np.zeros((1, 3, 5, 5), np.float32)})


@pytest.mark.parametrize(
    "message",
    [
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
    ],
)
def test_memory_that_runs_out_is_told_apart(small_engines: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    engine = ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(message)

    engine._session = SimpleNamespace(run=fail)
    with pytest.raises(OutOfMemoryError, match="Lower images_per_call or boxes_per_call"):
        engine({"pixel_values": np.zeros((1, 3, 5, 5), np.float32)})
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(OutOfMemoryError, match=r"cannot load .*encoder\.onnx: .*Is the memory of the device full\?"):
        ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())


def test_sessions_leave_the_cores_to_each_other(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, settings: Any, **given: Any) -> None:
            asked.append((settings.get_session_config_entry("session.force_spinning_stop"), given))
            super().__init__(path, settings, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for name in ("mask_decoder", "encoder"):
        ort.OrtEngine(source_of(small_engines / f"{name}.onnx"), BackendOptions())
    assert [stops for stops, _ in asked] == ["1", "1"]
    assert [given["disabled_optimizers"] for _, given in asked] == [["SkipLayerNormFusion"], []]


@pytest.mark.skipif(ort.CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_no_cuda_provider_is_an_error(small_engines: Path) -> None:
    with pytest.raises(BackendError, match=r"has no CUDA provider\. Install the GPU build"):
        Segmenter(small_engines, backend="cuda")


def test_a_provider_that_did_not_load_is_an_error(
    small_engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise onnxruntime would continue on the CPU."""
    asked = []

    def session(path: str, settings: Any, providers: Any, disabled_optimizers: Any, enable_fallback: int) -> Any:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort.CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudart.so.13"))
    with pytest.raises(BackendError, match="cannot use GPU 1: its CUDA provider did not load"):
        Segmenter(small_engines, backend="cuda", options=BackendOptions(device=1))
    assert capsys.readouterr() == ("", "Failed to load libcudart.so.13\n")
    ((name, options),) = asked[0]
    assert name == ort.CUDA
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"


def test_the_providers_own_error_is_told(
    small_engines: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its fallback, onnxruntime would print this error and continue on the CPU."""

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def _create_inference_session(self, providers: Any, *others: Any) -> None:
            self._fallback_providers = ["CPUExecutionProvider"]
            if providers != self._fallback_providers:
                raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version")
            super()._create_inference_session(providers, *others)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort.CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(BackendError, match=r"cannot load .*: CUDA failure 35: CUDA driver version is insufficient"):
        ort.OrtCudaEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    assert capfd.readouterr().out == ""


@pytest.mark.gpu
def test_the_gpu_gives_the_labels_of_the_cpu(small_engines: Path, image: Any) -> None:
    gpu, cpu = Segmenter(small_engines, backend="cuda"), Segmenter(small_engines, backend="cpu")
    for mine, other in zip(
        gpu.batch([image] * 5, boxes=[BOXES] * 5, config=OPEN),
        cpu.batch([image] * 5, boxes=[BOXES] * 5, config=OPEN),
        strict=True,
    ):
        assert (mine.labels == other.labels).mean() > 0.999
