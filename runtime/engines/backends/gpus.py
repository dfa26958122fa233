"""Count and name the NVIDIA GPUs that CUDA shows this process."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that lists the GPUs visible to a process; CUDA reads it at its first use."""

_CUDA_DRIVERS = {"win32": "nvcuda.dll"}
"""CUDA driver library by platform; elsewhere ``libcuda.so.1``."""

_MAJOR, _MINOR = 75, 76
"""Attributes of the CUDA driver: major and minor number of the compute capability."""

_NAME = re.compile(r"\d+|(GPU|MIG)-\S+")
_LISTED = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)")
"""The UUID in a line of ``nvidia-smi -L``."""

_SMI_SECONDS = 60
"""Time limit for nvidia-smi, which first has to wake every GPU if the driver was idle."""

_log = logging.getLogger(__name__)


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that the driver shows this process; 0 without a driver.

    Source: CUDA driver API, cuInit and cuDeviceGetCount.
    """
    driver, count = _open_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def describe_gpu(device: int) -> str | None:
    """Return the name and compute capability of a GPU, such as "NVIDIA L4 (SM 8.9)"; None if the driver cannot tell.

    Args:
        device: index of the GPU among those visible to the process.

    Source: CUDA driver API, cuDeviceGetName and cuDeviceGetAttribute.
    """
    driver = _open_driver()
    handle, name, major, minor = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), device) != 0:
        return None
    if driver.cuDeviceGetName(name, len(name), handle) != 0:
        return None
    for number, attribute in ((major, _MAJOR), (minor, _MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle) != 0:
            return None
    return gpu_label(name.value.decode(), f"{major.value}.{minor.value}")


def gpu_label(name: str, sm: str) -> str:
    """Return the name of a GPU with its compute capability."""
    return f"{name} (SM {sm})"


def _open_driver() -> Any:
    """Open and initialise the CUDA driver; return None without one."""
    try:
        driver = ctypes.CDLL(_CUDA_DRIVERS.get(sys.platform, "libcuda.so.1"))
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def visible_gpus() -> list[str]:
    """List the GPUs that child processes may use, each as ``CUDA_VISIBLE_DEVICES`` names it.

    If the variable is set, its entries are returned, up to the first that does not name a GPU, such as -1; an empty
    value hides all GPUs. Otherwise, the UUIDs come from nvidia-smi; the MIG instances of a divided GPU replace that
    GPU, because CUDA shows a process only one of them. Without nvidia-smi, the driver's indices are returned.

    Source: NVIDIA, CUDA programming guide, "CUDA Environment Variables"; MIG user guide, "CUDA Device Enumeration".
    """
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return list(takewhile(_NAME.fullmatch, (name.strip() for name in listed.split(","))))
    return _listed_by_smi() or [str(number) for number in range(count_gpus())]


def _listed_by_smi() -> list[str]:
    """Return the UUIDs from nvidia-smi; an empty list if it is missing or fails."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    try:
        done = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("nvidia-smi failed (%s); using the GPU count of the driver.", error)
        return []
    gpus: list[str] = []
    for uuid in _LISTED.findall(done.stdout):
        if uuid.startswith("MIG-") and gpus and gpus[-1].startswith("GPU-"):
            gpus.pop()  # the GPU that contains this instance, listed just before it
        gpus.append(uuid)
    return gpus
