"""The doubles of TensorRT and CUDA contain only what the documentation or NVIDIA's own bindings contain."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.tensorrt_double import Gpu, install
from tests.tensorrt_double.gpu import make_runtime
from tests.tensorrt_double.strict import API, MODULE_VERSIONS, RTX, VERSIONS


def install_library(monkeypatch: pytest.MonkeyPatch, version: str) -> Any:
    """Install a double, and return its module of TensorRT or of TensorRT for RTX."""
    install(monkeypatch, version)
    return sys.modules["tensorrt_rtx" if version == RTX else "tensorrt"]


@pytest.mark.parametrize("version", MODULE_VERSIONS)
def test_members_and_arguments_are_documented(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = install_library(monkeypatch, version)
    documented = API[version]["classes"]
    checked = 0
    for name, cls in vars(library).items():
        if name not in documented:
            continue
        for member, value in vars(cls).items():
            if member.startswith("_") or member in ("documented", "version", "Severity"):
                continue
            assert member in documented[name], f"{name}.{member}"
            if inspect.isfunction(value):
                arguments = list(inspect.signature(value).parameters)[1:]
                assert any(arguments == list(known[: len(arguments)]) for known in documented[name][member]), member
            checked += 1
        constructor = list(inspect.signature(cls.__init__).parameters)[1:]
        if name in ("Builder", "OnnxParser", "Runtime"):
            assert [constructor] == documented[name]["__init__"]
    assert checked > 30


@pytest.fixture(params=["tensorrt_rtx_bindings", "tensorrt_bindings"])
def module(request: pytest.FixtureRequest) -> str:
    """Name the modules of NVIDIA's bindings: those of TensorRT for RTX, and those of TensorRT 11."""
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} has wheels for Linux and x86-64 alone")
    if name == "tensorrt_bindings" and shutil.which("cc") is None:
        pytest.skip("no C compiler for the stubs of TensorRT's library")
    return name


@pytest.fixture
def bindings(module: str) -> dict[str, Any]:
    """Describe the bindings; those of TensorRT 11 without its library."""
    read = [sys.executable, "-m", "tests.tensorrt_double.real_api", module]
    described: dict[str, Any] = json.loads(subprocess.run(read, capture_output=True, text=True, check=True).stdout)
    return described


def test_the_double_has_what_the_real_bindings_have(
    module: str, bindings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = install_library(monkeypatch, RTX if module == "tensorrt_rtx_bindings" else "11.1")
    checked = 0
    for name, cls in vars(library).items():
        if name in bindings["enums"]:
            assert {member.name for member in cls} <= {*bindings["enums"][name]}, name
            checked += 1
            continue
        if not isinstance(cls, type):
            continue
        for member, value in vars(cls).items():
            if member.startswith("_") or member in ("documented", "version", "Severity"):
                continue
            real = bindings["classes"][name][member]
            if isinstance(value, property):
                assert real == "property", f"{name}.{member}"
            else:
                arguments = list(inspect.signature(value).parameters)[1:]
                assert any(arguments == known[: len(arguments)] for known in real), f"{name}.{member}: {real}"
            checked += 1
    assert checked > 40


def test_all_that_the_project_sets_can_be_set(bindings: dict[str, Any]) -> None:
    config = bindings["classes"]["IBuilderConfig"]
    for name in ("builder_optimization_level", "profiling_verbosity", "progress_monitor"):
        assert config[name] == "property"
    assert "STRONGLY_TYPED" in bindings["enums"]["NetworkDefinitionCreationFlag"]
    assert "TF32" in bindings["enums"]["BuilderFlag"]
    assert {"INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"} == {*bindings["enums"]["Severity"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_undocumented_properties_cannot_be_set(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version)
    import tensorrt

    class Log(tensorrt.ILogger):
        pass

    config = tensorrt.Builder(Log()).create_builder_config()
    config.builder_optimization_level = 4
    with pytest.raises(AttributeError, match="no property 'max_workspace_size'"):
        config.max_workspace_size = 1 << 30
    assert hasattr(tensorrt.BuilderFlag, "FP16") == version.startswith("10."), "version 11 has no weak typing"


def test_cuda_functions_are_those_of_the_package() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    checked = 0
    for name, value in vars(make_runtime(Gpu())).items():
        if inspect.isfunction(value):
            assert list(inspect.signature(value).parameters) == list(inspect.signature(getattr(real, name)).parameters)
            checked += 1
        elif isinstance(value, type):
            assert {member.name: int(member) for member in value}.items() <= {
                member.name: int(member) for member in getattr(real, name)
            }.items()
            checked += 1
    assert real.cudaStreamNonBlocking == 1
    assert {"name", "major", "minor"} <= set(dir(real.cudaDeviceProp()))
    assert checked >= 12
