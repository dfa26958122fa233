"""Any number of workers produces the same files, even if one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.made_slide import MadeSlide, PerfectEngines, PerfectTiles
from runtime.config import SegmentConfig
from runtime.errors import JobError
from runtime.jobs.slides import RunOptions, SlideSettings, segment_slide
from runtime.jobs.slides.engines import TileSegmenter
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells

pytest.importorskip("distributed")

SLIDE = MadeSlide((600, 500))
CUT = SlideSettings(tile_px=128, overlap_px=44, tiles_together=3)


@dataclass(frozen=True)
class DeadlyEngines(PerfectEngines):
    """Engines that kill their process once, in the middle of the first batch."""

    mark: Path = Path()

    def load(self) -> TileSegmenter:
        return DeadlyTiles(0.0, mark=self.mark)


@dataclass(frozen=True)
class DeadlyTiles(PerfectTiles):
    mark: Path = Path()

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment_tiles(tiles, size_hw, config)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone")
    segment_slide(SLIDE, out, engines=PerfectEngines(), settings=CUT)
    return files(out)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_files(tmp_path: Path, expected: dict[str, bytes], workers: int) -> None:
    told = []
    options = RunOptions(cluster="local", workers=workers, progress=lambda *step: told.append(step))
    segment_slide(SLIDE, tmp_path, engines=PerfectEngines(), settings=CUT, options=options)
    assert files(tmp_path) == expected
    assert ("tiles", 30, 30) in told


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_dies_is_replaced(tmp_path: Path, expected: dict[str, bytes]) -> None:
    mark = tmp_path / "died"
    out = tmp_path / "out"
    options = RunOptions(cluster="local", workers=2)
    segment_slide(SLIDE, out, engines=DeadlyEngines(mark=mark), settings=CUT, options=options)
    assert mark.exists()
    assert files(out) == expected


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    options = RunOptions(cluster="tcp://127.0.0.1:9")
    with pytest.raises(JobError, match=r"cluster tcp://127\.0\.0\.1:9 cannot be reached"):
        segment_slide(SLIDE, tmp_path, engines=PerfectEngines(), settings=CUT, options=options)
