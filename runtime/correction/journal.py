"""Journal of one image: every edit, undo, redo and mark in a file to which lines are only added.

A line is the CRC-32 of the rest in 8 hex digits, a space, and a JSON object. The first line describes the image; every
further one is an ``Entry``. A line is on the disk before an edit counts as made. If a process is killed while it
writes, the last line has no end and is cut off when the journal is opened. A damaged line anywhere else is an error.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from runtime.correction.engine_record import EngineRecord
from runtime.errors import ConfigError, SegmenterError
from runtime.files.placing import sync_directory
from runtime.types import Extent

SCHEMA = 1

Kind = Literal["edit", "undo", "redo", "mark"]
State = Literal["new", "segmented", "corrected", "done"]
"""State of an image: without labels, segmented by an engine, edited by a person, or finished."""

_log = logging.getLogger(__name__)
_Content = TypeVar("_Content")

_DIGITS = 8


def check_state(state: str) -> State:
    """Return a state.

    Raises:
        ConfigError: it is unknown.
    """
    for known in get_args(State):
        if state == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"state is {state!r}; expected one of {', '.join(get_args(State))}.", field="state")


class ProjectError(SegmenterError):
    """A project that cannot be opened, read or written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a journal."""

    revision: int
    """Number of the entry, one more than the one before."""
    kind: Kind
    operation: str = ""
    """Name of the edit, also for its undo and redo."""
    parameters: dict[str, Any] = field(default_factory=dict)
    author: str = ""
    time: str = ""
    """UTC, ISO 8601."""
    state: State = "new"
    """State of the image from this entry on."""
    cells: int = 0
    """Number of cells from this entry on."""
    engine: EngineRecord | None = None
    """The engine of a segmentation; None for other edits."""
    of: int | None = None
    """Revision of the edit that was undone or redone."""
    box: Extent = (0, 0, 0, 0)
    """Bounding box of the changed pixels."""
    data: bytes = b""
    """The changed pixels of an edit; see ``Difference.encode``. Entries in memory are without them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A point between two entries of a journal: that of a snapshot, or the one before the first entry."""

    revision: int = 0
    state: State = "new"
    engine: EngineRecord | None = None
    cells: int = 0
    crc32: int = 0
    """Checksum of the labels of a snapshot, little-endian int32 in row order."""
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """First line of a journal."""

    size_hw: tuple[int, int]
    base: Base = field(default_factory=Base)
    """The point before the first entry; a later one than revision 0 if an earlier journal was lost."""
    schema: int = SCHEMA


class Journal:
    """The journal of one image, open for appending; the file is created with the first entry."""

    def __init__(self, path: Path, size_hw: tuple[int, int], *, advice: str = "", read_only: bool = False) -> None:
        """Read and check all lines, and cut off a last one that is incomplete.

        Args:
            path: the file.
            size_hw: size of the image, pixels.
            advice: further advice in the error about a damaged file.
            read_only: leave an incomplete last line where it is.

        Raises:
            ProjectError: a line is damaged, the journal belongs to an image of another size, or a later version of this
                package wrote it.
        """
        self.path, self.size_hw, self._advice, self._read_only = path, size_hw, advice, read_only
        self.base = Base()
        """The point before the first entry; may be set until the first entry is added."""
        self.entries: list[Entry] = []
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self._file: FileIO | None = None
        for start, line in _lines(path):
            if not self._take(start, line):
                break
            self._end = start + len(line)
        self._cut()

    def append(self, entry: Entry) -> None:
        """Write an entry to the disk. If that fails, the journal stays as it was.

        Raises:
            OSError: the entry cannot be written, for example because the disk is full.
        """
        assert not self._read_only, "opened for reading"
        file = self._opened()
        header = b"" if self._end else _line(_Header(size_hw=self.size_hw, base=self.base))
        line = _line(entry)
        rest = memoryview(header + line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # Ctrl-C too
            with suppress(OSError):  # the incomplete line is then cut off when the journal is opened again
                file.truncate(self._end)
            self.close()
            raise
        self._places.append((self._end + len(header), len(line)))
        self._end += len(header) + len(line)
        self.entries.append(replace(entry, data=b""))

    def data(self, entry: Entry) -> bytes:
        """Read the changed pixels of an edit.

        Raises:
            ProjectError: the line has been damaged since the journal was opened.
        """
        start, length = self._places[entry.revision - self.base.revision - 1]
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(length)
        content = _content(line)
        if content is None:
            raise self._damage(start, "its checksum is wrong")
        return self._decoded(content, Entry, start).data

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def _take(self, start: int, line: bytes) -> bool:
        """Add a line to the entries; return False if it is the last one, and incomplete."""
        content = _content(line)
        if content is None:
            # Pages that never reached the disk contain zeros, even if the end of the line did.
            is_last = start + len(line) >= self.path.stat().st_size
            if is_last and (not line.endswith(b"\n") or b"\0" in line):
                return False
            raise self._damage(start, "its checksum is wrong")
        if not self._end:
            header = self._decoded(content, _Header, start)
            self._check_header(header)
            self.base = header.base
            return True
        entry = self._decoded(content, Entry, start)
        before = self.entries[-1].revision if self.entries else self.base.revision
        if entry.revision != before + 1:
            raise self._damage(start, f"it has revision {entry.revision} after {before}")
        self.entries.append(replace(entry, data=b""))
        self._places.append((start, len(line)))
        return True

    def _check_header(self, header: _Header) -> None:
        if header.schema != SCHEMA:
            raise ProjectError(
                f"{self.path} has schema {header.schema}; expected {SCHEMA}. Open the project with the version of "
                "cellsam-engine that wrote it.",
                kind="wrong_version",
            )
        if header.size_hw != self.size_hw:
            raise ProjectError(
                f"{self.path} has labels of {header.size_hw[0]} x {header.size_hw[1]} pixels; expected "
                f"{self.size_hw[0]} x {self.size_hw[1]}, the size of the image. Restore the journal of this image "
                "from a copy.",
                kind="mismatch",
            )

    def _decoded(self, content: bytes, kind: type[_Content], start: int) -> _Content:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise self._damage(start, f"{error}") from error

    def _damage(self, start: int, reason: str) -> ProjectError:
        line = len(self.entries) + 1 + bool(self._end)
        return ProjectError(
            f"{self.path} is damaged: line {line}, at byte {start}, cannot be read ({reason}); expected the line that "
            f"cellsam-engine wrote. Restore the file from a copy.{self._advice}",
            kind="damaged",
        )

    def _cut(self) -> None:
        """Cut off an incomplete last line."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._end or self._read_only:  # another process may be writing it
            return
        _log.warning(
            "%s: the last edit was not completely written (%d bytes) and is dropped; %d entries remain",
            self.path,
            size - self._end,
            len(self.entries),
        )
        with self.path.open("r+b") as file:
            file.truncate(self._end)
            os.fsync(file.fileno())

    def _opened(self) -> FileIO:
        if self._file is None:
            is_new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            if self.path.stat().st_size > self._end:  # an incomplete line that could not be cut off
                self._file.truncate(self._end)
            if is_new:
                sync_directory(self.path.parent)
        return self._file


def _line(content: object) -> bytes:
    """Encode a line with its checksum."""
    text = msgspec.json.encode(content)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> bytes | None:
    """Return the JSON of a line; None if the line is incomplete or its checksum is wrong."""
    text = line[_DIGITS + 1 : -1]
    return text if line == b"%08x %b\n" % (zlib.crc32(text), text) else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the start and the content of each line."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        start = 0
        for line in file:
            yield start, line
            start += len(line)
