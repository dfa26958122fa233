"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

_KEPT_BYTES = 64 << 20
"""So much may be held beyond what was left when memory was given back last."""

_STATUS = Path("/proc/self/statm")


class FreedMemory:
    """Has the C library return what it holds free, where it can (glibc on Linux).

    Engines on the CPU allocate tens of megabytes per call. When they are freed, glibc keeps them, in pieces between
    what is still used, so that call after call takes more from the system.
    """

    def __init__(self) -> None:
        self._left = 0

    def give_back(self, *, at_once: bool = False) -> None:
        """Give memory back. Args: at_once: do so even if the process has hardly grown since the last time."""
        trim = _trim()
        if trim is None:
            return
        held = resident_bytes()
        if at_once or held > self._left + _KEPT_BYTES:
            trim(0)
            self._left = resident_bytes()


def resident_bytes() -> int:
    """Memory that this process holds now (Linux)."""
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
"""Of this process."""
