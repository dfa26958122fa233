"""Run the search for a minute and replay every input that failed before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robustness import machine
from tests.robustness.base import Case, signature
from tests.robustness.mutations import edited, replaced
from tests.robustness.search import JOBS, NAMES, kept, replay, search
from tests.robustness.worker import Worker

SECONDS = 60 / len(NAMES)

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits processes as Linux does")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_input_has_an_answer(name: str, worker: Worker) -> None:
    tally = search(name, SECONDS, number=int(os.environ.get("FUZZ_SEED", "0")), worker=worker)
    assert tally.tried
    assert not tally.problems, "\n".join(tally.problems.values())


@pytest.mark.parametrize("path", kept(), ids=lambda path: path.stem)
def test_inputs_that_failed_once(path: Path, worker: Worker) -> None:
    assert replay(path, worker) is None


class Broken(Worker):
    """A worker that crashes on every input."""

    def problem(self, name: str, case: Case) -> str | None:
        return "Crash: ended by SIGSEGV"


def test_a_crash_and_a_wrong_answer_are_findings(worker: Worker, tmp_path: Path) -> None:
    """Test the search itself: an input that its class cannot read, and a worker that has ended."""
    problem = worker.problem("boxes", {"no": "boxes"})
    assert problem is not None
    assert "KeyError" in problem
    assert signature(problem).endswith("KeyError")
    worker.close()
    assert worker.problem("boxes", {"boxes": [[0, 0, 9, 9]], "size_hw": [9, 9]}) is None, "the worker restarts"
    found = search("boxes", 0.05, 0, Broken(), keep=tmp_path)
    assert list(found.problems) == [" Crash"]
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["problem"] == "Crash: ended by SIGSEGV"


def test_a_job_with_another_result_is_a_finding(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "expected", dict)
    assert search(JOBS, 0.01, 0, worker, keep=tmp_path).problems
    (path,) = tmp_path.iterdir()
    problem = replay(path, worker)
    assert problem is not None
    assert "whatever happened before, results are the same" in problem


def test_mutations() -> None:
    half = 1 << 19
    assert edited(b"abcd", [["put", half, b"xy".hex()]]) == b"abxy"
    assert edited(b"abcd", [["insert", half, b"x".hex()], ["cut", 0, "00"]]) == b""
    assert edited(b"abcd", [["flip", 0, "00"]]) == b"`bcd"
    assert edited(b"abcd", [["delete", 0, "02"]]) == b"cd"
    assert edited(b"abcd", [["repeat", half, "01"]]) == b"abccd"
    assert replaced({"a": [1, 2]}, [[1, "set", None], [2, "drop", None]]) == {"a": [None]}
    assert replaced([3], [[0, "scale", None]]) == [7]
