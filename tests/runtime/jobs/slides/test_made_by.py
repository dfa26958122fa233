"""The files of a slide list what made its tiles, also if several kinds of engines did, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_slide import MadeSlide, PerfectEngines, PerfectTiles
from runtime import Provenance, SegmentConfig
from runtime.errors import InputError, JobError
from runtime.files.made_by import read_provenance
from runtime.files.outputs.formats import slide_formats
from runtime.jobs.slides import ArrayReader, EngineSpec, RunOptions, SlideResult, SlideSettings, segment_slide
from runtime.jobs.slides.engines import TileSegmenter
from runtime.provenance import EngineRun
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells

pytest.importorskip("zarr")
SIZE = (300, 280)
SLIDE = ArrayReader(MadeSlide(SIZE).truth(0, 0, *SIZE) > 0)
CUT = SlideSettings(tile_px=128, overlap_px=44, tiles_together=2)
OF_SLIDES = slide_formats()
EVERY = replace(CUT, formats=OF_SLIDES, overlay=True)


def made_on(device: str) -> Provenance:
    run = EngineRun(device=device, providers=(device,), precision="fp32")
    return Provenance(
        version="0.1.0", model="perfect", model_sha256=None, backend="cpu", engines={"encoder": run}, libraries={}
    )


@dataclass(frozen=True)
class DevicesInTurn(PerfectEngines):
    """Engines that run on another device in each call, as the processes of a cluster may, and may stop."""

    devices: tuple[str, ...] = ("GPU 0", "CPU")
    calls: int = 1000
    tag: str = ""
    """Engines are loaded once for each specification."""

    def load(self) -> TileSegmenter:
        return TilesInTurn(0.0, devices=self.devices, left=[self.calls])


@dataclass(frozen=True)
class TilesInTurn(PerfectTiles):
    devices: tuple[str, ...] = ()
    left: Sequence[int] = ()

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        if not self.left[0]:
            raise InputError("this process has stopped")
        self.left[0] -= 1  # type: ignore[index]
        object.__setattr__(self, "provenance", made_on(self.devices[self.left[0] % len(self.devices)]))
        return super().segment_tiles(tiles, size_hw, config)


def run(out: Path, engines: PerfectEngines, settings: SlideSettings = CUT) -> SlideResult:
    return segment_slide(SLIDE, out, engines=engines, settings=settings, options=RunOptions())


def test_all_devices_are_listed_in_every_file(tmp_path: Path) -> None:
    done = run(tmp_path / "first", DevicesInTurn(), EVERY)
    assert done.provenance == (made_on("CPU"), made_on("GPU 0"))
    for name, path in done.files.items():
        if name not in ("csv", "cellpose-txt"):
            assert read_provenance(path) == done.provenance, name
    other = run(tmp_path / "second", DevicesInTurn(devices=("CPU", "CPU", "GPU 0")), EVERY)
    assert files(tmp_path / "second") == files(tmp_path / "first"), "in one order, however tiles were shared out"
    assert other.provenance == done.provenance


def test_an_interrupted_slide_lists_the_engines_of_both_runs(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="tiles failed"):
        run(tmp_path, DevicesInTurn(devices=("CPU",), calls=2))
    assert len(list((tmp_path / "image_job" / "engines").iterdir())) == 1
    done = run(tmp_path, DevicesInTurn(devices=("GPU 0",)))
    assert read_provenance(done.labels) == (made_on("CPU"), made_on("GPU 0"))
    assert not (tmp_path / "image_job").exists()


def test_a_restarted_slide_forgets_the_engines_of_before(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="tiles failed"):
        run(tmp_path, DevicesInTurn(devices=("CPU",), calls=1, tag="restarted"))
    engines = DevicesInTurn(devices=("GPU 0",), tag="restarted")
    done = segment_slide(SLIDE, tmp_path, engines=engines, settings=CUT, options=RunOptions(restart=True))
    assert done.provenance == (made_on("GPU 0"),)


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="tiles failed"):
        run(tmp_path, DevicesInTurn(devices=("CPU",), calls=1, tag="damaged"))
    (record,) = (tmp_path / "image_job" / "engines").iterdir()
    record.write_text('[{"version": 1}]')
    with pytest.raises(JobError, match=r"is damaged .*restart=True"):
        run(tmp_path, DevicesInTurn(tag="damaged"))


def test_a_slide_without_signal_was_made_by_no_engine(tmp_path: Path) -> None:
    reader = ArrayReader(np.zeros(SIZE, np.uint8))
    done = segment_slide(reader, tmp_path, engines=DevicesInTurn(), settings=CUT)
    assert (done.cells, done.provenance, read_provenance(done.labels)) == (0, (), ())


def test_the_engines_of_a_segmenter_are_recorded(tmp_path: Path) -> None:
    small = ArrayReader(np.pad(np.full((20, 20), 200, np.uint8), 20))
    done = segment_slide(small, tmp_path, engines=EngineSpec(backend="cpu"))
    (made_by,) = done.provenance
    assert made_by.engines["encoder"].providers == ("CPUExecutionProvider",)
    assert read_provenance(done.labels) == (made_by,)


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
