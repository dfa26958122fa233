"""Directory of a job: its description, and the results of its tiles, each written atomically."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig
from runtime.errors import InputError, JobError, kind_of
from runtime.files.locks import lock_file
from runtime.files.placing import PARTIAL, write_whole
from runtime.files.readers import ImageReader
from runtime.jobs.differences import differences
from runtime.jobs.slides.contrast import PART_PX, read_extent
from runtime.jobs.slides.layout import SlideLayout
from runtime.jobs.slides.settings import SlideSettings
from runtime.provenance import Provenance, distinct, to_json
from runtime.typed_json import convert
from runtime.types import Extent
from runtime.views.merge_rules import TileCells

SCHEMA = 5
JOB_ENDING = "_job"
"""Ending of a job directory's name, after the name of the slide."""

JOB_NAME = "job.json"
ENGINES = "engines"
"""Subdirectory with a record for each kind of engines, devices and versions that made tiles."""
LOCK_NAME = "lock"
PIXELS = "pixels_sha256"
DIGEST = "sha256"
"""In ``job.json``: of all the rest."""

CHECKED_PER_AXIS = 4
"""Number of parts along each axis whose pixels identify a slide."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job in progress."""

    directory: Path
    layout: SlideLayout

    @property
    def stitching(self) -> Path:
        """Directory for data of the second pass; every run starts with an empty one."""
        return self.directory / "stitching"

    @property
    def results(self) -> Path:
        """Directory of the results until all are written."""
        return self.directory / "results"

    def tile_path(self, place: int) -> Path:
        """Return the path of a tile's result."""
        row, column = divmod(place, len(self.layout.grid.lefts))
        return self.directory / "tiles" / f"{row:05d}_{column:05d}.npz"

    def finished(self, place: int) -> bool:
        """Return whether the result of a tile exists."""
        return self.tile_path(place).is_file()

    def write_tile(self, place: int, cells: TileCells) -> None:
        """Write the result of a tile atomically.

        Raises:
            JobError: the disk is full.
        """
        count = len(cells.scores)
        labels = cells.labels.astype(np.min_scalar_type(count)) if count else np.zeros((0, 0), np.uint8)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file, labels=labels, boxes=cells.boxes, scores=cells.scores, iou_predictions=cells.iou_predictions
                )

        with disk_full_named(self.directory):
            write_whole(self.tile_path(place), write)

    def read_tile(self, place: int) -> TileCells:
        """Read the result of a tile.

        Raises:
            JobError: the file is damaged. It is removed, so that the next run writes it again.
        """
        path, extent = self.tile_path(place), self.layout.extent(place)
        size = (extent[2] - extent[0], extent[3] - extent[1])
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {name: _array(archive, name) for name in ("labels", "boxes", "scores", "iou_predictions")}
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise kinds of their own for damaged files
            path.unlink(missing_ok=True)
            raise JobError(
                f"{path} was damaged ({error}) and has been removed; run again to recreate it.", kind="damaged"
            ) from error
        if not arrays["labels"].size:
            arrays["labels"] = np.zeros(size, np.uint8)
        return TileCells(extent=extent, **arrays)

    def record_engines(self, provenance: Provenance | None) -> None:
        """Record what made some tiles, before they are written; each record is written once.

        Raises:
            JobError: the disk is full.
        """
        if provenance is None:
            return
        text = to_json([provenance])
        path = self.directory / ENGINES / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if path.exists():
            return
        with disk_full_named(self.directory):
            path.parent.mkdir(exist_ok=True)
            write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    def provenance(self) -> tuple[Provenance, ...]:
        """Return the records of what made the tiles, each once, in an order that depends only on their content.

        Raises:
            JobError: a record is damaged.
        """
        paths = (self.directory / ENGINES).glob("*.json")
        return distinct(one for path in paths for one in _read_engines(path))

    def remove_scratch(self) -> None:
        """Delete the data of the second pass."""
        for directory in (self.stitching, self.results):
            shutil.rmtree(directory, ignore_errors=True)

    def remove(self) -> None:
        """Delete the directory of the job."""
        self.remove_scratch()
        # The description goes last, so that an interrupted removal leaves a valid job.
        shutil.rmtree(self.directory / "tiles", ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def _read_engines(path: Path) -> list[Provenance]:
    """Read what ``Job.record_engines`` wrote.

    Raises:
        JobError: the file is damaged.
    """
    try:
        return convert(json.loads(path.read_text(encoding="utf-8")), list[Provenance])
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path} is damaged ({error}); pass restart=True to start again.", kind="damaged") from error


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of an npz file, whose checksum is compared before anything of its size is allocated."""
    found: NDArray[Any] = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return found


@dataclass(frozen=True, slots=True)
class _Begun:
    """Content of ``job.json``, the description of a job."""

    request: dict[str, Any]
    layout: SlideLayout


def fingerprint(reader: ImageReader) -> dict[str, Any]:
    """Return what identifies a slide: its description, and checksums of parts spread over it."""
    tops, lefts = (
        np.linspace(0, max(0, length - PART_PX), CHECKED_PER_AXIS).astype(int).tolist() for length in reader.size_hw
    )
    height, width = reader.size_hw
    corners = [(top, left) for top in tops for left in lefts]
    extents = [(top, left, min(top + PART_PX, height), min(left + PART_PX, width)) for top, left in corners]
    return {
        "name": Path(reader.name).name,
        "size_hw": list(reader.size_hw),
        "dtype": str(reader.dtype),
        "channels": list(reader.channels),
        PIXELS: {f"{extent[0]}-{extent[1]}": _checksum(reader, extent) for extent in extents},
    }


def _checksum(reader: ImageReader, extent: Extent) -> str | None:
    """Return the checksum of a part; None if it cannot be read, since the job will report its tile."""
    try:
        part = np.ascontiguousarray(read_extent(reader, extent))
    except InputError:
        return None
    return hashlib.sha256(part.tobytes()).hexdigest()


def request_of(
    reader: ImageReader, identity: Mapping[str, str], config: SegmentConfig, settings: SlideSettings
) -> dict[str, Any]:
    """Return everything that the result of a job depends on, as read back from JSON."""
    request = {
        "slide": fingerprint(reader),
        "engines": dict(identity),
        "config": asdict(config),
        "settings": settings.of_tiles(),
    }
    back: dict[str, Any] = json.loads(json.dumps(request))
    return back


def existing_job(directory: Path, request: Mapping[str, Any]) -> Job | None:
    """Return the job in a directory, if there is one.

    Raises:
        JobError: the job has other settings, is damaged, or was written by another version; the message names the
            differences.
    """
    path = directory / JOB_NAME
    try:
        content = convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Any])
        schema = content.get("schema")
        if schema != SCHEMA:
            raise JobError(
                f"{path} has schema {schema!r}; this version reads {SCHEMA}. Pass restart=True to start again.",
                kind="wrong_version",
            )
        if content.pop(DIGEST, None) != _digest(content):
            raise ValueError("it was altered")
        begun = convert(content, _Begun)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path} is damaged ({error}); pass restart=True to start again.", kind="damaged") from error
    differ = {
        name: f"{name} is {asked!r}, was {earlier!r}"
        for name, asked, earlier in differences(request, begun.request)
        # A part that could not be read earlier may have been repaired.
        if not (f".{PIXELS}." in name and None in (earlier, asked))
    }
    if differ:
        raise JobError(
            f"{directory} contains an interrupted job with other settings: {'; '.join(differ.values())}. Give its "
            "settings to resume it, choose another directory with out=, or pass restart=True to start again.",
            kind="mismatch",
            field=next(iter(differ)),
        )
    return Job(directory, begun.layout)


def _digest(content: Mapping[str, Any]) -> str:
    """Hex sha256 of what a job is about."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def begin_job(directory: Path, request: Mapping[str, Any], layout: SlideLayout) -> Job:
    """Write the description of a new job.

    Raises:
        JobError: the disk is full.
    """
    with disk_full_named(directory):
        for earlier in ("tiles", ENGINES):
            shutil.rmtree(directory / earlier, ignore_errors=True)
        (directory / "tiles").mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps({"schema": SCHEMA, "request": request, "layout": asdict(layout)}))
        text = json.dumps({**content, DIGEST: _digest(content)}, indent=1) + "\n"
        write_whole(directory / JOB_NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Job(directory, layout)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a job for this process. The system releases the lock when the process ends, in any way.

    Raises:
        JobError: another process holds the lock.
    """
    with _locked_file(directory):
        for leftover in directory.rglob(f".*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        try:
            yield
        finally:
            _remove_empty(directory)


def _locked_file(directory: Path) -> IO[bytes]:
    """Open and lock the lock file of a directory, which is created if necessary."""
    path = directory / LOCK_NAME
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        try:
            lock_file(file)
        except OSError as error:
            file.close()
            raise JobError(
                f"{directory} is in use by another process; wait for it to end, or choose another directory with out=.",
                kind="busy",
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the process that held the lock has removed the file


def _remove_empty(directory: Path) -> None:
    """Delete a directory that contains only the lock, left by a job that did not begin."""
    with suppress(OSError):  # Windows does not delete open files
        if [path.name for path in directory.iterdir()] == [LOCK_NAME]:
            (directory / LOCK_NAME).unlink()
            directory.rmdir()


@contextmanager
def disk_full_named(directory: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that explains how to resume.

    Raises:
        JobError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if kind_of(error) != "disk_full":
            raise
        raise JobError(
            f"the disk of {directory} is full ({error.strerror}); finished results are kept. Free space, then run the "
            "same command again to resume.",
            kind="disk_full",
        ) from error
