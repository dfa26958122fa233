"""onnxruntime's TensorRT provider, on a test double: session options, cached engines and errors.

The double computes with the CPU provider, records the providers and options of every session, and writes and reads the
cache of built engines as the provider does. It cannot show whether TensorRT supports these graphs.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

import runtime.commands.app
from runtime import BackendError, BackendOptions, Segmenter
from runtime.engines.backends import choice, ort_tensorrt
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, DECODER_IMAGES, IMAGES_ON_GPU, profile_ranges
from runtime.engines.backends.load import load_engine, resolve_backend
from runtime.engines.backends.ort import CUDA, OnDevice
from runtime.engines.backends.ort_tensorrt import TENSORRT, OrtTensorRtEngine
from runtime.engines.backends.plan_record import BUILT_BY_ORT
from runtime.engines.manifest import read_manifest, sha256_file
from runtime.errors import EngineError, OutOfMemoryError
from runtime.extras import install_command
from runtime.jobs.segmenter_spec import SegmenterSpec
from tests.plans import copy_engines
from tests.runtime.test_segmenter import BOXES, OPEN, assert_same, edit_manifest
from tests.tensorrt_double import Double, install

ENGINES = ("encoder", "cellfinder", "mask_decoder")


FILES = {"pixel_values": "encoder.onnx", "patch_features": "cellfinder.onnx", "image_embedding": "mask_decoder.onnx"}
"""Engine files by the name of their first input."""


def file_of(content: bytes) -> str:
    """Return which file onnxruntime received, since it gets bytes without a name."""
    return FILES[onnx.load_from_string(content).graph.input[0].name]


class Ort:
    """Configurable double of onnxruntime-gpu."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[tuple[str, dict[str, str]]], Any]] = []
        """File, providers and settings of every session."""
        self.built: list[str] = []
        self.loaded = [TENSORRT, CUDA]
        """Providers whose libraries can be loaded."""
        self.elsewhere: list[str] | None = []
        """Operators that TensorRT does not support; None for all."""
        self.fails: Exception | None = None

    def build(self, file: str, options: dict[str, str]) -> None:
        """Build or read an engine as the provider does, without reporting read or write errors."""
        if options.get("trt_engine_cache_enable") != "1":
            self.built.append(file)
            return
        engine = Path(options["trt_engine_cache_path"]) / f"{TENSORRT}_TRTKernel_graph_main_sm90.engine"
        if not engine.is_file():
            self.built.append(file)
            engine.write_bytes(b"engine")
        elif engine.read_bytes() != b"engine":
            raise RuntimeError(f"EP_FAIL : TensorRT EP could not deserialize engine from cache: {engine}")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, "10.3.0")


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch, double: Double) -> Ort:
    machine = Ort()

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, content: bytes, settings: Any, providers: Any, **given: Any) -> None:
            file = file_of(content)
            machine.asked.append((file, providers, settings))
            assert given["enable_fallback"] == 0
            if machine.fails is not None:
                raise machine.fails
            if TENSORRT in machine.loaded and machine.elsewhere is not None:
                machine.build(file, dict(providers)[TENSORRT])
            super().__init__(content, settings, ["CPUExecutionProvider"], **given)

        def get_providers(self) -> list[str]:
            return [*machine.loaded, "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            nodes = [node for part in super().get_provider_graph_assignment_info() for node in part.get_nodes()]
            assert nodes, "the session must record assignments"
            parts: dict[str, list[Any]] = {TENSORRT: [], CUDA: []}
            for node in nodes:
                taken = machine.elsewhere is not None and node.op_type not in machine.elsewhere
                parts[TENSORRT if taken else CUDA].append(node)
            return [SimpleNamespace(ep_name=n, get_nodes=lambda p=p: p) for n, p in parts.items() if p]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(OrtTensorRtEngine, "device", "cpu")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return machine


@pytest.fixture
def engines(small_engines: Path, tmp_path: Path) -> Path:
    return copy_engines(small_engines, tmp_path / "engines")


def load(directory: Path, name: Any = "encoder") -> Any:
    spec = read_manifest(directory).engines[name]
    return load_engine(directory / spec.file, spec, backend="tensorrt-ort", options=BackendOptions())


def kept(directory: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in directory.glob(f"{BUILT_BY_ORT}/*/*"))


def shapes_of(option: str) -> dict[str, tuple[int, ...]]:
    """Parse a shape option as the provider does."""
    pairs = (entry.split(":") for entry in option.split(","))
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def test_cells_are_those_of_the_cpu(ort: Ort, engines: Path, segmenter: Segmenter, image: Any) -> None:
    found = Segmenter(engines, backend="tensorrt-ort")
    (view,) = found.encode(image)
    assert isinstance(view.batch.image_embedding, OnDevice)
    for mine, other in zip(
        found.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
        segmenter.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN),
        strict=True,
    ):
        assert_same(mine, other, exact=False)


def test_what_onnxruntime_is_asked_for(ort: Ort, engines: Path) -> None:
    manifest = read_manifest(engines)
    load_engine(
        engines / "mask_decoder.onnx",
        manifest.engines["mask_decoder"],
        backend="tensorrt-ort",
        options=BackendOptions(device=0),
    )
    ((_, ((first, tensorrt), (second, cuda)), settings),) = ort.asked
    assert (first, second) == (TENSORRT, CUDA)
    assert tensorrt.keys() == {
        "device_id",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_profile_max_shapes",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
    }, "none for precision: networks are strongly typed without"
    assert tensorrt["device_id"] == cuda["device_id"] == "0"
    assert all(isinstance(value, str) for value in tensorrt.values())
    assert settings.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"
    ranges = profile_ranges(manifest.engines["mask_decoder"], manifest.grid_size)
    for place, option in enumerate(("min", "opt", "max")):
        expected = {name: shapes[place] for name, shapes in ranges.items()}
        assert shapes_of(tensorrt[f"trt_profile_{option}_shapes"]) == expected
    assert shapes_of(tensorrt["trt_profile_max_shapes"])["image_embedding"][0] == DECODER_IMAGES


def test_no_more_is_sent_than_engines_are_built_for(ort: Ort, engines: Path, image: Any) -> None:
    segmenter = Segmenter(engines, backend="tensorrt-ort", boxes_per_call=1000, images_per_call=50)
    assert segmenter.pipeline.images_per_call == IMAGES_ON_GPU
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (BOXES_ON_GPU + 40, 2))
    result = segmenter(image, boxes=np.concatenate((corners, corners + 30), axis=1), config=OPEN)
    assert len(result) + len(result.hidden) > 100
    encoder, side = load(engines), read_manifest(engines).image_size
    with pytest.raises(BackendError, match=r"takes pixel_values of \[1, 3, .*\] to \[4, 3, .*got \[5, 3, .*'cuda'"):
        encoder({"pixel_values": np.zeros((IMAGES_ON_GPU + 1, 3, side, side), np.float32)})


def test_engines_are_built_once(ort: Ort, engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    Segmenter(engines, backend="tensorrt-ort")
    assert ort.built == [f"{name}.onnx" for name in ENGINES]
    assert kept(engines) == sorted(ENGINES), "nothing half done beside them"
    assert "TensorRT builds the engine of encoder, which takes minutes" in caplog.text
    places = {Path(providers[0][1]["trt_engine_cache_path"]).parent for _, providers, _ in ort.asked}
    (machine,) = engines.glob(f"{BUILT_BY_ORT}/*")
    assert places == {machine}, "on one file system"
    assert f"+ort{onnxruntime.__version__}" in machine.name
    caplog.clear()
    Segmenter(engines, backend="tensorrt-ort")
    assert len(ort.built) == 3
    assert caplog.text == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda double, patch: setattr(double.gpu, "name", "NVIDIA RTX A6000"),
        lambda double, patch: setattr(double.gpu, "driver", 13020),
        lambda double, patch: setattr(sys.modules["tensorrt"], "__version__", "10.9.0"),
        lambda double, patch: patch.setattr(onnxruntime, "__version__", "1.99.0"),
        lambda double, patch: patch.setenv("NVIDIA_TF32_OVERRIDE", "0"),
        lambda double, patch: patch.setattr(
            ort_tensorrt, "profile_ranges", lambda spec, grid_size: profile_ranges(spec, grid_size, max_batch=2)
        ),
    ],
    ids=["gpu", "driver", "TensorRT", "onnxruntime", "TF32", "shapes"],
)
def test_another_machine_or_engine_has_its_own(
    ort: Ort, double: Double, engines: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    load(engines)
    change(double, monkeypatch)
    for _ in range(2):
        load(engines)
    assert ort.built == ["encoder.onnx"] * 2
    assert kept(engines) == ["encoder"] * 2


def test_a_failed_build_leaves_nothing(ort: Ort, engines: Path) -> None:
    ort.fails = RuntimeError("TensorRT EP failed to create engine from network for fused node: TRTKernel_0")
    with pytest.raises(BackendError, match=r"cannot load .*failed to create engine.*Or use the backend 'cuda'"):
        load(engines)
    ort.fails, ort.elsewhere = None, None
    with pytest.raises(BackendError):
        load(engines)
    assert kept(engines) == []


def test_of_two_processes_the_first_is_kept(ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = ort.build

    def slowly(file: str, options: dict[str, str]) -> None:
        build(file, options)
        partial = Path(options["trt_engine_cache_path"])
        place = partial.with_name(partial.name[1:].rpartition("-")[0])
        shutil.copytree(partial, place)
        (place / "first").touch()

    monkeypatch.setattr(ort, "build", slowly)
    load(engines)
    assert kept(engines) == ["encoder"]
    assert list(engines.glob(f"{BUILT_BY_ORT}/*/encoder-*/first"))


def test_where_nothing_can_be_written_engines_are_built_at_every_start(
    ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for _ in range(2):
        load(engines)
    assert ort.built == ["encoder.onnx"] * 2
    assert not any("cache" in option for option in dict(ort.asked[0][1])[TENSORRT])
    assert "at every start: it cannot be kept ([Errno 30] Read-only file system). Make " in caplog.text


def test_a_damaged_engine_is_an_error_that_says_what_to_delete(ort: Ort, engines: Path) -> None:
    load(engines)
    (engine,) = engines.glob(f"{BUILT_BY_ORT}/*/encoder-*/*.engine")
    engine.write_bytes(b"eng")
    with pytest.raises(BackendError, match=f"could not deserialize.*Delete {re.escape(str(engine.parent))}, and"):
        load(engines)


@pytest.mark.parametrize("loaded", [[CUDA], [], [TENSORRT]])
def test_a_provider_that_did_not_load_is_an_error(ort: Ort, engines: Path, loaded: list[str]) -> None:
    """Otherwise onnxruntime would continue with CUDA or the CPU."""
    ort.loaded = loaded
    missing = " and ".join(name for name in (TENSORRT, CUDA) if name not in loaded)
    with pytest.raises(BackendError, match=rf"did not load its {missing}, .*'tensorrt-cu13<11'.*the backend 'cuda'"):
        load(engines)
    assert kept(engines) == []


def test_libraries_that_onnxruntime_misses_are_named(ort: Ort, engines: Path) -> None:
    ort.fails = RuntimeError("Please install TensorRT libraries as mentioned in the GPU requirements page.\n")
    with pytest.raises(BackendError, match=r"Please install TensorRT libraries.*'tensorrt-cu13<11'"):
        load(engines)


@pytest.fixture(params=["tensorrt", "cuda.bindings"])
def without(request: pytest.FixtureRequest, ort: Ort, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, request.param, None)
    yield
    assert ort.asked == []


@pytest.mark.usefixtures("without")
def test_a_missing_package_is_an_error(engines: Path) -> None:
    with pytest.raises(
        BackendError, match=r"'tensorrt-ort' cannot be used here: .* needs .*'tensorrt-cu13<11'"
    ) as info:
        load(engines)
    assert install_command("tensorrt") not in str(info.value), "which installs a TensorRT that is too new"


def test_a_missing_gpu_is_an_error(ort: Ort, double: Double, engines: Path) -> None:
    double.gpu.count = 0
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used"):
        load(engines)
    assert ort.asked == []


def test_an_onnxruntime_without_the_provider_is_an_error(
    ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"here has no TensorRT provider\. It needs onnxruntime-gpu"):
        load(engines)


def test_files_that_tensorrt_does_not_take_are_refused(ort: Ort, engines: Path) -> None:
    ort.elsewhere = None
    with pytest.raises(BackendError, match=r"supports no operator of encoder\.onnx; onnxruntime would .* on CUDA"):
        load(engines)


def test_operators_that_cuda_computes_are_named(ort: Ort, engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    ort.elsewhere = ["Softmax", "Conv"]
    load(engines)
    assert "operators run on CUDA or the CPU instead of TensorRT: Conv, Softmax" in caplog.text


def test_an_onnxruntime_that_does_not_tell_is_refused(ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(get_providers=lambda: [TENSORRT, CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(BackendError, match=r"does not report which operators .* 1\.24 or later"):
        load(engines)


def test_memory_that_runs_out_is_told_apart(ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, side = load(engines), read_manifest(engines).image_size

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr(engine, "_run_bound", fail)
    with pytest.raises(OutOfMemoryError, match=r"encoder\.onnx with pixel_values .*Lower images_per_call"):
        engine({"pixel_values": np.zeros((1, 3, side, side), np.float32)})
    ort.fails = RuntimeError("CUDA failure 2: out of memory ; GPU=0")
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        load(engines)
    ort.fails = RuntimeError("TensorRT EP could not build execution context for fused node: TRTKernel_0")
    with pytest.raises(BackendError, match="Most often, the GPU's memory is full"):
        load(engines)


def test_auto_never_takes_it(
    ort: Ort, engines: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load(engines)
    caplog.clear()
    monkeypatch.delenv("CELLSAM_BACKEND", raising=False)
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    assert resolve_backend("auto", engines) == "cuda"
    assert caplog.text == "", "engines built by onnxruntime must not be reported as plans that do not fit"


def test_it_is_a_backend_of_gpus(ort: Ort, engines: Path) -> None:
    spec = SegmenterSpec(engine_dir=engines, backend="tensorrt-ort")
    assert spec.resolved() == ("tensorrt-ort", IMAGES_ON_GPU, BOXES_ON_GPU)
    assert spec.wants_own_gpu()
    assert spec.identity()["backend"] == "tensorrt-ort"


def test_the_command_line_takes_it(ort: Ort, engines: Path, image: Any, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "cells.png")
    arguments = ["segment", tmp_path / "cells.png", "--model", engines, "--out", tmp_path / "out"]
    done = CliRunner().invoke(runtime.commands.app.app, [*map(str, arguments), "--backend", "tensorrt-ort"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "cells_labels.tif").is_file()
    assert set(ort.built) == {f"{name}.onnx" for name in ENGINES}


def test_another_file_has_its_own(ort: Ort, engines: Path) -> None:
    load(engines)
    before = set(engines.glob(f"{BUILT_BY_ORT}/*/encoder-*"))
    path = engines / "encoder.onnx"
    with path.open("ab") as file:
        file.write(b"\x32\x00")  # an empty doc_string of the model
    with pytest.raises(EngineError, match=r"encoder\.onnx was altered"):
        load(engines)
    edit_manifest(engines, engines__encoder__sha256=sha256_file(path))
    load(engines)
    assert len(set(engines.glob(f"{BUILT_BY_ORT}/*/encoder-*")) - before) == 1
