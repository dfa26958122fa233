"""Sharing between the parallel workers of a test run: processor cores, and fixtures that take long to create."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def keep_to_own_cores() -> None:
    """Give this worker its share of the cores, so that its threads and processes do not slow down the others.

    Call this before the first import that counts cores. Outside a parallel run, it does nothing.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker is None or count is None or not hasattr(os, "sched_setaffinity"):
        return
    index, workers = int(worker.removeprefix("gw")), int(count)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[index % len(cores) :: workers])


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Create a file or directory once for all workers: the first worker that asks for it creates it.

    Args:
        factory: the factory of this worker.
        name: unique in the test run; also the last part of the path.
        make: writes to the path that it receives.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory = base / "shared"
    directory.mkdir(exist_ok=True)
    path = directory / name
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make(path)
    return path


SLOW_FILES = (
    *(
        "tests/benchmarks/",
        "tests/export/",
        "tests/robustness/",
        "tests/runtime/test_memory.py",
        "tests/test_minimum.py",
    ),
    *("tests/training/test_training.py", "tests/training/test_resume.py", "tests/training/test_weights.py"),
    *("tests/test_readme.py", "tests/test_formats_page.py", "tests/test_evaluation_page.py"),
)
"""Beginnings of the paths of files whose tests take seconds each."""

SLOW_FIXTURES = {"golden", "small_engines", "calm_engines", "half_engines", "integer_engines"}
"""Fixtures that export a model."""


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is left out of ``make test-fast``."""
    return item.nodeid.startswith(SLOW_FILES) or not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def groups(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """Group the tests that one worker should run, with the longest groups first.

    Tests of one file share its fixtures. Tests of a golden case share its checkpoint and engines, across files.
    """
    together: dict[str, list[pytest.Item]] = {}
    for item in items:
        together.setdefault(_group(item), []).append(item)
    ranks = {
        name: next((n for n, first in enumerate(FIRST) if name.startswith(first)), len(FIRST)) for name in together
    }
    return [together[name] for name in sorted(together, key=ranks.__getitem__)]


FIRST = ("golden", "tests/test_readme.py", "tests/export/", "tests/benchmarks/")
"""Prefixes of the groups that take minutes; if they started last, they would keep one worker busy alone."""


def _group(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "golden" in callspec.params:
        return f"golden {callspec.params['golden']}"
    file = item.nodeid.partition("::")[0]
    return item.nodeid if file == "tests/test_readme.py" else file
