"""Jobs are interrupted at any point and resumed, rejected, or locked. Tiles fail, but no loss goes unreported."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from benchmarks.made_slide import AS_MADE, MadeSlide, PerfectEngines
from runtime.errors import ConfigError, InputError, JobError
from runtime.files.outputs.formats import slide_formats
from runtime.jobs.slides import ArrayReader, RunOptions, SlideSettings, outputs, segment_slide
from runtime.jobs.slides.jobs import Job, locked

SIZE = (430, 390)
TRUTH = MadeSlide(SIZE).truth(0, 0, *SIZE)
CUT = SlideSettings(tile_px=128, overlap_px=44, tiles_together=4)
EVERY = replace(CUT, formats=slide_formats(), overlay=True)


def run(out: Path, reader: Any = None, **options: Any) -> Any:
    engines = options.pop("engines", PerfectEngines())
    config, cut = options.pop("config", None), options.pop("settings", CUT)
    reader = reader or ArrayReader(TRUTH > 0)
    return segment_slide(reader, out, engines=engines, config=config, settings=cut, options=RunOptions(**options))


def everything(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    run(out)
    assert sorted(results(out)) == ["image_cells.csv", "image_labels.tif"]
    return results(out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_random_moments_and_gone_on_with(tmp_path: Path, expected: dict[str, bytes]) -> None:
    rng = np.random.default_rng(0)
    fork = multiprocessing.get_context("fork")
    kills, jobs, seen = 0, 0, set()
    while kills < 20:
        jobs += 1
        out = tmp_path / str(jobs)
        for attempt in range(50):
            # At a random step and shortly after it; first among the tiles, then anywhere.
            last, later = int(rng.integers(1, 20 if attempt else 5)), float(rng.uniform(0, 0.01))
            steps = iter(range(last))

            def stop(what: str, done: int, of: int, steps: Any = steps, later: float = later) -> None:
                if next(steps, None) is None:
                    time.sleep(later)
                    os.kill(os.getpid(), signal.SIGKILL)

            process = fork.Process(target=run, args=(out,), kwargs={"progress": stop})
            process.start()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            seen.add((out / "image_job" / "stitching").exists())
        assert process.exitcode == 0, "every run makes progress"
        assert results(out) == expected
        assert not (out / "image_job").exists()
    assert seen == {True, False}, "in both passes"


def dies_while_writing(out: Path, step: int) -> None:
    """The process is killed before it writes a file, or before it moves one into place."""
    steps = iter(range(step))

    def counted(work: Any) -> Any:
        def or_dies(*arguments: Any) -> Any:
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*arguments)

        return or_dies

    outputs._WRITERS.update({name: counted(write) for name, write in outputs._WRITERS.items()})
    outputs.move_into_place = counted(outputs.move_into_place)
    run(out, settings=EVERY)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_while_results_are_written(tmp_path: Path) -> None:
    """In every format, existing files are complete, and the resumed run produces the same files."""
    run(tmp_path / "whole", settings=EVERY)
    expected = everything(tmp_path / "whole")
    count = len(slide_formats()) + 1
    for step in (0, 3, count - 1, count, count + 1, 2 * count - 1):
        out = tmp_path / str(step)
        process = multiprocessing.get_context("fork").Process(target=dies_while_writing, args=(out, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        there = {name: content for name, content in everything(out).items() if not name.startswith("image_job")}
        assert there.items() <= expected.items()
        assert len({name.partition("/")[0] for name in there}) == max(0, step - count)
        run(out, settings=EVERY)
        assert everything(out) == expected


def test_tiles_that_are_there_are_not_segmented_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(tmp_path, keep_job=True)
    job = tmp_path / "image_job"
    tiles = sorted((job / "tiles").iterdir())
    times = {path: path.stat().st_mtime_ns for path in tiles}
    tiles[0].unlink()
    (job / "tiles" / ".half.npz.1.partial").write_bytes(b"half")
    again = run(tmp_path, keep_job=True)
    assert again.tiles == len(tiles) == 16
    redone = [path for path in tiles if path.stat().st_mtime_ns != times[path]]
    assert redone == tiles[:4], "those that share decoder calls with the missing tile"
    assert results(tmp_path) == expected
    assert not list(job.rglob("*.partial"))


def test_batches_in_threads_give_the_same_and_read_in_turn(tmp_path: Path, expected: dict[str, bytes]) -> None:
    class OneAtATime(ArrayReader):
        reading = 0

        def read(self, top: int, left: int, height: int, width: int) -> Any:
            self.reading += 1
            time.sleep(0.002)
            assert self.reading == 1, "a reader need not be thread-safe"
            part = super().read(top, left, height, width)
            self.reading -= 1
            return part

    run(tmp_path, OneAtATime(TRUTH > 0), batches_at_once=3)
    assert results(tmp_path) == expected


def test_a_damaged_tile_is_made_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(tmp_path, keep_job=True)
    damaged = tmp_path / "image_job" / "tiles" / "00001_00001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(JobError, match=r"00001_00001\.npz was damaged .* run again"):
        run(tmp_path)
    run(tmp_path)
    assert results(tmp_path) == expected


def test_a_job_is_not_gone_on_with_otherwise(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(tmp_path, keep_job=True)
    with pytest.raises(JobError, match=r"with other settings: config\.min_area_px is 7, was 0\. .*restart=True"):
        run(tmp_path, config=replace(AS_MADE, min_area_px=7))
    with pytest.raises(JobError, match=r"settings\.overlap_px is 45, was 44"):
        run(tmp_path, settings=replace(CUT, overlap_px=45))
    other = TRUTH > 0
    other[5, 5] = ~other[5, 5]
    with pytest.raises(JobError, match=r"slide\.pixels_sha256\.0-0 is"):
        run(tmp_path, ArrayReader(other))
    (tmp_path / "image_job" / "job.json").write_text("{")
    with pytest.raises(JobError, match=r"job\.json is damaged"):
        run(tmp_path)
    run(tmp_path, restart=True)
    assert results(tmp_path) == expected


def test_an_altered_description_is_refused(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Tiles that lie elsewhere would make another result."""
    run(tmp_path, keep_job=True)
    path = tmp_path / "image_job" / "job.json"
    content = json.loads(path.read_text())
    content["layout"]["grid"]["tops"][-1] -= 1
    path.write_text(json.dumps(content))
    with pytest.raises(JobError, match=r"job\.json is damaged \(it was altered\); pass restart=True"):
        run(tmp_path)
    run(tmp_path, restart=True)
    assert results(tmp_path) == expected


@pytest.mark.parametrize("kind", [b"\x09\x00", b"\x63\x00"])
def test_a_tile_of_another_compression_is_damaged(tmp_path: Path, kind: bytes) -> None:
    """zipfile raises NotImplementedError over it."""
    run(tmp_path, keep_job=True)
    damaged = tmp_path / "image_job" / "tiles" / "00001_00001.npz"
    content = damaged.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 10  # the method, in the directory's last entry
    damaged.write_bytes(content[:at] + kind + content[at + 2 :])
    with pytest.raises(JobError, match=r"00001_00001\.npz was damaged .* run again"):
        run(tmp_path)


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="exist; pass overwrite=True"):
        run(tmp_path)
    assert run(tmp_path, overwrite=True).cells


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "image_job"),
        pytest.raises(JobError, match="is in use by another process"),
        locked(tmp_path / "image_job"),
    ):
        pass
    assert run(tmp_path).cells, "unlocked again"


@dataclass
class TruncatedReader(ArrayReader):
    """Reader that fails ``times`` times for rows from ``broken`` on."""

    broken: int = 200
    times: float = float("inf")
    name: str = field(default="image", init=False)

    def __post_init__(self) -> None:
        ArrayReader.__init__(self, TRUTH > 0)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        if top <= self.broken < top + height and self.times > 0 and height < SIZE[0]:
            self.times -= 1
            raise InputError(f"image is truncated: row {self.broken} is missing.")
        return super().read(top, left, height, width)


def test_a_truncated_slide_is_reported_by_position(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with pytest.raises(JobError) as caught:
        run(tmp_path, TruncatedReader(broken=190))
    message = str(caught.value)
    assert "4 of 16 tiles failed" in message or "8 of 16 tiles failed" in message
    assert "tile at rows" in message
    assert "row 190 is missing" in message
    assert not results(tmp_path), "nothing unfinished appears as a result"
    kept = len(list((tmp_path / "image_job" / "tiles").glob("*.npz")))
    assert kept in (8, 12)

    partial = run(tmp_path, TruncatedReader(broken=190), partial=True)
    assert len(partial.failed) == 16 - kept
    assert partial.cells > 0
    labels = tifffile.imread(partial.labels)
    assert not labels[185:195].any()
    assert (tmp_path / "image_job").exists(), "a complete result is still possible"

    run(tmp_path)
    assert results(tmp_path) == expected


def test_a_tile_that_fails_now_and_then_is_tried_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(tmp_path, TruncatedReader(times=3))
    assert results(tmp_path) == expected


def test_a_full_disk_is_named_and_nothing_is_lost(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Job.write_tile.__globals__["write_whole"]
    written = iter(range(9))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fills(path: Path, write: Any) -> None:
        whole(path, write if next(written, None) is not None else full)

    with monkeypatch.context() as patch:
        patch.setattr("runtime.jobs.slides.jobs.write_whole", fills)
        with pytest.raises(JobError, match=r"disk of .* is full .* run the same command again"):
            run(tmp_path)
    assert len(list((tmp_path / "image_job" / "tiles").iterdir())) == 8
    with monkeypatch.context() as patch:
        patch.setitem(outputs._WRITERS, "csv", full)
        with pytest.raises(JobError, match=r"disk of .* is full"):
            run(tmp_path)
    assert not results(tmp_path)
    run(tmp_path)
    assert results(tmp_path) == expected


def test_a_black_slide_has_no_cells_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = run(tmp_path, ArrayReader(np.zeros((300, 300), np.uint16)), config=replace(AS_MADE, normalize=True))
    assert done.cells == 0
    assert done.skipped == done.tiles > 1
    assert not tifffile.imread(done.labels).any()
    assert "no cells in image: 9 of 9 tiles have no signal" in caplog.text


@pytest.mark.parametrize(
    ("shape", "message"), [((60, 60, 4), "has 4 channels"), ((0, 60), "at least one pixel"), ((4, 4, 4, 4), "shape")]
)
def test_slides_that_cannot_be_segmented(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, ArrayReader(np.zeros(shape, np.uint8)))


@pytest.mark.parametrize(
    "wrong", [{"tile_px": 3}, {"overlap_px": 90, "tile_px": 100}, {"min_contrast": 1.0}, {"formats": ("png",)}]
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).removesuffix("s")):
        SlideSettings(**wrong)


class ClaimingReader(ArrayReader):
    """Slide that declares a vast size, as a damaged or hostile header does."""

    def __init__(self) -> None:
        super().__init__(np.zeros((1, 1), np.uint8), "vast.zarr")

    @property
    def size_hw(self) -> tuple[int, int]:
        return 10**9, 10**9

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        return np.random.default_rng(top).integers(0, 2, (height, width, 1)).astype(np.uint8)


def test_a_slide_of_too_many_tiles_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"vast\.zarr has 1000000000 x 1000000000 pixels, which makes about [\d,]{17,} tiles of 128 pixels and a "
        r"label image of 4,000,000,000 GB; expected at most 1,000,000 tiles\. .*pass max_tiles=\d+",
    ):
        run(tmp_path, ClaimingReader())
    assert not list(tmp_path.iterdir()), "no lock either"


def test_the_bound_of_tiles_can_be_raised(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="expected at most 15 tiles") as refused:
        run(tmp_path, settings=replace(CUT, max_tiles=15))
    assert (refused.value.kind, refused.value.field) == ("too_large", "max_tiles")
    run(tmp_path, settings=replace(CUT, max_tiles=16))
    assert results(tmp_path) == expected


HOLD = """
import sys, time
from pathlib import Path
from runtime.jobs.slides.jobs import locked
with locked(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "begun").touch()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "job")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(JobError, match="in use by another process"), locked(tmp_path / "job"):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "job"):
        assert (tmp_path / "job" / "begun").exists()
        (tmp_path / "job" / "begun").unlink()
    assert not (tmp_path / "job").exists(), "nothing left to keep"
