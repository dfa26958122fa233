"""Tests of the package ``cellpose`` that stands in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.cellpose.shim import find_environment
from runtime.commands.app import app
from runtime.errors import InputError
from runtime.files.outputs.read_cellpose import read_masks

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Make an environment that finds the packages of this one."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "runtime.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    return folder


def shim(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cellpose-shim", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_programs_find_cellpose_and_lose_it_again(environment: Path, folder: Path) -> None:
    before = {path for path in environment.rglob("*") if "__pycache__" not in path.parts}
    code, output = shim(environment)
    assert code == 0, output
    assert len(output.split()) == 2
    assert shim(environment)[0] == 0, "again"
    python = environment / "bin" / "python"
    vector = ["--dir", folder, "--pretrained_model", "cpsam", "--save_tif", "--no_npy"]
    done = subprocess.run(
        [python, "-Xutf8", "-W", "ignore", "-m", "cellpose", *vector], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_masks(folder / "Temp_0_0_z0_t0_cp_masks.tif").max() > 1
    script = "from cellpose import models; print(models.CellposeModel.__module__, models.Cellpose.__name__)"
    said = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["runtime.cellpose.model", "Cellpose"]
    version = subprocess.run(
        [environment / "bin" / "cellpose", "--version"], capture_output=True, text=True, check=True
    )
    assert "cellsam-engine version" in version.stdout
    assert shim(environment, "--remove")[0] == 0
    after = {path for path in environment.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    code, output = shim(environment, "--remove")
    assert (code, "has no shim" in output) == (1, True)


def test_cellpose_itself_is_never_touched(environment: Path) -> None:
    package = find_environment(environment).package
    package.mkdir()
    (package / "__init__.py").write_text("from cellpose.version import version\n")
    for options in ([], ["--remove"]):
        code, output = shim(environment, *options)
        assert code == 1
        assert "belongs to Cellpose itself" in output.replace("\n", " ")
    assert [path.name for path in package.iterdir()] == ["__init__.py"]
    (package / "__init__.py").unlink()
    package.rmdir()
    (package.parent / "cellpose-4.2.1.dist-info").mkdir()
    assert shim(environment)[0] == 1


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a virtual environment"):
        find_environment(tmp_path)
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    with pytest.raises(InputError, match=r"lacks cellsam-engine \(ModuleNotFoundError"):
        find_environment(tmp_path / "empty")
