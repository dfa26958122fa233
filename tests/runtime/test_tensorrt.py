"""The TensorRT backend on a double of TensorRT: the cells that onnxruntime gives, and refusals that say what to do."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.plan_builder import DECODER_IMAGES, BuildOptions
from export.sample_image import verification_image
from runtime import BackendError, BackendOptions, SegmentConfig, Segmenter, stages
from runtime.backends.base import load_engine
from runtime.backends.cuda import CudaTensor
from runtime.manifest import read_manifest
from runtime.plans import RECORD_NAME
from tests.plans import with_plans
from tests.tensorrt_double import Double, install

ALL = SegmentConfig(box_threshold=0.5, box_threshold_mode="fixed", iou_threshold=-1000.0, min_area_px=0)
"""Keeps what an untrained model finds."""


@pytest.fixture(scope="module")
def built(small_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small engines with plans."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, "10.3.0")
        return with_plans(small_engines, tmp_path_factory.mktemp("tensorrt") / "small")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, "10.3.0")


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    image = verification_image()
    return [image[:100, :120], image[200:290, 50:180]]


def load(directory: Path, name: Any) -> Any:
    spec = read_manifest(directory).engines[name]
    return load_engine(directory / spec.file, spec, backend="tensorrt", options=BackendOptions())


def test_the_same_labels_as_on_the_cpu(built: Path, double: Double, samples: list[Any]) -> None:
    on_gpu, on_cpu = (
        Segmenter(built, backend=backend, config=ALL, boxes_per_call=16) for backend in ("tensorrt", "cpu")
    )
    for sample in samples:  # alone: scores of this model are nearly tied, and other batches give other last bits
        found, expected = on_gpu(sample), on_cpu(sample)
        assert found.count == expected.count > 0
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert [r.count for r in on_gpu.batch(samples)] == [on_cpu(sample).count for sample in samples]


def test_threads_have_contexts_of_their_own(built: Path, double: Double, samples: list[Any]) -> None:
    shared = Segmenter(built, backend="tensorrt", config=ALL)
    alone = [shared(image).labels for image in samples]
    contexts = double.calls.count("context")
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda image: shared(image).labels, samples * 2))
    for labels, expected in zip(together, alone * 2, strict=True):
        np.testing.assert_array_equal(labels, expected)
    assert contexts == 3, "one per engine"
    assert contexts < double.calls.count("context") <= 3 * contexts


def test_kept_outputs_stay_on_the_gpu(built: Path, double: Double) -> None:
    manifest = read_manifest(built)
    side = manifest.image_size
    pixels = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    encoder, finder = load(built, "encoder"), load(built, "cellfinder")
    kept = encoder.run({"pixel_values": pixels}, keep=("patch_features", "image_embedding"))
    assert all(isinstance(tensor, CudaTensor) for tensor in kept.values())
    assert double.gpu.host_copies == [("cudaMemcpyHostToDevice", pixels.nbytes)]
    assert kept["patch_features"].shape == (1, *manifest.engines["cellfinder"].inputs[0].shape[1:])
    chained = finder({"patch_features": kept["patch_features"]})
    assert [kind for kind, _ in double.gpu.host_copies[1:]] == ["cudaMemcpyDeviceToHost"] * 2
    on_cpu = encoder({"pixel_values": pixels})
    np.testing.assert_array_equal(np.asarray(kept["patch_features"]), on_cpu["patch_features"])
    through_host = finder({"patch_features": on_cpu["patch_features"]})
    for name, array in chained.items():
        np.testing.assert_array_equal(array, through_host[name])


def test_results_outlive_the_next_call_and_memory_is_given_back(built: Path, double: Double) -> None:
    side = read_manifest(built).image_size
    encoder = load(built, "encoder")
    pixels = np.zeros((1, 3, side, side), np.float32)
    first = encoder.run({"pixel_values": pixels}, keep=("image_embedding",))
    before = {name: np.array(tensor) for name, tensor in first.items()}
    encoder({"pixel_values": pixels + 1})
    for name, tensor in first.items():
        np.testing.assert_array_equal(np.asarray(tensor), before[name])
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(first["image_embedding"], copy=False)
    del first, tensor, encoder
    gc.collect()
    assert double.gpu.memory == {}
    assert double.gpu.streams == {}


@pytest.mark.parametrize(
    ("field", "value", "differs"),
    [
        ("name", "NVIDIA RTX A6000", "differs in gpu"),
        ("sm", (8, 6), "differs in sm"),
        ("driver", 13020, "differs in driver"),
        ("runtime", 12080, "differs in cuda"),
    ],
)
def test_plans_for_another_machine_are_refused(
    built: Path, double: Double, field: str, value: Any, differs: str
) -> None:
    setattr(double.gpu, field, value)
    with pytest.raises(BackendError) as caught:
        Segmenter(built, backend="tensorrt")
    message = str(caught.value)
    assert (
        "built for\n  NVIDIA H100 80GB HBM3 (SM 9.0), TensorRT 10.3.0, CUDA 13, driver for CUDA up to 13.0" in message
    )
    assert differs in message
    assert f"this machine is\n  {double.gpu.name} (SM " in message
    assert message.endswith(f"cellsam-engine build {built}")
    assert not double.calls, "nothing was loaded, nothing built"


def test_plans_of_another_version_are_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "11.1")
    with pytest.raises(BackendError, match=r"differs in tensorrt(.|\n)*TensorRT 11.1.0.106"):
        Segmenter(built, backend="tensorrt")


def test_without_plans_the_message_says_how_to_build_them(double: Double) -> None:
    with pytest.raises(
        BackendError, match=r"has no TensorRT plans\. Build them on this machine: cellsam-engine build "
    ):
        Segmenter(backend="tensorrt")


def test_without_tensorrt_the_message_says_how_to_get_it(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("cuda.bindings", "tensorrt"):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(BackendError, match=r"pip install 'cellsam-engine\[tensorrt\]'"):
            Segmenter(built, backend="tensorrt")


def test_old_versions_and_placeholders_are_refused(built: Path, double: Double) -> None:
    sys.modules["tensorrt"].__version__ = "8.6.1"  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.1 is installed; 10\.3 or later"):
        Segmenter(built, backend="tensorrt")
    del sys.modules["tensorrt"].Runtime  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="is not NVIDIA's"):
        Segmenter(built, backend="tensorrt")


def test_without_a_gpu_the_message_says_so(built: Path, double: Double) -> None:
    double.gpu.count = 0
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used \(cudaErrorNoDevice\)"):
        Segmenter(built, backend="tensorrt")


def test_a_full_gpu_is_an_error(built: Path, double: Double, samples: list[Any]) -> None:
    double.gpu.free_bytes = 1000
    with pytest.raises(BackendError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        Segmenter(built, backend="tensorrt")(samples[0])


@pytest.fixture
def own(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the engines, and where its plans are."""
    directory = Path(shutil.copytree(built, tmp_path / "engines"))
    return directory, next(directory.glob(f"tensorrt/*/{RECORD_NAME}")).parent


def test_altered_plans_are_refused(own: tuple[Path, Path], double: Double) -> None:
    directory, plans = own
    (plans / "cellfinder.plan").write_bytes(b"no plan")
    with pytest.raises(BackendError, match=r"cellfinder\.plan was altered after it was built\. Build the plans again"):
        Segmenter(directory, backend="tensorrt")
    (plans / "cellfinder.plan").unlink()
    with pytest.raises(BackendError, match=r"cellfinder\.plan cannot be read"):
        Segmenter(directory, backend="tensorrt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(schema=99), "has schema 99; this version reads 1"),
        (lambda record: record.pop("key"), "is damaged"),
        (lambda record: record["plans"]["encoder"].update(file="../../encoder.onnx"), "is not a plain file name"),
        (lambda record: record["plans"].pop("encoder"), r"was built from this .*encoder\.onnx"),
        (lambda record: record["plans"]["encoder"].update(onnx_sha256="0"), r"was built from this .*encoder\.onnx"),
        (lambda record: record["plans"]["encoder"]["inputs"][0].update(dtype="float16"), "its record says"),
        (lambda record: record["plans"]["encoder"].update(ranges={}), "ranges are not those of the inputs"),
    ],
)
def test_damaged_records_are_refused(own: tuple[Path, Path], double: Double, change: Any, message: str) -> None:
    directory, plans = own
    record = json.loads((plans / RECORD_NAME).read_text())
    change(record)
    (plans / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(BackendError, match=message):
        Segmenter(directory, backend="tensorrt")


def test_a_plan_that_tensorrt_cannot_load_is_an_error(
    built: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.backends.tensorrt.machine_key", lambda: _recorded_key(built))
    double.gpu.sm = (8, 0)
    with pytest.raises(
        BackendError, match=r"cannot load encoder\.plan: Serialization assertion .* Build the plans again"
    ):
        Segmenter(built, backend="tensorrt")


def _recorded_key(built: Path) -> Any:
    from runtime.plans import read_record

    return read_record(next(built.glob(f"tensorrt/*/{RECORD_NAME}")).parent).key


def test_inputs_are_checked(built: Path, double: Double) -> None:
    side = read_manifest(built).image_size
    encoder = load(built, "encoder")
    with pytest.raises(BackendError, match=r"of \[1, 3, .* to \[2, 3, .*; got \[3, 3, .*--max-batch"):
        encoder({"pixel_values": np.zeros((3, 3, side, side), np.float32)})
    with pytest.raises(BackendError, match="pixel_values is float64; expected float32"):
        encoder({"pixel_values": np.zeros((1, 3, side, side))})
    with pytest.raises(BackendError, match=r"got \['pixels'\]; expected \['pixel_values'\]"):
        encoder({"pixels": np.zeros((1, 3, side, side), np.float32)})


def test_plans_take_what_the_runtime_sends() -> None:
    assert stages.IMAGES_ON_GPU <= BuildOptions().max_batch <= DECODER_IMAGES
    assert BuildOptions().max_boxes >= stages.BOXES_ON_GPU
