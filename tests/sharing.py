"""Sharing between the parallel workers of a test run: processor cores, and fixtures that take long to create."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling


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
    "tests/benchmarks/",
    "tests/export/",
    "tests/robustness/",
    "tests/runtime/test_memory.py",
    "tests/test_evaluation_page.py",
    "tests/test_formats_page.py",
    "tests/test_minimum.py",
    "tests/test_readme.py",
    "tests/training/test_resume.py",
    "tests/training/test_training.py",
    "tests/training/test_weights.py",
)
"""Beginnings of the paths of files whose tests take seconds each."""

SLOW_FIXTURES = {"golden", "small_engines", "calm_engines", "half_engines", "integer_engines"}
"""Fixtures that export a model."""


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is left out of ``make test-fast``."""
    return item.nodeid.startswith(SLOW_FILES) or not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


FIRST = ("golden", "tests/test_readme.py", "tests/export/", "tests/benchmarks/")
"""Prefixes of the groups that take minutes; if they started last, they would keep one worker busy alone."""


def longest_groups_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Sort tests by group, with the longest groups first."""
    order: dict[str, int] = {}
    for item in items:
        order.setdefault(group_of(item.nodeid), len(order))

    def rank(item: pytest.Item) -> tuple[int, int]:
        group = group_of(item.nodeid)
        return next((n for n, prefix in enumerate(FIRST) if group.startswith(prefix)), len(FIRST)), order[group]

    return sorted(items, key=rank)


def group_of(nodeid: str) -> str:
    """Return the group of a test: all tests of a group run in one worker.

    Tests of one file share its fixtures. Tests of a golden case share its checkpoint and engines, across files.
    """
    file, _, test = nodeid.partition("::")
    case = re.search(r"\[(upstream_[a-z]+_vit_seed\d+)", test)
    if case and (
        file == "tests/export/test_golden.py" or nodeid.startswith("tests/training/test_model.py::test_golden")
    ):
        return f"golden {case[1]}"
    return nodeid if file == "tests/test_readme.py" else file


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hand whole groups to the workers, in order. Replaces ``--dist loadgroup``, which fails in pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
