"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

_KEPT_BYTES = 64 << 20
"""Growth since the last release that triggers another."""

_STATUS = Path("/proc/self/statm")


class FreedMemory:
    """Makes the C library return free memory to the system, if it can (glibc on Linux).

    CPU engines allocate tens of megabytes per call. After they are freed, glibc keeps them in fragments between blocks
    in use, so that the process grows from call to call.
    """

    def __init__(self) -> None:
        self._left = 0

    def give_back(self, *, at_once: bool = False) -> None:
        """Return free memory. Args: at_once: do so even if the process has hardly grown since the last call."""
        trim = _trim()
        if trim is None:
            return
        held = resident_bytes()
        if at_once or held > self._left + _KEPT_BYTES:
            trim(0)
            self._left = resident_bytes()


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@lru_cache(maxsize=1)
def _trim() -> Any:
    if not _STATUS.exists():
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None


FREED = FreedMemory()
"""Shared instance of this process."""
