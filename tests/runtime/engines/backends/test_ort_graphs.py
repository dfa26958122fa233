"""CUDA graphs: which runs are captured and replayed, what callers receive, and what happens on failure.

Without a GPU, these tests use onnxruntime's CPU provider: it binds and fills memory as on a GPU and ignores unknown
run options. The run options that sessions receive show which runs are captured.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import BackendError, BackendOptions, Segmenter
from runtime.engines.backends import ort, ort_graphs
from runtime.engines.backends.ort_graphs import BOX_COUNTS, Gate, OrtCudaGraphEngine, pad_boxes
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import TensorSpec
from runtime.errors import ConfigError
from tests.engine_sources import source_of
from tests.runtime.engines.backends.test_ort import with_engines
from tests.runtime.test_segmenter import BOXES, OPEN, assert_same

BOX_INPUTS = (
    TensorSpec(name="image_embedding", shape=("batch", 2), dtype="float32"),
    TensorSpec(name="image_index", shape=("boxes",), dtype="int64"),
    TensorSpec(name="boxes_xyxy_model", shape=("boxes", 4), dtype="float32"),
)


class Watched:
    """Session wrapper that records the graph number and the thread of every run."""

    def __init__(self, session: Any, runs: list[tuple[int, int]]) -> None:
        self._session, self._runs = session, runs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        graph = 0 if options is None else int(options.get_run_config_entry("gpu_graph_id"))
        self._runs.append((graph, threading.get_ident()))
        self._session.run_with_iobinding(binding, options)


class OnCpu(OrtCudaGraphEngine):
    """Graph engine on the CPU that records each run in ``runs``."""

    device = "cpu"

    def _load(self, source: EngineSource, settings: Any, options: BackendOptions) -> Any:
        self.runs = getattr(self, "runs", [])
        return Watched(ort.OrtEngine._load(self, source, settings, options), self.runs)

    @property
    def graphs(self) -> list[int]:
        return [graph for graph, _ in self.runs]


def encoder(small_engines: Path) -> OnCpu:
    return OnCpu(source_of(small_engines / "encoder.onnx"), BackendOptions(cuda_graphs=True))


def pixels(images: int, seed: int = 0) -> dict[str, Any]:
    return {"pixel_values": np.random.default_rng(seed).standard_normal((images, 3, 160, 160), np.float32)}


def decoder_feeds(engine: Any, boxes: int, side: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    embedding = next(spec for spec in engine.inputs if spec.name == "image_embedding")
    corner = rng.uniform(0, 100, (boxes, 2))
    tokens = np.tile(np.arange(side), (boxes, 1))
    return {
        "image_embedding": rng.standard_normal((2, *embedding.shape[1:]), np.float32),
        "image_index": np.sort(rng.integers(0, 2, boxes)),
        "boxes_xyxy_model": np.concatenate((corner, corner + 40), axis=1).astype(np.float32),
        "window_rows": tokens,
        "window_cols": tokens,
    }


def assert_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-4, atol=1e-5)


def test_a_shape_is_captured_when_it_comes_again(small_engines: Path) -> None:
    engine, plain = encoder(small_engines), ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    for turn, images in enumerate([1, 1, 1, 2, 2, 1, 2]):
        assert_equal(engine(pixels(images, turn)), plain(pixels(images, turn)))
    assert engine.graphs == [-1, 1, 1, -1, 2, 1, 2]


def test_kept_outputs_outlive_the_next_replay_and_feed_it(small_engines: Path) -> None:
    engine, plain = encoder(small_engines), ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    kept = [engine.run(pixels(1, seed), keep=("image_embedding", "patch_features")) for seed in range(4)]
    for seed, outputs in enumerate(kept):
        assert all(isinstance(tensor, ort_graphs.KeptOnDevice) for tensor in outputs.values())
        assert_equal(outputs, plain(pixels(1, seed)))
    finder = OnCpu(source_of(small_engines / "cellfinder.onnx"), BackendOptions(cuda_graphs=True))
    expected = ort.OrtEngine(source_of(small_engines / "cellfinder.onnx"), BackendOptions())
    for outputs in kept:
        features = outputs["patch_features"]
        assert_equal(finder({"patch_features": features}), expected({"patch_features": np.asarray(features)}))
    assert_equal(finder({"patch_features": np.asarray(features)}), expected({"patch_features": np.asarray(features)}))
    assert finder.graphs == [-1, 1, 1, 1, 1], "from the device or the host, it is the same shape"


def test_arrays_are_the_callers_own(small_engines: Path) -> None:
    engine = encoder(small_engines)
    engine(pixels(1))
    first = engine(pixels(1, 1))["image_embedding"]
    before = np.array(first)
    engine(pixels(1, 2))
    np.testing.assert_array_equal(first, before)


def test_boxes_are_padded_and_cut(small_engines: Path) -> None:
    path = small_engines / "mask_decoder.onnx"
    engine, plain = (
        OnCpu(source_of(path), BackendOptions(cuda_graphs=True)),
        ort.OrtEngine(source_of(path), BackendOptions()),
    )
    for seed, count in enumerate([1, 3, 4, 2, 5, 16, 65, 65]):
        feeds = decoder_feeds(engine, count, 5, seed)
        outputs = engine.run(feeds, keep=("mask_logits",))
        assert outputs["mask_logits"].shape[0] == count
        assert isinstance(outputs["mask_logits"], np.ndarray) == (count not in (4, 16, 65)), "cut on the host"
        assert_equal(outputs, plain(feeds))
    assert engine.graphs == [-1, 1, 1, 1, -1, 2, -1, 3]


@given(st.integers(0, 70))
def test_padding_repeats_the_last_box(count: int) -> None:
    rng = np.random.default_rng(count)
    feeds = {
        "image_embedding": rng.random((3, 2), np.float32),
        "image_index": rng.integers(0, 3, count),
        "boxes_xyxy_model": rng.random((count, 4), np.float32),
    }
    padded = pad_boxes(BOX_INPUTS, feeds)
    assert padded["image_embedding"] is feeds["image_embedding"]
    for name in ("image_index", "boxes_xyxy_model"):
        array = np.asarray(padded[name])
        assert array.dtype == feeds[name].dtype
        np.testing.assert_array_equal(array[:count], feeds[name])
        assert (array[count:] == feeds[name][-1:]).all()
        assert len(array) == (count if count in (0, *range(65, 71)) else min(n for n in BOX_COUNTS if n >= count))


def test_an_engine_without_boxes_is_not_padded() -> None:
    feeds = pixels(3)
    assert pad_boxes((TensorSpec(name="pixel_values", shape=("batch", 3, 160, 160), dtype="float32"),), feeds) is feeds


def test_captures_are_bounded(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_graphs, "MOST_CAPTURES", 1)
    path = small_engines / "mask_decoder.onnx"
    engine = OnCpu(source_of(path), BackendOptions(cuda_graphs=True))
    for count, side in [(3, 5), (4, 5), (3, 6), (3, 6), (3, 6), (2, 5)]:
        assert engine(decoder_feeds(engine, count, side))["mask_logits"].shape[:2] == (count, 4 * side)
    assert engine.graphs == [-1, 1, -1, -1, -1, 1]


def test_one_thread_runs_an_engine_and_goes_with_it(small_engines: Path) -> None:
    engine = encoder(small_engines)
    results: dict[int, Any] = {}

    def work(engine: OnCpu, seed: int) -> None:
        results[seed] = engine(pixels(1, seed))

    callers = [threading.Thread(target=work, args=(engine, seed)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    plain = ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    for seed, outputs in results.items():
        assert_equal(outputs, plain(pixels(1, seed)))
    (thread,) = {ident for _, ident in engine.runs}
    assert thread != threading.get_ident()
    assert thread in {t.ident for t in threading.enumerate()}
    del engine, callers, caller
    gc.collect()
    deadline = time.monotonic() + 10
    while thread in {t.ident for t in threading.enumerate()} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert thread not in {t.ident for t in threading.enumerate()}


def test_a_call_that_fails_says_why_and_is_not_captured(small_engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = encoder(small_engines)
    for _ in range(3):
        with pytest.raises(BackendError, match=r"onnxruntime failed in encoder.onnx with pixel_values \(1, 3, 5, 5\)"):
            engine({"pixel_values": np.zeros((1, 3, 5, 5), np.float32)})
    assert engine.graphs == [-1, -1, -1]
    assert not caplog.records


def test_a_capture_that_fails_is_told_and_runs_go_on(small_engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Watched):
        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            super().run_with_iobinding(binding, options)
            if self._runs[-1][0] > 1:
                raise RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")

    engine, plain = encoder(small_engines), ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    engine._session = Failing(engine._session._session, engine.runs)
    failing = engine._session
    kept = []
    for seed, images in enumerate([1, 1, 2, 2, 1, 2]):
        outputs = engine.run(pixels(images, seed), keep=("image_embedding",))
        kept.append(outputs["image_embedding"])
        assert_equal(outputs, plain(pixels(images, seed)))
    assert engine.graphs == [-1, 1, -1, 2, 0, 0, 0], "the call that should have been captured is run without"
    assert engine._session is not failing
    assert all(isinstance(tensor, ort_graphs.KeptOnDevice) for tensor in kept)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "encoder.onnx runs without CUDA graphs" in record.getMessage()
    assert "CUDA failure 901" in record.getMessage()


REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the user  as "
    "all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
)


def asked_of(monkeypatch: pytest.MonkeyPatch, error: str | None) -> list[dict[str, str]]:
    """Record the CUDA provider options of every session; sessions with graphs raise ``error``."""
    asked: list[dict[str, str]] = []
    real = onnxruntime.InferenceSession

    def session(path: str, settings: Any, providers: Any, disabled_optimizers: Any, enable_fallback: int) -> Any:
        ((name, options),) = providers
        assert (name, enable_fallback) == (ort.CUDA, 0)
        asked.append(options)
        if error is not None and "enable_cuda_graph" in options:
            raise RuntimeError(error)
        on_cpu = real(path, settings, providers=["CPUExecutionProvider"])
        return SimpleNamespace(
            get_providers=lambda: [ort.CUDA],
            get_inputs=on_cpu.get_inputs,
            get_outputs=on_cpu.get_outputs,
            io_binding=on_cpu.io_binding,
            run_with_iobinding=on_cpu.run_with_iobinding,
        )

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort.CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_the_provider_is_asked_for_graphs(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(monkeypatch, None)
    OrtCudaGraphEngine(source_of(small_engines / "encoder.onnx"), BackendOptions(cuda_graphs=True, device=1))
    assert asked == [{**ort.cuda_provider(1), "enable_cuda_graph": "1"}]


def test_where_onnxruntime_refuses_graphs_runs_go_on(
    small_engines: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asked_of(monkeypatch, REFUSAL)
    engine = OrtCudaGraphEngine(source_of(small_engines / "encoder.onnx"), BackendOptions(cuda_graphs=True))
    assert asked == [{**ort.cuda_provider(0), "enable_cuda_graph": "1"}, ort.cuda_provider(0)]
    assert "encoder.onnx runs without CUDA graphs" in caplog.text
    assert "not been partitioned" in caplog.text
    monkeypatch.undo()
    plain = ort.OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    for seed in range(3):
        assert_equal(engine(pixels(1, seed)), plain(pixels(1, seed)))


def test_another_error_of_the_session_is_raised(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(monkeypatch, "CUDA failure 100: no CUDA-capable device is detected")
    with pytest.raises(BackendError, match=r"cannot load .*encoder\.onnx: CUDA failure 100"):
        OrtCudaGraphEngine(source_of(small_engines / "encoder.onnx"), BackendOptions(cuda_graphs=True))
    assert len(asked) == 1


@pytest.mark.parametrize(("version", "fits"), [("1.30.2", False), ("1.9.0", False), ("1.31.0", True), ("2.0.1", True)])
def test_the_version_is_checked(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    if fits:
        ort_graphs.check_version()
    else:
        with pytest.raises(
            BackendError, match=rf"onnxruntime {version} is installed; cuda_graphs needs 1\.31 or later"
        ):
            ort_graphs.check_version()


@pytest.mark.parametrize("backend", ["cpu", "openvino", "tensorrt", "tensorrt-ort"])
def test_graphs_are_for_one_backend(small_engines: Path, backend: str) -> None:
    with pytest.raises(
        ConfigError, match=f"cuda_graphs needs the backend 'cuda' or 'tensorrt-rtx'; the backend is '{backend}'"
    ):
        Segmenter(small_engines, backend=backend, options=BackendOptions(cuda_graphs=True))


def test_a_capture_is_alone() -> None:
    gate, events, inside = Gate(), [], threading.Event()

    def capture() -> None:
        inside.set()
        with gate.capture(), gate.run():
            events.append("capture")
            time.sleep(0.05)
            events.append("captured")

    def run() -> None:
        with gate.run():
            events.append("run")

    with gate.run(), gate.run():
        capturing = threading.Thread(target=capture)
        capturing.start()
        assert inside.wait(10)
        time.sleep(0.02)
        assert events == []
        run()
    running = threading.Thread(target=run)
    while "capture" not in events:
        time.sleep(0.001)
    running.start()
    capturing.join()
    running.join()
    assert events == ["run", "capture", "captured", "run"]


def test_the_gate_opens_after_an_error() -> None:
    gate = Gate()
    for way in (gate.run, gate.capture):
        with pytest.raises(ValueError, match="inside"), way():
            raise ValueError("inside")
    with gate.capture():
        pass


def test_whole_images_with_graphs(segmenter: Segmenter, small_engines: Path, image: Any) -> None:
    graphs = with_engines(segmenter, small_engines, OnCpu)
    for _ in range(2):
        for mine, other in zip(
            graphs.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
            segmenter.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
            strict=True,
        ):
            assert_same(mine, other, exact=False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["encoder", "cellfinder", "mask_decoder"])
def test_a_replay_after_other_shapes_gives_the_same(small_engines: Path, name: str) -> None:
    """Test for onnxruntime #32121: a run of another shape reused host memory that a graph reads."""
    path = small_engines / f"{name}.onnx"
    graphs, plain = (
        OrtCudaGraphEngine(source_of(path), BackendOptions(cuda_graphs=True)),
        ort.OrtCudaEngine(source_of(path), BackendOptions()),
    )

    def feeds(shape: int, seed: int) -> dict[str, Any]:
        if name == "mask_decoder":
            return decoder_feeds(graphs, (3, 14, 50, 2, 9)[shape], (5, 6, 5, 7, 8)[shape], seed)
        if name == "encoder":
            return pixels(1 + shape, seed)
        (spec,) = graphs.inputs
        rng = np.random.default_rng(seed)
        return {spec.name: rng.standard_normal((1 + shape, *spec.shape[1:]), np.float32)}

    if not graphs._graphs:
        pytest.skip(f"onnxruntime cannot use graphs for {name}")
    keys = range(3)
    for shape in keys:
        for seed in range(3):  # plain, captured, replayed
            assert_equal(graphs(feeds(shape, seed)), plain(feeds(shape, seed)))
    for other in (3, 4):
        assert_equal(graphs(feeds(other, 7)), plain(feeds(other, 7)))
        for shape in keys:
            assert_equal(graphs(feeds(shape, 10 + other)), plain(feeds(shape, 10 + other)))
    assert graphs._graphs, "a capture failed"
    assert len(graphs._captures) == len(keys)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_labels_with_graphs(small_engines: Path, image: Any) -> None:
    graphs = Segmenter(small_engines, backend="cuda", options=BackendOptions(cuda_graphs=True))
    plain = Segmenter(small_engines, backend="cuda")
    for _ in range(3):
        for mine, other in zip(
            graphs.batch([image] * 5, boxes=[BOXES] * 5, config=OPEN),
            plain.batch([image] * 5, boxes=[BOXES] * 5, config=OPEN),
            strict=True,
        ):
            assert (mine.labels == other.labels).mean() > 0.999
