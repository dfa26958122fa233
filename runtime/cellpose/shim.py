"""A package ``cellpose`` for an environment without Cellpose, so that programs that call it call these engines."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from runtime.extras import NAME
from runtime.files.placing import write_whole

MARK = f"# Written by '{NAME} cellpose-shim'; '{NAME} cellpose-shim --remove' deletes it.\n"
"""First line of every file of the shim, by which it is told from Cellpose."""

_FILES = {
    "__init__.py": '"""Cellpose\'s interfaces on the engines of cellsam-engine; this is not Cellpose."""\n',
    "__main__.py": "from runtime.cellpose.main import script\n\nscript()\n",
    "models.py": "from runtime.cellpose.model import Cellpose, CellposeModel\n\n"
    '__all__ = ["Cellpose", "CellposeModel"]\n',
}


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment."""

    python: Path
    packages: Path
    """Its ``site-packages``."""

    @property
    def package(self) -> Path:
        """The folder of a package named cellpose."""
        return self.packages / "cellpose"

    @property
    def script(self) -> Path:
        """The command named cellpose."""
        return self.python.parent / ("cellpose.cmd" if os.name == "nt" else "cellpose")


def find_environment(folder: Path) -> Environment:
    """Find the interpreter and the packages of a virtual environment.

    Raises:
        InputError: the folder is not an environment, or this package is not installed in it.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file() or not (folder / "pyvenv.cfg").is_file():
        raise InputError(
            f"{folder} is not a virtual environment; expected one with {python.name}. Create it: "
            f"python -m venv {folder}.",
            kind="not_found",
        )
    asked = "import runtime, sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=False)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"{folder} lacks {NAME} ({last}); expected it there. Install it: {python} -m pip install {NAME}.",
            kind="not_installed",
        )
    return Environment(python, Path(found.stdout.strip().splitlines()[-1]))


def add_shim(environment: Environment) -> list[Path]:
    """Add the package and the command ``cellpose``, or renew them.

    Returns:
        The package and the command.

    Raises:
        InputError: Cellpose itself is installed there.
    """
    _check_not_cellpose(environment)

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, text in _FILES.items():
            (folder / name).write_text(MARK + text, encoding="utf-8")

    def write_command(path: Path) -> None:
        if os.name == "nt":
            path.write_text(f'@rem {MARK}@"{environment.python}" -m cellpose %*\n', encoding="utf-8")
            return
        python = os.path.abspath(environment.python)
        path.write_text(f'#!/bin/sh\n{MARK}exec "{python}" -m cellpose "$@"\n', encoding="utf-8")
        path.chmod(0o755)

    write_whole(environment.package, write)
    write_whole(environment.script, write_command)
    return [environment.package, environment.script]


def remove_shim(environment: Environment) -> list[Path]:
    """Delete what ``add_shim`` wrote.

    Returns:
        The deleted paths.

    Raises:
        InputError: Cellpose itself is installed there, or there is nothing to remove.
    """
    _check_not_cellpose(environment)
    there = [path for path in (environment.package, environment.script) if path.exists()]
    if not there:
        raise InputError(f"{environment.packages} has no shim; expected one to remove.", kind="not_found")
    if environment.package.is_dir():
        for name in _FILES:
            (environment.package / name).unlink(missing_ok=True)
        for compiled in environment.package.glob("__pycache__/*.pyc"):
            compiled.unlink()
        for folder in (environment.package / "__pycache__", environment.package):
            if folder.is_dir():
                folder.rmdir()
    environment.script.unlink(missing_ok=True)
    return there


def _check_not_cellpose(environment: Environment) -> None:
    """Raise an ``InputError`` if the package or the command is not this shim."""
    marked = {environment.package: environment.package / "__init__.py", environment.script: environment.script}
    foreign = [path for path, file in marked.items() if path.exists() and not _is_marked(file)]
    foreign += list(environment.packages.glob("cellpose-*.dist-info"))
    if foreign:
        raise InputError(
            f"{foreign[0]} belongs to Cellpose itself; expected an environment without it. Create another one: python "
            "-m venv DIR.",
            kind="exists",
        )


def _is_marked(file: Path) -> bool:
    try:
        return MARK.strip() in file.read_text(encoding="utf-8", errors="replace")[:500]
    except OSError:
        return False
