"""A package for bioimage.io, tested by ``bioimageio.core`` without the network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bioimageio.package import PackageOptions, write_package
from export.errors import ExportError
from runtime.engines.builtin import builtin_engine

ROOT = Path(__file__).parents[2]
core: Any = pytest.importorskip("bioimageio.core")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, written by the command."""
    out = tmp_path_factory.mktemp("bioimageio") / "nano.zip"
    command = [sys.executable, "-m", "runtime", "export-bioimageio", "nano", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean IoU" in done.stderr
    return out


def test_the_package_passes_its_test(package: Path) -> None:
    summary = core.test_model(str(package))
    assert summary.status == "passed", summary.display()


def test_the_package_has_what_the_description_names(package: Path) -> None:
    with zipfile.ZipFile(package) as content:
        names = set(content.namelist())
        assert {"model.onnx", "README.md", "cover.png", "test_input.npy", "test_output.npy"} < names
        card = content.read("README.md").decode()
    assert "## Validation" in card
    assert "mean IoU" in card
    assert "Usiigaci" in card, "the data that the built-in model was trained on"


def test_prediction_takes_other_images(package: Path) -> None:
    with zipfile.ZipFile(package) as content, content.open("test_input.npy") as file:
        image = core.Tensor.from_numpy(np.load(file)[..., ::-1, :], dims=("batch", "channel", "y", "x"))
    labels = core.predict(model=str(package), inputs={"image": image}).members["labels"].data.to_numpy()
    assert labels.shape == (1, 1, 512, 512)
    assert labels.max() > 5


def test_wrong_fields_are_reported(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="exists"):
        write_package(builtin_engine(), package)
    with pytest.raises(ExportError, match="does not conform"):
        write_package(builtin_engine(), tmp_path / "new.zip", PackageOptions(licence="none of these"))
    assert not (tmp_path / "new.zip").exists()
