"""Worker process that checks inputs, so that a crash, a hang or excessive memory counts as a failure.

``python -m tests.robustness.worker`` reads one line of JSON per input and answers with the problem, or null.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.robustness.base import Case, InputClass, problem_of
from tests.robustness.classes import input_class

CPU_SECONDS = 20.0
"""Maximum processor time of all threads for one input."""

WALL_SECONDS = 300.0
"""Maximum elapsed time for one input; long, because other work may share the machine."""

MEMORY_BYTES = 2 << 30
"""Maximum address space in addition to that of the libraries."""

_ROOT = Path(__file__).parents[2]


class Worker:
    """The worker process, started on demand and restarted after it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def problem(self, name: str, case: Case) -> str | None:
        """Check an input of a class; return the problem, or None."""
        self._process = process = self._process or self._begun()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([name, case]).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], WALL_SECONDS)[0]:
            self.close()
            return f"Hang: more than {WALL_SECONDS:g} s"
        answer = process.stdout.readline()
        if not answer:
            return self._end()
        found: str | None = json.loads(answer)
        return found

    def warm_up(self, name: str) -> None:
        """Import the modules of a class and check one input, so that the search time includes neither."""
        self.problem(name, {})

    def _end(self) -> str:
        """Describe how the process ended."""
        assert self._process is not None
        code = self._process.wait(WALL_SECONDS)
        self._process = None
        if code == -signal.SIGPROF:
            return f"TimeLimit: more than {CPU_SECONDS:g} s of processor time"
        return f"Crash: ended by {signal.Signals(-code).name if code < 0 else code}"

    def _begun(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CELLSAM_BACKEND": "cpu"}
        command = [sys.executable, "-m", "tests.robustness.worker"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the worker did not start; run it by hand"
        return process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@lru_cache
def _bounded(name: str) -> InputClass:
    """Import a class, then limit the address space to that of its libraries plus ``MEMORY_BYTES``."""
    import resource  # not available on Windows

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    one = input_class(name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, resource.RLIM_INFINITY))
    return one


def main() -> None:
    """Answer requests until the input ends."""
    # Output of libraries goes to stderr, so that it is not read as an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, case = json.loads(line)
        one = _bounded(name)
        # Without a handler, the alarm ends the process wherever it is.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        problem = problem_of(one, case)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(problem), file=answers, flush=True)


if __name__ == "__main__":
    main()
