"""Backends load exactly the bytes that were hashed, even if another process writes to the directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from runtime import BackendOptions, EngineError, Segmenter
from runtime.engines.backends import ort
from runtime.engines.builtin import builtin_engine
from tests.engine_sources import source_of
from tests.plans import copy_engines


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_engines(builtin_engine(), tmp_path / "engines")


def encode(segmenter: Segmenter) -> Any:
    side = segmenter.manifest.image_size
    pixels = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    return segmenter.pipeline.engines["encoder"]({"pixel_values": pixels})


def swap(directory: Path) -> None:
    """Replace each engine by another file."""
    for path in directory.glob("*.onnx"):
        other = path.with_suffix(".other")
        other.write_bytes(b"not what was hashed")
        other.replace(path)


def test_a_file_swapped_after_its_hash_is_not_loaded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each read, the engine file is swapped, so a second read would get the other file."""
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        content = real(path)
        if path.parent == copy and path.suffix == ".onnx":
            path.unlink()
            path.write_bytes(b"not what was hashed")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = encode(Segmenter(copy, backend="cpu"))
    for name, output in encode(Segmenter(backend="cpu")).items():
        np.testing.assert_array_equal(found[name], output)
    with pytest.raises(EngineError, match=r"encoder\.onnx was altered"):
        Segmenter(copy, backend="cpu")


def test_onnxruntime_opens_no_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, loaded = onnxruntime.InferenceSession, []

    def session(content: Any, *args: Any, **given: Any) -> Any:
        swap_one = copy / ("encoder.onnx", "cellfinder.onnx", "mask_decoder.onnx")[len(loaded)]
        swap_one.write_bytes(b"not what was hashed")
        loaded.append(content)
        return real(content, *args, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    Segmenter(copy, backend="cpu")
    assert len(loaded) == 3


def test_openvino_opens_no_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    options = BackendOptions(cpu_precision="fp32")
    expected = encode(Segmenter(copy, backend="openvino", options=options))
    real = openvino.Core.read_model
    contents = {path.name: path.read_bytes() for path in copy.glob("*.onnx")}

    def read_model(core: Any, content: Any) -> Any:
        swap(copy)
        model = real(core, content)
        for name, content in contents.items():
            (copy / name).write_bytes(content)
        return model

    monkeypatch.setattr(openvino.Core, "read_model", read_model)
    found = encode(Segmenter(copy, backend="openvino", options=options))
    for name, output in found.items():
        np.testing.assert_allclose(output, expected[name], rtol=1e-4, atol=1e-4)


def test_the_content_is_not_kept_beside_the_loaded_engine(copy: Path) -> None:
    engine = ort.OrtEngine(source_of(copy / "encoder.onnx"), BackendOptions())
    assert not any(isinstance(value, bytes) for value in vars(engine._session).values())


def test_links_are_followed(copy: Path, tmp_path: Path) -> None:
    for path in copy.glob("*.onnx"):
        path.symlink_to(path.rename(tmp_path / path.name))
    Segmenter(copy, backend="cpu")
