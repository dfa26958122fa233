"""Rules of the layout: imports across and inside packages, and dependencies of the base install."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import runtime
from tests import layers

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "runtime": {"export", "training", "benchmarks", "tests", "torch", "segment_anything", "onnx"},
    "training": {"export", "benchmarks", "tests"},
    "export": {"benchmarks", "tests"},
    "benchmarks": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Return the top-level names of everything that a file imports, anywhere in it."""
    return {module.split(".")[0] for module, _, _ in layers.imported_names(path)}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in (ROOT / package).rglob("*.py")
        if (bad := imported(path) & FORBIDDEN[package])
    }
    assert wrong == {}


@pytest.mark.parametrize("folder", sorted(layers.LEVELS))
def test_no_import_goes_up(folder: str) -> None:
    wrong = layers.find_upward(folder, layers.read_imports(folder.split("/")[0]), layers.LEVELS[folder])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", layers.PACKAGES)
def test_no_circle_of_imports(package: str) -> None:
    circles = layers.find_circles(layers.read_imports(package))
    assert not circles, "\n".join(circles)


def test_every_package_has_levels() -> None:
    assert sorted(layers.PACKAGES) == sorted(FORBIDDEN)
    assert len(layers.LEVELS["runtime"]) - 2 <= 11, "except the two levels of the applications"


@pytest.fixture
def wrong_package(tmp_path: Path) -> Path:
    """Write a package of two levels that breaks every rule."""
    files = {
        "house/__init__.py": "from house.high.top import A",
        "house/high/top.py": "import house.low.first\nimport house.low",
        "house/low/__init__.py": "",
        "house/low/first.py": "def f() -> None:\n    from house.low import second",
        "house/low/second.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.low.first import f",
        "house/low/third.py": "import numpy\nfrom house.high import top\nfrom house import A",
        "house/elsewhere.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


def test_circles_and_upward_imports_are_found(wrong_package: Path) -> None:
    graph = layers.read_imports("house", wrong_package)
    assert graph["house.high.top"] == {"house.low.first": 1, "house.low": 2}
    (circle,) = layers.find_circles(graph)
    assert circle in (
        "house.low.first -> house.low.second -> house.low.first",
        "house.low.second -> house.low.first -> house.low.second",
    )
    assert layers.find_upward("house", graph, (("high",), ("low",))) == [
        "house/elsewhere stands on no level; add it to LEVELS['house'] in tests/layers.py",
        "house.low.third, line 2, imports house.high.top; low may import nothing of house",
        "house.low.third, line 3, imports house; low may import nothing of house",
    ]
    assert layers.find_upward("house", graph, (("high", "low", "elsewhere"),))[0].startswith(
        "house.high.top, line 1, imports house.low.first"
    ), "folders of one level are separate"


def test_levels_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.main(["runtime", "runtime/files"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("runtime: 1")
    assert "  2  config" in shown
    assert shown.count("no circle, no upward import") == 2
    assert layers.main(["elsewhere"]) == 2


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
    """The environment is new and has only the base dependencies."""
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
    assert f"pip install '{ROOT}[export]'" in refused.stderr
    assert run(cli, "--help").returncode == 0
    (site,) = directory.glob("lib/python*/site-packages")
    assert all((site / package / "py.typed").is_file() for package in FORBIDDEN)
    assert list((site / "runtime" / "models" / "nano").glob("*.onnx"))
    assert not (site / "benchmarks" / "results").exists()
    assert not (site / "tests").exists()


POSIX_ONLY = {"fcntl", "resource", "termios", "pwd", "grp", "pty"}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_module_needs_posix_to_be_imported(package: str) -> None:
    """Such modules are imported inside functions, after a check of the system."""
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in (ROOT / package).rglob("*.py")
        if (bad := POSIX_ONLY & _imported_at_once(path))
    }
    assert wrong == {}


def _imported_at_once(path: Path) -> set[str]:
    """Top-level names that importing a file imports."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_command_starts_without_posix_modules() -> None:
    """POSIX modules do not exist on Windows."""
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(POSIX_ONLY - {"pwd", "grp"}))
    script = f"import sys; {blocked}; import runtime, runtime.segmenter, runtime.commands.segment, runtime.jobs.slides"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_are_typed_and_versioned() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in FORBIDDEN)
    assert runtime.__version__ == version("cellsam-engine")
