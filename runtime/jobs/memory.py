"""Memory of this process."""

from __future__ import annotations

import sys


def peak_mib() -> float | None:
    """Return the peak memory of this process in MiB; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
