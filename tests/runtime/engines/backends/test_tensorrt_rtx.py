"""The backend of TensorRT for RTX, on a double of the library: same cells, valid plans, kept kernels, advice.

The tests of waiting and of memory hold for the backend ``tensorrt`` too, which runs the same code.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import ExportError
from export.plans import build_rtx
from export.plans.build_rtx import build_rtx_plans
from export.plans.rtx import RtxPlan
from export.sample_image import verification_image
from runtime import BackendError, BackendOptions, ConfigError, Segmenter
from runtime.commands.info import describe
from runtime.engines.backends import choice
from runtime.engines.backends.cuda import size_class
from runtime.engines.backends.load import load_engine, resolve_backend
from runtime.engines.backends.plan_record import RECORD_NAME, RTX_PLANS
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest
from tests.plans import FEW, copy_engines
from tests.tensorrt_double import RTX, Double, install
from tests.tensorrt_double.trt import rtx_plan

CELLS = verification_image()[:100, :120]


def doubled_build(path: Path, ranges: Mapping[str, Any], capabilities: Any, options: Any) -> RtxPlan:
    """Replace ``build_without_gpu``."""
    content = rtx_plan(path, ranges, capabilities)
    return RtxPlan(content=content, layers=(), kernels=(), scratch_bytes=0, build_s=0.0)


def build(directory: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    monkeypatch.setattr(build_rtx, "build_without_gpu", doubled_build)
    return build_rtx_plans(directory, FEW, **options)[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built-in engines with plans for 8.6, 8.9 and 12.0."""
    directory = copy_engines(builtin_engine(), tmp_path_factory.mktemp("rtx") / "engines")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, RTX)
        build(directory, patch)
    return directory


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = install(monkeypatch, RTX)
    double.gpu.name, double.gpu.sm = "NVIDIA RTX A6000", (8, 6)
    return double


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "engines", ignore=shutil.ignore_patterns("*.kernels")))


def load(directory: Path, name: Any = "encoder", **options: Any) -> Any:
    spec = read_manifest(directory).engines[name]
    return load_engine(directory / spec.file, spec, backend="tensorrt-rtx", options=BackendOptions(**options))


def pixels_of(directory: Path) -> dict[str, Any]:
    side = read_manifest(directory).image_size
    return {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)}


def test_the_same_labels_as_on_the_cpu(built: Path, double: Double) -> None:
    found, expected = (Segmenter(built, backend=backend)(CELLS) for backend in ("tensorrt-rtx", "cpu"))
    assert len(expected) > 0
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert double.calls.count("validity") == double.calls.count("deserialize") == 3


def test_the_record_names_capabilities_and_no_driver(built: Path) -> None:
    (place,) = (built / RTX_PLANS).iterdir()
    assert place.name == "rtx1.7.1.116+sm8.6-8.9-12.0+fp32"
    record = json.loads((place / RECORD_NAME).read_text())
    assert record["key"] == {"rtx": "1.7.1.116", "capabilities": ["8.6", "8.9", "12.0"]}
    assert record["verification"] == []


def test_info_lists_the_plans(own: Path) -> None:
    lines = [line for line in describe(own, read_manifest(own), checked=False) if line.startswith("plans")]
    (line,) = lines
    assert line.endswith(
        "tensorrt-rtx, fp32, for TensorRT for RTX 1.7.1.116, compute capability 8.6, 8.9, 12.0; not compared, as no "
        "GPU was there"
    )
    next((own / RTX_PLANS).glob(f"*/{RECORD_NAME}")).write_text("{}")
    (line,) = [line for line in describe(own, read_manifest(own), checked=False) if line.startswith("plans")]
    assert "is damaged" in line
    assert line.endswith("--backend tensorrt-rtx")


@pytest.mark.parametrize(("sm", "driver"), [((8, 9), 13000), ((12, 0), 13020)])
def test_other_gpus_and_drivers_load_the_same_plans(
    built: Path, double: Double, sm: tuple[int, int], driver: int
) -> None:
    double.gpu.sm, double.gpu.driver, double.gpu.name = sm, driver, "NVIDIA RTX 4000"
    assert load(built).max_size("pixel_values") == FEW.max_batch


def test_the_gpu_is_asked_for_before_the_library_loads_a_plan(built: Path, double: Double) -> None:
    double.gpu.count = 0
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used"):
        load(built)
    assert double.calls == []


@pytest.mark.parametrize(
    ("sm", "message"),
    [
        (
            (8, 0),
            r"differs in capabilities(.|\n)*this machine is\n  TensorRT for RTX 1\.7\.1\.116, compute capability 8\.0",
        ),
        ((9, 0), r"does not run on NVIDIA RTX A6000 \(compute capability 9\.0\); expected one of 7\.5"),
    ],
)
def test_plans_for_other_gpus_are_refused(built: Path, double: Double, sm: tuple[int, int], message: str) -> None:
    double.gpu.sm = sm
    with pytest.raises(BackendError, match=message):
        load(built)


def test_plans_of_another_version_are_refused(built: Path, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tensorrt_rtx"], "__version__", "1.8")
    with pytest.raises(BackendError, match=r"differs in rtx(.|\n)*cellsam-engine build .* --backend tensorrt-rtx$"):
        load(built)


def test_the_library_is_asked_whether_a_plan_is_valid(built: Path, double: Double) -> None:
    double.invalidity = "OLD_CUDA_DRIVER"
    with pytest.raises(
        BackendError,
        match=r"cannot run encoder\.plan on this machine: old cuda driver\. Build the plans again: "
        r"cellsam-engine build .* --backend tensorrt-rtx$",
    ):
        load(built)
    assert "deserialize" not in double.calls


def test_without_the_library_the_message_says_how_to_get_it(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"needs TensorRT for RTX .*\[rtx\]'"):
        load(built)


def test_kernels_are_kept_beside_the_plans(own: Path, double: Double, caplog: pytest.LogCaptureFixture) -> None:
    (place,) = (own / RTX_PLANS).iterdir()
    engine = load(own)
    engine(pixels_of(own))
    assert not list(place.glob("*.kernels"))
    engine.close()
    (kept,) = place.glob("*.kernels")
    assert kept.name == "encoder+NVIDIA-RTX-A6000+sm8.6.kernels"
    load(own)
    assert double.compiled.endswith(b"kernels")
    kept.write_bytes(kept.read_bytes()[:-1])
    double.compiled = b""
    with caplog.at_level(logging.WARNING):
        load(own)(pixels_of(own))
    assert double.compiled == b""
    assert f"{kept} is damaged" in caplog.text


def test_kernels_of_another_gpu_are_not_loaded(own: Path, double: Double) -> None:
    load(own)(pixels_of(own))
    (place,) = (own / RTX_PLANS).iterdir()
    (kept,) = place.glob("*.kernels")
    double.gpu.name = "NVIDIA RTX A4000"
    kept.rename(kept.with_name("encoder+NVIDIA-RTX-A4000+sm8.6.kernels"))
    load(own)
    assert double.compiled == b""


def test_the_runtime_configuration_follows_the_options(built: Path, double: Double) -> None:
    rt = sys.modules["tensorrt_rtx"]
    for options, graphs, kernels in (
        ({}, "DISABLED", "LAZY"),
        ({"cuda_graphs": True, "shape_kernels": "eager"}, "WHOLE_GRAPH_CAPTURE", "EAGER"),
    ):
        load(built, **options)(pixels_of(built))
        assert double.configured["cuda_graph_strategy"] == rt.CudaGraphStrategy[graphs]
        found = double.configured["dynamic_shapes_kernel_specialization_strategy"]
        assert found == rt.DynamicShapesKernelSpecializationStrategy[kernels]
    with pytest.raises(ConfigError, match=r"shape_kernels is 'all'; expected one of 'lazy', 'eager', 'none'"):
        BackendOptions(shape_kernels="all")  # type: ignore[arg-type]


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLSAM_BACKEND", raising=False)
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    monkeypatch.setattr(choice, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",))


@pytest.mark.usefixtures("auto")
def test_auto_takes_plans_that_fit(built: Path, double: Double, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_backend("auto", built) == "tensorrt-rtx"
    double.invalidity = "INSUFFICIENT_GPU_MEMORY"
    assert resolve_backend("auto", built) == "cuda"
    assert "TensorRT for RTX is not used: " in caplog.text
    assert "insufficient gpu memory" in caplog.text


def test_plans_are_compared_if_a_gpu_that_they_are_for_is_here(
    built: Path, double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = copy_engines(built, tmp_path / "engines")
    monkeypatch.setattr(build_rtx, "count_gpus", lambda: 1)
    record = json.loads((build(engines, monkeypatch, capabilities=["8.6"]) / RECORD_NAME).read_text())
    assert {check["engine"] for check in record["verification"]} == {*read_manifest(engines).engines}
    messages: list[str] = []
    build(engines, monkeypatch, capabilities=["8.9"], progress=messages.append)
    assert messages[-1] == "the plans are not run: this machine has no GPU that they are for"


def test_integers_are_refused_before_a_build(built: Path, tmp_path: Path, double: Double) -> None:
    manifest = replace(read_manifest(built), precision="int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.plans.build.read_manifest", lambda directory: manifest)
        with pytest.raises(ExportError, match="8-bit integers whose zero points are not zero"):
            build_rtx_plans(built, FEW)


def test_turing_is_refused_before_a_build(built: Path, double: Double) -> None:
    with pytest.raises(
        ExportError, match=r"no float32 matrix product for compute capability 7\.5.* in cellfinder\.onnx"
    ):
        build_rtx_plans(built, FEW, capabilities=["7.5", "8.6"])
    with pytest.raises(ConfigError, match=r"compute_capability is '9\.0'"):
        build_rtx_plans(built, FEW, capabilities=["9.0"])


KEPT = ("image_embedding", "patch_features")


def test_engines_are_chained_without_a_wait(built: Path, double: Double) -> None:
    encoder, finder, feeds = load(built), load(built, "cellfinder"), pixels_of(built)
    expected = finder({"patch_features": encoder(feeds)["patch_features"]})
    before = double.gpu.synchronizations
    kept = encoder.run(feeds, keep=KEPT)
    assert double.gpu.synchronizations == before
    assert any(double.gpu.streams.values()), "the GPU has not begun"
    found = finder({"patch_features": kept["patch_features"]})
    assert double.gpu.synchronizations == before + 1
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    np.testing.assert_array_equal(np.asarray(kept["image_embedding"]), encoder(feeds)["image_embedding"])


def test_memory_is_reused_only_after_its_last_reader(built: Path, double: Double) -> None:
    encoder, finder, feeds = load(built), load(built, "cellfinder"), pixels_of(built)
    expected = finder({"patch_features": encoder(feeds)["patch_features"]})
    kept = encoder.run(feeds, keep=KEPT)
    address = kept["patch_features"].memory.address
    found = finder.run({"patch_features": kept["patch_features"]}, keep=tuple(expected))
    del kept
    other = encoder.run({"pixel_values": -feeds["pixel_values"]}, keep=KEPT)
    assert address in {tensor.memory.address for tensor in other.values()}, "the detector has not read it yet"
    assert np.isfinite(np.asarray(other["patch_features"])).all()
    for name, tensor in found.items():
        np.testing.assert_array_equal(np.asarray(tensor), expected[name])


def test_arrays_may_change_after_a_call(built: Path, double: Double) -> None:
    encoder, feeds = load(built), pixels_of(built)
    scales = (1.0, -1.0, 0.5)  # one more than there are buffers
    expected = [encoder({"pixel_values": feeds["pixel_values"] * np.float32(scale)}) for scale in scales]
    array, kept = np.empty_like(feeds["pixel_values"]), []
    for scale in scales:
        array[:] = feeds["pixel_values"] * np.float32(scale)
        kept.append(encoder.run({"pixel_values": array}, keep=KEPT))
    array[:] = 0
    for found, wanted in zip(kept, expected, strict=True):
        for name, tensor in found.items():
            np.testing.assert_array_equal(np.asarray(tensor), wanted[name])


def test_nothing_is_left_on_the_gpu_or_in_page_locked_memory(built: Path, double: Double) -> None:
    encoder = load(built)
    kept = encoder.run(pixels_of(built), keep=KEPT)
    assert len(double.gpu.pinned) == 1
    del encoder, kept
    gc.collect()
    assert (double.gpu.memory, double.gpu.streams, double.gpu.events, double.gpu.pinned) == ({}, {}, {}, {})


@given(st.integers(0, 1 << 40))
def test_a_size_class_holds_little_more_than_the_size(size: int) -> None:
    found = size_class(size)
    assert max(size, 1) <= found <= size + size // 8 + 256
    assert found % 256 == 0
    assert size_class(found) == found


def test_nearly_equal_calls_share_a_class() -> None:
    boxes = [size_class(count * 64 * 64 * 4) for count in (61, 62, 64)]
    assert len({*boxes}) == 1
