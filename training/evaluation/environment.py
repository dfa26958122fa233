"""Environment of a result: hardware, versions, commit, command, without paths of the machine."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

PACKAGES = (
    "cellsam-engine",
    "numpy",
    "scipy",
    "scikit-image",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "faster-coco-eval",
)


def describe_environment() -> dict[str, Any]:
    """Return the hardware, the versions of relevant packages, and the commit of this code (None outside a checkout).

    A commit ends in ``+changes`` if tracked files differ from it.
    """
    return {
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def portable_command(arguments: Sequence[str]) -> str:
    """Return a command line with every absolute path reduced to its last part.

    Args:
        arguments: as in ``sys.argv``, beginning with the program; ``python -m runtime`` becomes ``cellsam-engine``.
    """
    program, *rest = arguments
    if PureWindowsPath(program).parts[-2:] == ("runtime", "__main__.py"):
        program = "cellsam-engine"
    return shlex.join([_last_part(program), *(_portable(argument) for argument in rest)])


def _portable(argument: str) -> str:
    head, separator, tail = argument.partition("=")
    if separator and _is_absolute(tail):
        return f"{head}={_last_part(tail)}"
    return _last_part(argument) if _is_absolute(argument) else argument


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _last_part(text: str) -> str:
    return PureWindowsPath(text).name or text


def _versions() -> dict[str, str]:
    return {package: found for package in PACKAGES if (found := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the name and driver of each NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    text = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _commit() -> str | None:
    source = Path(__file__).resolve().parent
    if shutil.which("git") is None:
        return None
    commit = _output(["git", "-C", str(source), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changes = _output(["git", "-C", str(source), "status", "--porcelain", "--untracked-files=no"])
    return commit.strip() + ("+changes" if changes and changes.strip() else "")


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
