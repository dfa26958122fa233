"""Each worker of a local cluster sees one GPU; without GPUs, the environment is unchanged."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from benchmarks.made_slide import MadeSlide, PerfectEngines
from runtime import BackendError, ConfigError
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.gpus import VISIBLE
from runtime.jobs.cluster import ClusterOptions, check_cluster, run_on_cluster
from runtime.jobs.segmenter_spec import SegmenterSpec
from runtime.jobs.slides import RunOptions, SlideFile, SlideSettings, segment_slide
from tests.runtime.engines.backends.test_gpus import fake_smi

distributed = pytest.importorskip("distributed")

from tests.runtime.jobs.seen_by_worker import Seen, seen  # noqa: E402

SECONDS = 300
"""Time limit for the cluster, seconds."""


@dataclass(frozen=True)
class OnGpus(PerfectEngines):
    """Engines that claim to run on GPUs."""

    def wants_own_gpu(self) -> bool:
        return True


def not_done(piece: object, error: BaseException) -> NoReturn:
    raise error


@pytest.fixture
def quiet() -> Iterator[int]:
    """Hide messages about files in this process."""
    logger = logging.getLogger("tifffile")
    before, level = logger.level, logging.CRITICAL
    logger.setLevel(level)
    yield level
    logger.setLevel(before)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_workers_have_gpus_in_turn_and_keep_them_when_they_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: int
) -> None:
    fake_smi(tmp_path, monkeypatch, "GPU 0: A (UUID: GPU-a)\nGPU 1: B (UUID: GPU-b)\n")
    died, told, end = tmp_path / "died", set[Seen](), time.monotonic() + SECONDS

    def pieces() -> Iterator[Path | None]:
        """Yield pieces until all workers have reported, and the one that died has reported again."""
        while len({one.worker for one in told}) < 3 and time.monotonic() < end:
            yield None
        yield died
        while time.monotonic() < end and not (died.exists() and again()):
            yield None

    def again() -> list[Seen]:
        worker, pid = map(int, died.read_text().split())
        return [one for one in told if one.worker == worker and one.pid != pid]

    options = ClusterOptions(cluster="local", workers=3)
    for one in run_on_cluster(seen, pieces(), failed=not_done, options=options, engines=OnGpus()):
        told.add(one)
    assert again()
    assert {(one.worker, one.gpus) for one in told} == {(0, "GPU-a"), (1, "GPU-b"), (2, "GPU-a")}
    assert {one.reader_level for one in told} == {quiet}, "also for the restarted worker"
    assert VISIBLE not in os.environ, "this process sees all GPUs"


def test_workers_of_the_cpu_see_what_their_parent_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3,GPU-8932f937")
    options = ClusterOptions(cluster="local", workers=1)
    told = run_on_cluster(seen, [None], failed=not_done, options=options, engines=PerfectEngines())
    assert [one.gpus for one in told] == ["3,GPU-8932f937"]


def test_a_cluster_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: int) -> None:
    """Workers find relative paths although they run in another directory. Afterwards, they log as before."""
    (tmp_path / "workers").mkdir()
    np.save(tmp_path / "slide.npy", np.eye(80, dtype=np.uint8))
    monkeypatch.chdir(tmp_path / "workers")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.chdir(tmp_path)
        options = RunOptions(cluster=cluster.scheduler_address)
        cut = SlideSettings(tile_px=50, overlap_px=20)
        done = segment_slide(SlideFile("slide.npy"), "out", engines=PerfectEngines(), settings=cut, options=options)
        assert (done.tiles, done.failed) == (4, ())
        told = run_on_cluster(seen, [None], failed=not_done, options=options, engines=PerfectEngines())
        assert [one.reader_level for one in told] == [quiet]
        with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
            assert client.submit(seen, None).result().reader_level == logging.NOTSET


class ClusterStartedError(Exception):
    """Raised in place of starting a cluster with these workers."""


@pytest.mark.parametrize(
    ("listed", "given", "workers", "gpu_each"),
    [
        ("0,1,2", None, 3, True),
        ("GPU-8932f937, MIG-c6d4f1ef", None, 2, True),
        ("5,-1,6", None, 1, True),
        ("0,1", 1, 1, True),
        ("0", 4, 4, True),
        ("", 2, 2, False),
    ],
)
def test_as_many_workers_as_gpus(
    listed: str, given: int | None, workers: int, gpu_each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(**options: Any) -> NoReturn:
        raise ClusterStartedError(options["n_workers"], options["worker_class"] is not distributed.Nanny)

    monkeypatch.setattr(distributed, "LocalCluster", begin)
    monkeypatch.setenv(VISIBLE, listed)
    options = ClusterOptions(cluster="local", workers=given)
    with pytest.raises(ClusterStartedError) as begun:
        list(run_on_cluster(seen, [None], failed=not_done, options=options, engines=OnGpus()))
    assert begun.value.args == (workers, gpu_each)


def test_no_gpu_to_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")
    options = RunOptions(cluster="local")
    with pytest.raises(ConfigError, match=r"no GPU is found \(CUDA_VISIBLE_DEVICES is ''\).*or give the number of"):
        segment_slide(MadeSlide((300, 300)), tmp_path, engines=OnGpus(), options=options)
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setattr("runtime.jobs.cluster.visible_gpus", list)
    with pytest.raises(ConfigError, match=r"no GPU is found \(CUDA_VISIBLE_DEVICES is not set\)"):
        check_cluster(options, OnGpus())
    assert check_cluster(ClusterOptions(cluster="tcp://host:8786"), OnGpus()) == []


@pytest.mark.parametrize(("backend", "wanted"), [("cpu", False), ("openvino", False), ("cuda", True), ("auto", True)])
def test_engines_on_a_gpu_want_their_own(backend: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLSAM_BACKEND", "tensorrt")
    assert SegmenterSpec(backend=backend).wants_own_gpu() == wanted
    other = SegmenterSpec(backend=backend, options=BackendOptions(device=1))
    if wanted:
        with pytest.raises(ConfigError, match=r"device is 1; .* as number 0\."):
            other.wants_own_gpu()
    else:
        assert not other.wants_own_gpu()


def test_engines_of_no_backend() -> None:
    with pytest.raises(BackendError, match="backend is 'gpu'"):
        SegmenterSpec(backend="gpu").wants_own_gpu()
