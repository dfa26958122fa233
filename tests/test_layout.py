"""Rules that hold across packages: who imports whom, and what the base install needs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "runtime": {"export", "training", "benchmarks", "tests", "torch", "segment_anything", "onnx"},
    "training": {"export", "benchmarks", "tests"},
    "export": {"benchmarks", "tests"},
    "benchmarks": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in (ROOT / package).rglob("*.py")
        if (bad := imported(path) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_importing_runtime_loads_no_backend() -> None:
    code = "import sys, runtime; print(sorted({'onnxruntime', 'torch', 'skimage', 'tifffile'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


USE_BASE_INSTALL = """
import importlib.util, sys
import numpy as np
import runtime
from runtime import Segmenter
for name in ("torch", "onnx", "segment_anything"):
    assert importlib.util.find_spec(name) is None, name
result = Segmenter(sys.argv[1], backend="cpu")(np.random.default_rng(0).random((90, 120)))
assert result.labels.shape == (90, 120)
print("segmented without torch")
"""


@pytest.mark.full_size
def test_the_base_install_segments_without_torch(tmp_path: Path, small_engines: Path) -> None:
    """A fresh environment with nothing but the base dependencies."""
    directory = tmp_path / "base"
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    installed = run(str(python), "-m", "pip", "install", "--quiet", str(ROOT))
    assert installed.returncode == 0, installed.stderr
    done = run(str(python), "-c", USE_BASE_INSTALL, str(small_engines))
    assert done.stdout.strip() == "segmented without torch", done.stderr
    cli = str(directory / "bin" / "cellsam-engine")
    shown = run(cli, "info", str(small_engines))
    assert shown.returncode == 0, shown.stderr
    assert "mask_decoder.onnx" in shown.stdout
    refused = run(cli, "export", "--checkpoint", "weights.pt", "--out", "engines")
    assert refused.returncode == 1
    assert "pip install 'cellsam-engine[export]'" in refused.stderr
    assert run(cli, "--help").returncode == 0
