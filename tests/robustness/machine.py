"""State machine that runs, kills, resumes and tampers with jobs in any order."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from benchmarks.made_slide import PerfectEngines
from runtime.errors import SegmenterError
from runtime.jobs.slides import ArrayReader, RunOptions, segment_slide
from runtime.jobs.slides.jobs import locked
from tests.robustness.base import Case, signature
from tests.robustness.mutations import Edit, edited, edits
from tests.robustness.records import CUT, TRUTH

_WALL_SECONDS = 120.0


class _Tally(Protocol):
    tried: int
    problems: dict[str, str]


def _run(out: Path, **options: Any) -> None:
    segment_slide(ArrayReader(TRUTH > 0), out, engines=PerfectEngines(), settings=CUT, options=RunOptions(**options))


def _error_of(out: Path, **options: Any) -> SegmenterError | None:
    """Run the job and return its error; None if it succeeds."""
    try:
        _run(out, **options)
    except SegmenterError as error:
        return error
    return None


def _results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()} if out.exists() else {}


@lru_cache(maxsize=1)
def expected() -> dict[str, bytes]:
    """Return the result files of an undisturbed job."""
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder))
        return _results(Path(folder))


class OneJob:
    """A slide and its output directory."""

    def __init__(self) -> None:
        self._right = expected()
        self._folder = Path(tempfile.mkdtemp())
        self._out = self._folder / "out"
        self._touched = False
        """Whether a result was changed from outside; a finished job does not check its results again."""

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def run(self, overwrite: bool, keep_job: bool, restart: bool) -> None:
        """Run the job to its end, or to an error with a message."""
        error = _error_of(self._out, overwrite=overwrite, keep_job=keep_job, restart=restart)
        if error is not None:
            assert str(error), "an error has a message"
            assert not (restart and overwrite), f"a job with restart and overwrite failed: {error}"
            return
        self._touched = False
        assert _results(self._out) == self._right, "whatever happened before, results are the same"
        assert (self._out / "image_job").exists() == keep_job

    def kill(self, step: int, later: float) -> None:
        """Run the job and kill it at a step, unless it ends before."""
        self._child(self._dying_run, step, later)
        self._check_results()

    def _dying_run(self, step: int, later: float) -> None:
        steps = iter(range(step))

        def stop(what: str, done: int, of: int) -> None:
            if next(steps, None) is None:
                time.sleep(later)
                os.kill(os.getpid(), signal.SIGKILL)

        _run(self._out, progress=stop, keep_job=True, overwrite=True)

    def _check_results(self) -> None:
        """Check that every existing result is complete, unless it was changed from outside."""
        found = _results(self._out)
        assert self._touched or found.items() <= self._right.items(), "an incomplete result has its final name"

    def two_at_once(self) -> None:
        """Start two processes together; one of them may fail because the other holds the job."""
        begun = [self._forked(self._second_run) for _ in range(2)]
        for process in begun:
            self._ended(process, (0,))
        self._check_results()

    def _second_run(self) -> None:
        error = _error_of(self._out, overwrite=True)
        assert error is None or any(word in str(error) for word in ("by another process", "restart", "damaged")), error

    def run_while_another_is_at_work(self) -> None:
        """Check that a run does not touch a job that a live process holds."""
        before = _results(self._out)
        with locked(self._out / "image_job"):
            process = self._forked(self._refused_run)
            self._ended(process, (0,))
        assert _results(self._out) == before

    def _refused_run(self) -> None:
        error = _error_of(self._out, overwrite=True)
        assert "is in use by another process" in str(error), "two processes worked on one job"

    def tamper(self, where: int, changes: list[Edit]) -> None:
        """Change bytes in a file of the job or its results."""
        files = self._files()
        if files:
            path = files[where % len(files)]
            self._touched |= path.parent == self._out
            path.write_bytes(edited(path.read_bytes(), changes))

    def remove(self, where: int) -> None:
        """Delete a file."""
        files = self._files()
        if files:
            files[where % len(files)].unlink()

    def leave_behind(self, file: str) -> None:
        """Add a foreign file or directory to the job."""
        job = self._out / "image_job"
        for folder in (job, job / "tiles", job / "stitching"):
            if folder.is_dir() and not (folder / file).exists():
                (folder / file).write_bytes(b"left") if file != "directory" else (folder / file).mkdir()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._out.rglob("*") if path.is_file()) if self._out.exists() else []

    def _child(self, work: Callable[..., None], *arguments: Any) -> None:
        self._ended(self._forked(work, *arguments), (0, -signal.SIGKILL))

    def _forked(self, work: Callable[..., None], *arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about fork; no thread of this process holds a lock
            process = multiprocessing.get_context("fork").Process(target=_in_child, args=(work, *arguments))
            process.start()
        return process

    def _ended(self, process: Any, codes: tuple[int, ...]) -> None:
        process.join(_WALL_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError("a job hangs")
        assert process.exitcode in codes, f"a process ended with {process.exitcode}"


def _in_child(work: Callable[..., None], *arguments: Any) -> None:
    """Accept errors of the package; exit with code 3 for any other error."""
    try:
        work(*arguments)
    except SegmenterError:
        return
    except BaseException:
        traceback.print_exc()
        os._exit(3)


class Jobs(RuleBasedStateMachine):
    """Draw the steps of a job and record them."""

    steps: list[list[Any]]
    """Steps of the latest job: name and arguments."""

    def __init__(self) -> None:
        super().__init__()
        type(self).steps = []
        self._job = OneJob()

    def _do(self, name: str, **arguments: Any) -> None:
        type(self).steps.append([name, arguments])
        getattr(self._job, name)(**arguments)

    @rule(overwrite=st.booleans(), keep_job=st.booleans(), restart=st.booleans())
    def run(self, overwrite: bool, keep_job: bool, restart: bool) -> None:
        self._do("run", overwrite=overwrite, keep_job=keep_job, restart=restart)

    @rule(step=st.integers(0, 14), later=st.sampled_from((0.0, 0.0, 0.003)))
    def kill(self, step: int, later: float) -> None:
        self._do("kill", step=step, later=later)

    @rule()
    def two_at_once(self) -> None:
        self._do("two_at_once")

    @rule()
    def run_while_another_is_at_work(self) -> None:
        self._do("run_while_another_is_at_work")

    @rule(where=st.integers(0, 99), changes=edits(3))
    def tamper(self, where: int, changes: list[Edit]) -> None:
        self._do("tamper", where=where, changes=changes)

    @rule(where=st.integers(0, 99))
    def remove(self, where: int) -> None:
        self._do("remove", where=where)

    @rule(file=st.sampled_from((".a.npz.1.partial", "other.npz", "directory", "00000_00000.npz.tmp")))
    def leave_behind(self, file: str) -> None:
        self._do("leave_behind", file=file)

    def teardown(self) -> None:
        try:
            self._do("run", overwrite=True, keep_job=False, restart=True)
        finally:
            self._job.close()


def search_round(number: int, quiet: settings, end: float, tally: _Tally) -> tuple[Case, str] | None:
    """Run a few jobs; return the shortest failing sequence and its problem, or None."""
    failed: list[tuple[Case, str]] = []

    class Watched(Jobs):
        def _do(self, name: str, **arguments: Any) -> None:
            if time.monotonic() > end + (60 if failed else 0) and name != "run":
                return
            tally.tried += 1
            try:
                super()._do(name, **arguments)
            except Exception:
                problem = traceback.format_exc()
                if not failed and signature(problem) in tally.problems:
                    return
                tally.problems.setdefault(signature(problem), problem)
                failed.append(({"steps": list(self.steps)}, problem))
                raise

    try:
        run_state_machine_as_test(
            seed(number)(Watched), settings=settings(quiet, max_examples=5, stateful_step_count=8)
        )
    except Flaky:
        pass
    except Exception:
        if not failed:
            raise
    return failed[-1] if failed else None


def replay(case: Case) -> str | None:
    """Run the steps of a case on a job; return the problem, or None."""
    job = OneJob()
    try:
        for name, arguments in case["steps"]:
            getattr(job, name)(**arguments)
    except Exception:
        return traceback.format_exc()
    finally:
        job.close()
    return None
