"""NVIDIA GPUs: how many CUDA shows this process, and what each is called."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that lists the GPUs CUDA shows a process; read when the process first uses CUDA."""

_CUDA_DRIVERS = {"win32": "nvcuda.dll"}
"""By platform; elsewhere ``libcuda.so.1``."""

_NAME = re.compile(r"\d+|(GPU|MIG)-\S+")
_LISTED = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)")
"""In a line of ``nvidia-smi -L``."""

_SMI_SECONDS = 60
"""How long nvidia-smi may take; where the driver sleeps between programs, it wakes every GPU first."""

_log = logging.getLogger(__name__)


def count_gpus() -> int:
    """NVIDIA GPUs that the driver shows this process; 0 without a driver.

    Source: CUDA driver API, cuInit and cuDeviceGetCount.
    """
    try:
        driver = ctypes.CDLL(_CUDA_DRIVERS.get(sys.platform, "libcuda.so.1"))
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def visible_gpus() -> list[str]:
    """The GPUs that processes started from this one may use, each as ``CUDA_VISIBLE_DEVICES`` names it.

    Those that the variable lists, where it is set: an empty one hides all, and the list ends at the first entry that
    names no GPU, such as -1. Without it, the UUIDs that nvidia-smi lists, with the MIG instances of a divided GPU in
    its place: of these CUDA shows a process only one. Without nvidia-smi, the numbers that the driver counts.

    Source: NVIDIA, CUDA programming guide, "CUDA Environment Variables"; MIG user guide, "CUDA Device Enumeration".
    """
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return list(takewhile(_NAME.fullmatch, (name.strip() for name in listed.split(","))))
    return _listed_by_smi() or [str(number) for number in range(count_gpus())]


def _listed_by_smi() -> list[str]:
    """UUIDs; none where nvidia-smi is missing, or fails."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    try:
        done = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("GPUs are counted by the driver, because nvidia-smi failed (%s).", error)
        return []
    gpus: list[str] = []
    for uuid in _LISTED.findall(done.stdout):
        if uuid.startswith("MIG-") and gpus and gpus[-1].startswith("GPU-"):
            gpus.pop()  # the GPU of this instance, whose line comes before
        gpus.append(uuid)
    return gpus
