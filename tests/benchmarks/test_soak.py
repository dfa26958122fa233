"""A short soak passes; growth, other results and failures that do not come are found."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.resident import Readings
from benchmarks.soak_phases import IN_STREAM, Failure, Size, Soak, Streams
from runtime.errors import BackendError, InputError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(autouse=True)
def _level_of_logging() -> Iterator[None]:
    """Restore the level that a phase sets, because these tests run phases in their own process."""
    logger = logging.getLogger("runtime")
    before = logger.level
    yield
    logger.setLevel(before)


def readings(resident: Any, threads: int = 1) -> Readings:
    done = list(range(100, 100 * len(resident) + 1, 100))
    return Readings(done, [float(mib) for mib in resident], [9] * len(resident), [1] * (len(resident) - 1) + [threads])


def test_growth_is_found_and_noise_is_not() -> None:
    noise = np.random.default_rng(0).normal(0, 4, 100)
    noise[[20, 70]] += 150
    flat = 400 + noise
    flat[:4] = 300
    assert readings(flat).summary(500)["steady"]
    assert abs(readings(flat).summary(500)["growth"]) < 0.005
    leak = readings(flat + np.linspace(0, 8, 100)).summary(500)
    assert leak["growth"] == pytest.approx(0.019, abs=0.005)
    assert not leak["steady"]
    assert readings(flat - np.linspace(0, 40, 100)).summary(500)["steady"], "less is no growth"
    assert not readings(flat, threads=2).summary(500)["steady"]
    with pytest.raises(ValueError, match="2 readings after 9900 pieces of work"):
        readings(flat).summary(9900)


class Stub:
    """A segmenter whose streams do with each image what a test says."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def stream(self, images: Any, **_: Any) -> Any:
        return (self._work(image() if callable(image) else image) for image in images)


def streams_of(work: Any) -> Streams:
    images = [np.full((4, 4), number, np.uint8) for number in range(IN_STREAM)]
    soaked = Soak("cpu", Size(count=IN_STREAM), images=images)
    return Streams(soaked, Stub(work), Failure(), [f"{n}" for n in range(IN_STREAM)])  # type: ignore[arg-type]


def test_failures_that_do_not_come_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak_phases.digest", lambda result: result)

    def lenient(image: Any) -> str:
        return "-" if image.ndim == 3 else str(image[0, 0])

    def strict(image: Any) -> str:
        if image.ndim == 3:
            raise InputError("7 channels")
        return lenient(image)

    streams = streams_of(lenient)
    streams.run("none", range(IN_STREAM), 5)
    streams.run("abandoned", range(IN_STREAM), 5)
    streams.run("broken source", range(IN_STREAM), 6)
    assert (streams.amiss, streams.soak.differ) == ([], 0)
    streams.run("refused image", range(IN_STREAM), 6)
    streams.run("failing engine", range(IN_STREAM), 2)
    assert streams.amiss == ["refused image at 6: 12 results, then None", "failing engine at 2: 12 results, then None"]
    assert streams.soak.differ == 1
    streams = streams_of(strict)
    streams.run("refused image", range(IN_STREAM), 6)
    assert streams.amiss == []
    assert streams.raised == {"refused image": 1}
    streams.run("unreadable image", [*range(1, IN_STREAM), 0], 3)
    assert streams.soak.differ == 0, "the results before it are those of other images, in order"


def test_a_failure_comes_once() -> None:
    failure = Failure()
    failure.call()
    failure.arm(2)
    failure.call()
    with pytest.raises(BackendError, match="lets this call fail"):
        failure.call()
    failure.call()


SHORT = "--images 24 --threads-images 24 --threads 3 --lifetimes 8 --every 4 --settle 8 --backends cpu"


def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not judged: it takes longer to settle than a test may last."""
    monkeypatch.setattr("benchmarks.resident.LIMIT", 9.9)
    monkeypatch.setattr(soak, "in_separate_process", lambda work, *arguments: work(*arguments))
    phases = ["images", "threads", "lifetimes"]
    arguments = [*SHORT.split(), "--phases", *phases, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    soak.main(arguments)
    (path,) = (tmp_path / "out").iterdir()
    record = json.loads(path.read_text())
    assert [phase["phase"] for phase in record["phases"]] == phases
    for phase in record["phases"]:
        assert phase["results_unlike_the_first"] == 0
        assert len(phase["memory"]["series"]["resident_mib"]) >= 6
    capsys.readouterr()
    monkeypatch.setattr(soak, "in_separate_process", SimpleNamespace())  # nothing is done twice
    soak.main([*arguments, "--phases", "images"])
    assert capsys.readouterr().out.count(" on cpu: ") == 3
