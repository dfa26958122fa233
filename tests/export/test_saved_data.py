"""The data of ``verify --save-data`` are what Polygraphy reads, and show a fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from export.saved_data import RUNNER, data_paths, save_data
from runtime.commands.app import app
from runtime.engines.manifest import read_manifest
from training.weights import load_weights

pytest.importorskip("polygraphy")


@pytest.fixture(scope="module")
def saved(small_engines: Path, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "data"
    save_data(out, read_manifest(small_engines), load_weights(small_checkpoint).model)
    return out


def run(onnx_file: Path, data: Path) -> subprocess.CompletedProcess[str]:
    inputs, outputs = data_paths(data, "cellfinder")
    command = ["import sys; from polygraphy.tools import main; sys.exit(main())", "run", str(onnx_file), "--onnxrt"]
    options = ["--load-inputs", str(inputs), "--load-outputs", str(outputs), "--atol", "0.01", "--rtol", "0.01"]
    return subprocess.run([sys.executable, "-c", *command, *options], capture_output=True, text=True)


def test_polygraphy_compares_an_engine_with_the_saved_outputs(small_engines: Path, saved: Path) -> None:
    done = run(small_engines / "cellfinder.onnx", saved)
    assert done.returncode == 0, done.stdout
    assert RUNNER in done.stdout
    assert "Pass Rate: 100" in done.stdout


def test_polygraphy_finds_a_fault(small_engines: Path, saved: Path, tmp_path: Path) -> None:
    model = onnx.load(small_engines / "cellfinder.onnx")
    node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(2), scale.name))
    onnx.save(model, tmp_path / "faulty.onnx")
    done = run(tmp_path / "faulty.onnx", saved)
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def test_every_engine_has_inputs_and_outputs_of_its_types(small_engines: Path, saved: Path) -> None:
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    for name, spec in read_manifest(small_engines).engines.items():
        inputs, outputs = data_paths(saved, name)
        (feeds,) = load_json(str(inputs))
        assert {key: str(array.dtype) for key, array in feeds.items()} == {one.name: one.dtype for one in spec.inputs}
        (result,) = RunResults.load(str(outputs))[RUNNER]
        assert {key: str(array.dtype) for key, array in result.items()} == {one.name: one.dtype for one in spec.outputs}


def test_the_data_are_of_one_image(tmp_path: Path) -> None:
    for n in range(2):
        np.save(tmp_path / f"{n}.npy", np.zeros((4, 4)))
    images = [word for n in range(2) for word in ("--image", str(tmp_path / f"{n}.npy"))]
    done = CliRunner().invoke(app, ["verify", "engines", "--checkpoint", "nano", "--save-data", "data", *images])
    assert done.exit_code == 2
    assert "--save-data writes the data of one image" in " ".join(done.stderr.split())
