"""Locks of files, which the system releases when a process ends, in any way."""

from __future__ import annotations

import os
from typing import IO


def lock_file(file: IO[bytes]) -> None:
    """Lock an open file for this process.

    Raises:
        OSError: another process holds the lock, or the file system has no locks.
    """
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
