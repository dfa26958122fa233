"""The doubles of TensorRT and CUDA have nothing that the documentation does not have."""

from __future__ import annotations

import inspect

import pytest

from tests.tensorrt_double import Gpu, install
from tests.tensorrt_double.gpu import make_runtime
from tests.tensorrt_double.strict import API, VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_members_and_arguments_are_documented(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version)
    import tensorrt

    documented = API[version]["classes"]
    checked = 0
    for name, cls in vars(tensorrt).items():
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
    assert hasattr(tensorrt.BuilderFlag, "FP16") == version.startswith("10."), "11.x has no weak typing"


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
