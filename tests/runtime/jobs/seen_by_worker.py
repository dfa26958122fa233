"""Report of a worker process. A separate module, because workers import it, and importing the tests takes seconds."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from distributed import get_worker


@dataclass(frozen=True)
class Seen:
    """Report of one worker process."""

    worker: int
    pid: int
    gpus: str | None
    reader_level: int


def seen(deadly: Path | None) -> Seen:
    """Run as a piece of work. If given a path, kill the process once, and write there which worker it was."""
    worker = get_worker().name
    if deadly is not None and not deadly.exists():
        written = deadly.with_suffix(".part")
        written.write_text(f"{worker} {os.getpid()}")
        written.rename(deadly)  # readers see the complete file
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)  # so that no worker gets all pieces
    return Seen(worker, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), logging.getLogger("tifffile").level)
