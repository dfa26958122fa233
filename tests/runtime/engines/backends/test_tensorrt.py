"""The TensorRT backend, on a double of TensorRT: it finds the same cells as onnxruntime, and errors give advice."""

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

from export.plans.builder import BuildOptions
from export.sample_image import verification_image
from runtime import BackendError, BackendOptions, SegmentConfig, Segmenter
from runtime.engines.backends import choice
from runtime.engines.backends.cuda import CudaTensor
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, DECODER_IMAGES, IMAGES_ON_GPU
from runtime.engines.backends.load import load_engine, resolve_backend
from runtime.engines.backends.plan_record import RECORD_NAME
from runtime.engines.backends.tensorrt import message_log, pop_errors
from runtime.engines.manifest import read_manifest
from runtime.errors import OutOfMemoryError
from tests.plans import with_plans
from tests.tensorrt_double import Double, install

ALL = SegmentConfig(box_threshold=0.5, box_threshold_mode="fixed", iou_threshold=-1000.0, min_area_px=0)
"""Settings that keep the detections of an untrained model."""


@pytest.fixture(scope="module")
def built(small_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small engines with plans."""
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


def load(directory: Path, name: Any, device: int = 0) -> Any:
    spec = read_manifest(directory).engines[name]
    return load_engine(directory / spec.file, spec, backend="tensorrt", options=BackendOptions(device=device))


def pixels_of(directory: Path, count: int = 1) -> Any:
    side = read_manifest(directory).image_size
    return {"pixel_values": np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)}


def test_the_same_labels_as_on_the_cpu(built: Path, double: Double, samples: list[Any]) -> None:
    on_gpu, on_cpu = (
        Segmenter(built, backend=backend, config=ALL, boxes_per_call=16) for backend in ("tensorrt", "cpu")
    )
    for sample in samples:  # one by one: scores of this model are nearly tied, and batching changes their last bits
        found, expected = on_gpu(sample), on_cpu(sample)
        assert len(found) == len(expected) > 0
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert [len(r) for r in on_gpu.batch(samples)] == [len(on_cpu(sample)) for sample in samples]


def test_threads_have_contexts_of_their_own(built: Path, double: Double, samples: list[Any]) -> None:
    shared = Segmenter(built, backend="tensorrt", config=ALL)
    alone = [shared(image).labels for image in samples]
    contexts = double.calls.count("context")
    for _ in range(3):  # thread pools end, but the contexts stay
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda image: shared(image).labels, samples * 2))
        for labels, expected in zip(together, alone * 2, strict=True):
            np.testing.assert_array_equal(labels, expected)
    assert contexts == 3, "one per engine"
    assert double.calls.count("context") <= 2 * contexts, "no more than runs at once"


def test_a_context_is_made_only_when_all_are_in_use(built: Path, double: Double) -> None:
    encoder = load(built, "encoder")
    with encoder._lanes.borrowed() as first, encoder._lanes.borrowed() as second:
        assert first is not second
    with encoder._lanes.borrowed() as again:
        assert again is first, "the one that came back last"
    assert double.calls.count("context") == 2


def test_a_run_waits_where_memory_for_one_more_context_is_missing(built: Path, double: Double) -> None:
    encoder, feeds = load(built, "encoder"), pixels_of(built)
    expected = encoder(feeds)
    double.context_bytes = double.gpu.free_bytes
    with ThreadPoolExecutor(1) as pool:
        with encoder._lanes.borrowed():
            waiting = pool.submit(encoder, feeds)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        found = waiting.result(60)
    np.testing.assert_array_equal(found["image_embedding"], expected["image_embedding"])
    assert double.calls.count("context") == 1


def test_without_memory_for_a_context_memory_has_run_out(built: Path, double: Double) -> None:
    double.context_bytes = double.gpu.free_bytes + 1
    with pytest.raises(
        OutOfMemoryError, match=r"encoder\.plan with pixel_values \(1, 3, .*no execution context.*OutOf"
    ):
        load(built, "encoder")(pixels_of(built))


def test_every_engine_hears_of_its_errors(built: Path, double: Double) -> None:
    """TensorRT reports errors to the logger of the engine that was loaded first."""
    engines = [(load(built, "encoder"), pixels_of(built))]
    features = {"patch_features": engines[0][0](pixels_of(built))["patch_features"]}
    engines.append((load(built, "cellfinder"), features))
    double.execute_fails = "Error Code 2: OutOfMemory (Requested size was 4096 bytes.)"
    for engine, feeds in engines[::-1]:
        with pytest.raises(OutOfMemoryError, match="Requested size was 4096 bytes"):
            engine(feeds)


def test_every_thread_hears_of_its_errors(double: Double) -> None:
    rt = sys.modules["tensorrt"]
    log = message_log(rt)
    assert message_log(rt) is log
    with ThreadPoolExecutor(1) as pool:
        pool.submit(log.log, rt.ILogger.Severity.ERROR, "of another thread").result()
        log.log(rt.ILogger.Severity.ERROR, "of this one")
        assert pop_errors(log) == "of this one"
        assert pop_errors(log) == "of another thread", "TensorRT has threads of its own"
        assert pop_errors(log) == "TensorRT gave no reason"


def test_a_context_is_lent_again_after_an_error_unless_it_is_broken(built: Path, double: Double) -> None:
    encoder, feeds = load(built, "encoder"), pixels_of(built)
    expected = encoder(feeds)
    with pytest.raises(BackendError, match="is float64"):
        encoder({"pixel_values": feeds["pixel_values"].astype(np.float64)})
    encoder(feeds)
    assert double.calls.count("context") == 1
    double.execute_fails = "Error Code 1: Cask"
    with pytest.raises(BackendError, match=r"TensorRT failed in encoder\.plan with .*: Error Code 1: Cask\."):
        encoder(feeds)
    double.execute_fails = ""
    found = encoder(feeds)
    assert double.calls.count("context") == 2
    double.gpu.synchronize_fails = True
    with pytest.raises(BackendError, match="cudaErrorIllegalAddress"):
        encoder(feeds)
    double.gpu.synchronize_fails = False
    np.testing.assert_array_equal(encoder(feeds)["image_embedding"], expected["image_embedding"])
    np.testing.assert_array_equal(found["image_embedding"], expected["image_embedding"])
    assert double.calls.count("context") == 3
    gc.collect()
    assert len(double.gpu.streams) == 1, "broken ones are gone"


def test_memory_of_kept_outputs_is_used_again(built: Path, double: Double) -> None:
    encoder, feeds = load(built, "encoder"), pixels_of(built)
    encoder.run(feeds, keep=("image_embedding",))
    before, addresses = double.gpu.allocations, set(double.gpu.memory)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            kept = pool.submit(encoder.run, feeds, keep=("image_embedding",)).result()
            assert kept["image_embedding"].memory.address in addresses
            del kept
    assert double.gpu.allocations == before, "the GPU need not wait"
    kept = encoder.run(feeds, keep=("image_embedding",))
    second = encoder.run(feeds, keep=("image_embedding",))
    assert kept["image_embedding"].memory.address != second["image_embedding"].memory.address
    expected = np.array(second["image_embedding"])
    del kept, encoder
    gc.collect()
    assert set(double.gpu.memory) == {second["image_embedding"].memory.address}, "the engine's free list went with it"
    np.testing.assert_array_equal(np.asarray(second["image_embedding"]), expected)
    del second
    gc.collect()
    assert double.gpu.memory == {}


@pytest.mark.parametrize("context_bytes", [0, 1])
def test_unused_memory_of_all_engines_is_freed_where_memory_runs_out(
    built: Path, double: Double, context_bytes: int
) -> None:
    encoder, finder, feeds = load(built, "encoder"), load(built, "cellfinder"), pixels_of(built)
    features = {"patch_features": encoder(feeds)["patch_features"]}
    kept = encoder.run(feeds, keep=("image_embedding", "patch_features"))
    unused = {tensor.memory.address for tensor in kept.values()}
    del kept
    finder(features)
    assert unused <= set(double.gpu.memory)
    double.gpu.free_bytes = sum(block.size for block in double.gpu.memory.values())
    double.context_bytes = context_bytes
    fresh = load(built, "cellfinder")
    fresh(features)
    assert not unused & set(double.gpu.memory)


def test_calls_are_halved_where_memory_runs_out(built: Path, double: Double, samples: list[Any]) -> None:
    def executions(free_bytes: int) -> tuple[int, list[int]]:
        segmenter = Segmenter(built, backend="tensorrt", config=ALL, images_per_call=2)
        for image in samples:
            segmenter(image)
        before = double.calls.count("execute")
        double.gpu.free_bytes = sum(block.size for block in double.gpu.memory.values()) + free_bytes
        counts = [len(found) for found in segmenter.batch(samples)]
        double.gpu.free_bytes = 1 << 34
        return double.calls.count("execute") - before, counts

    together, expected = executions(1 << 30)
    halved, found = executions(100_000)
    assert found == expected
    assert halved > together


def test_the_device_is_used_in_every_thread(built: Path, double: Double) -> None:
    double.gpu.count = 2
    encoder, finder = load(built, "encoder", 1), load(built, "cellfinder", 1)
    double.gpu._current.device = 0
    with ThreadPoolExecutor(1) as pool:
        kept = pool.submit(encoder.run, pixels_of(built), keep=("patch_features",)).result()
    features = {"patch_features": kept["patch_features"]}
    found = finder(features)
    double.gpu._current.device = 0
    assert np.isfinite(np.asarray(kept["patch_features"])).all()
    assert {double.gpu.devices[address] for address in double.gpu.memory} == {1}
    expected = load(built, "cellfinder")({"patch_features": np.asarray(kept["patch_features"])})
    np.testing.assert_array_equal(found["logits"], expected["logits"])
    with pytest.raises(BackendError, match="runs on GPU 0; patch_features lies on GPU 1"):
        load(built, "cellfinder")(features)


def test_plans_must_fit_the_device(built: Path, double: Double) -> None:
    with pytest.raises(BackendError, match=r"device is 1; CUDA shows this process 1 GPU"):
        load(built, "encoder", 1)
    double.gpu.count, double.gpu.others = 2, {1: ("NVIDIA RTX A6000", (8, 6))}
    load(built, "encoder", 0)
    with pytest.raises(BackendError, match=r"this machine is\n  NVIDIA RTX A6000 \(SM 8\.6(.|\n)*build .* --device 1$"):
        load(built, "encoder", 1)


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
        with pytest.raises(BackendError, match=r"pip install .*\[tensorrt\]'"):
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
    with pytest.raises(
        OutOfMemoryError, match=r"cudaMalloc\(\d+\) failed: cudaErrorMemoryAllocation .* Lower images_per"
    ):
        Segmenter(built, backend="tensorrt")(samples[0])


@pytest.fixture
def own(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a copy of the engines and the directory of its plans."""
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
        (lambda record: record["plans"]["encoder"]["inputs"][0].update(dtype="float16"), "its record lists"),
        (lambda record: record["plans"]["encoder"].update(ranges={}), "ranges does not match the inputs"),
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
    monkeypatch.setattr("runtime.engines.backends.tensorrt.machine_key", lambda device: _recorded_key(built))
    double.gpu.sm = (8, 0)
    with pytest.raises(
        BackendError, match=r"cannot load encoder\.plan: Serialization assertion .* Build the plans again"
    ):
        Segmenter(built, backend="tensorrt")


def _recorded_key(built: Path) -> Any:
    from runtime.engines.backends.plan_record import read_record

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
    assert IMAGES_ON_GPU <= BuildOptions().max_batch <= DECODER_IMAGES
    assert BuildOptions().max_boxes >= BOXES_ON_GPU


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine with a GPU and onnxruntime's CUDA provider, without ``CELLSAM_BACKEND``."""
    monkeypatch.delenv("CELLSAM_BACKEND", raising=False)
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    monkeypatch.setattr(choice, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",))


@pytest.mark.usefixtures("auto")
def test_auto_takes_plans_that_fit(built: Path, double: Double, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_backend("auto", built) == "tensorrt"
    assert caplog.text == ""
    assert not double.calls


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda gpu, plans: setattr(gpu, "driver", 13020), "differs in driver"),
        (lambda gpu, plans: setattr(gpu, "name", "NVIDIA RTX A6000"), "differs in gpu"),
        (lambda gpu, plans: shutil.rmtree(plans), "has no TensorRT plans"),
        (lambda gpu, plans: (plans / "cellfinder.plan").unlink(), "cellfinder.plan cannot be read"),
        (lambda gpu, plans: (plans / "mask_decoder.plan").write_bytes(b"no plan"), "mask_decoder.plan was altered"),
        (lambda gpu, plans: (plans / RECORD_NAME).write_text("{}"), "is damaged"),
        (lambda gpu, plans: forget_plan(plans, "mask_decoder"), "was built from this"),
    ],
)
def test_auto_leaves_plans_that_do_not_fit(
    own: tuple[Path, Path], double: Double, caplog: pytest.LogCaptureFixture, change: Any, said: str
) -> None:
    directory, plans = own
    change(double.gpu, plans)
    assert resolve_backend("auto", directory) == "cuda"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "TensorRT is not used: " in record.message
    assert said in record.message
    assert f"cellsam-engine build {directory}" in record.message
    assert resolve_backend("tensorrt", directory) == "tensorrt"
    with pytest.raises(BackendError):
        Segmenter(directory, backend="tensorrt")


def forget_plan(plans: Path, name: str) -> None:
    record = json.loads((plans / RECORD_NAME).read_text())
    del record["plans"][name]
    (plans / RECORD_NAME).write_text(json.dumps(record))


@pytest.mark.usefixtures("auto")
def test_auto_leaves_plans_without_tensorrt(
    built: Path, double: Double, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert resolve_backend("auto", built) == "cuda"
    assert "TensorRT is not used: the backend 'tensorrt' needs TensorRT" in caplog.text
