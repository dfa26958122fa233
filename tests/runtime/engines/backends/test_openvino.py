"""The OpenVINO backend finds the same cells as onnxruntime."""

from __future__ import annotations

import builtins
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import runtime.engines.engine_source
from runtime import BackendError, BackendOptions, ConfigError, Segmenter
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.files.plain import read_image
from tests.engine_sources import source_of

FP32 = BackendOptions(cpu_precision="fp32")


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    return [read_image(path) for path in sample_images()]


@pytest.fixture(scope="module")
def openvino() -> Segmenter:
    return Segmenter(backend="openvino", options=FP32)


def test_the_same_cells_in_float32(openvino: Segmenter, samples: list[Any]) -> None:
    reference = Segmenter(backend="cpu")
    for image in samples:
        found, expected = openvino(image), reference(image)
        assert len(found) == len(expected)
        assert (found.labels == expected.labels).mean() > 0.999
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)


def test_masks_are_decoded_in_float32_unless_asked_otherwise(openvino: Segmenter, samples: list[Any]) -> None:
    views = openvino.encode(samples[0])
    found = openvino.detect(views)
    masks = openvino.decode(views, found).labels
    np.testing.assert_array_equal(Segmenter(backend="openvino").decode(views, found).labels, masks)


def test_threads_may_share_one(openvino: Segmenter, samples: list[Any]) -> None:
    alone = [openvino(image).labels for image in samples]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda image: openvino(image).labels, samples * 3))
    for labels, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(labels, expected)


CLOSE_AND_SIGNAL = """
import faulthandler, gc, os, signal
from runtime import Segmenter
faulthandler.enable()  # gives the main thread a stack for signals, as pytest does
received = []
signal.signal(signal.SIGCHLD, lambda *_: received.append(1))
segmenters = [Segmenter(backend="openvino") for _ in range(2)]
while segmenters:
    segmenters.pop(0).close()
    gc.collect()
os.kill(os.getpid(), signal.SIGCHLD)
assert received
"""


def test_a_process_survives_signals_after_segmenters_are_closed() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSE_AND_SIGNAL], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_results_outlive_the_next_call(openvino: Segmenter, samples: list[Any]) -> None:
    (first, *_) = openvino.encode(samples[0])
    kept = np.array(first.batch.image_embedding)
    openvino.encode(samples[1])
    np.testing.assert_array_equal(first.batch.image_embedding, kept)


def test_without_openvino_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BackendError, match=r"pip install .*\[openvino\]'"):
        Segmenter(backend="openvino")


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend names a graph that the check of operators let pass."""
    from runtime.engines.backends.openvino import OpenVinoEngine

    monkeypatch.setattr(runtime.engines.engine_source, "check_graph", lambda content, path: None)
    model = onnx.load(builtin_engine() / "encoder.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(BackendError, match=r"cannot compile .*encoder\.onnx"):
        OpenVinoEngine(source_of(tmp_path / "encoder.onnx"), FP32)


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="cpu_precision is 'int4'"):
        BackendOptions(cpu_precision="int4")  # type: ignore[arg-type]
