"""Record of the images of an output directory: ``segmented.jsonl``, with one line for each step.

A line contains the settings of a run, or what made results (``Provenance``), or records that an image was begun, done
or failed; a "done" line also has the sizes of the result files. Lines of the first two kinds have a digest, to which
the lines of images refer. Runs only append lines. Readers skip a line that a killed run left incomplete.

If the last line of an image is "begun", its run was interrupted: its files may be in any state, and a run with the same
settings replaces them. A failed image keeps the files that it had before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from runtime.files.fingerprint import file_mark
from runtime.jobs.differences import differences
from runtime.jobs.failure import Failure
from runtime.jobs.folders.work import ImageDone, Target
from runtime.provenance import Provenance
from runtime.results import Appearance
from runtime.typed_json import convert

RECORD_NAME = "segmented.jsonl"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings on which results depend."""

    shared: Mapping[str, Any]
    """Settings of all images, ready for JSON."""
    slides: Mapping[str, Any]
    """Further settings of slides."""
    is_slide: Callable[[Path, tuple[int, int]], bool]
    """Predicate for whether an image of this size is segmented as a slide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line of the record; a line has some of the fields."""

    digest: str = ""
    """Digest of the settings, or of the provenance."""
    settings: dict[str, Any] | None = None
    provenance: Provenance | None = None
    """Origin of the results of this run; ``made_by`` of other lines refers to its digest."""
    image: str | None = None
    failed: str | None = None
    done: Annotated[int, Meta(ge=0)] | None = None
    """Number of cells."""
    of: dict[str, int] | None = None
    """Size and time of the image."""
    bytes: dict[str, int | None] = field(default_factory=dict)
    """Sizes of the result files in bytes, by ending."""
    size_hw: tuple[int, int] | None = None
    appearance: Appearance = field(default_factory=Appearance)
    made_by: tuple[str, ...] = ()
    """Digests of the provenance."""
    slide: dict[str, Any] | None = None
    failed_tiles: int = 0


class Records:
    """The record of one output directory, to which this run appends."""

    def __init__(self, out: Path, settings: Settings, endings: Sequence[str]) -> None:
        """Read the record, if there is one; write nothing yet.

        Args:
            out: the output directory.
            settings: the settings of this run.
            endings: endings of the result names.
        """
        self._out, self._endings, self._settings = out, tuple(endings), settings
        text = json.dumps(settings.shared, sort_keys=True)
        self._shared: dict[str, Any] = json.loads(text)
        self._slides: dict[str, Any] = json.loads(json.dumps(settings.slides))
        self._digest = _digest(text)
        self._of_digest: dict[str, Mapping[str, Any]] = {}
        self._made_by: dict[str, Provenance] = {}
        self._written: set[str] = set()
        self._done: dict[str, _Line] = {}
        self._begun: dict[str, _Line] = {}
        self._file: FileIO | None = None
        self._torn = False
        for line in _lines(out / RECORD_NAME):
            self._read(line)

    def _read(self, line: _Line) -> None:
        if line.settings is not None:
            self._of_digest[line.digest] = line.settings
        elif line.provenance is not None:
            self._made_by[line.digest] = line.provenance
        elif line.image is not None:
            self._begun.pop(line.image, None)
            if line.done is not None:
                self._done[line.image] = line
            elif line.failed is None:
                self._begun[line.image] = line

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def judge(self, target: Target, *, restart: bool, overwrite: bool) -> ImageDone | None:
        """Decide whether to segment an image.

        Args:
            target: the image and its results.
            restart: also segment finished images.
            overwrite: replace results that this run would not have made: those of other settings, of an image that has
                changed since, edited ones, and those of unknown origin.

        Returns:
            None if the image should be segmented; otherwise its earlier outcome, or a failure if its results must not
            be replaced.
        """
        there = {ending: _bytes(Path(f"{target[1]}{ending}")) for ending in self._endings}
        existing = {ending: size for ending, size in there.items() if size is not None}
        if not existing:
            return None
        done, begun = self._done.get(self._key(target)), self._begun.get(self._key(target))
        if begun is not None:
            wrong = self._other_settings(begun)
        elif done is None:
            wrong = "is not in the record of its directory, but has results: "
            wrong += " and ".join(f"{target[1]}{ending}" for ending in existing)
        else:
            wrong = self._wrong(target, done, existing)
            if wrong is None and len(existing) == len(there) and not restart and not done.failed_tiles:
                return self._already(target, done)
        if wrong is None or overwrite:
            return None
        message = f"{wrong}; pass overwrite=True to replace them"
        return ImageDone(target=target, failure=Failure(message, "exists", "overwrite"))

    def begin(self, target: Target) -> None:
        """Record that the results of an image may be in any state from now on."""
        self._add({"image": self._key(target), "digest": self._digest})

    def finish(self, done: ImageDone) -> None:
        """Record that all results of an image are in place, or that it failed."""
        line: dict[str, Any] = {"image": self._key(done.target), "digest": self._digest}
        if done.failure is not None:
            self._add({**line, "failed": str(done.failure)})
            return
        sizes = {ending: _bytes(Path(f"{done.target[1]}{ending}")) for ending in self._endings}
        line |= {"done": done.cells, "of": file_mark(done.target[0]), "bytes": sizes, "size_hw": done.size_hw}
        line |= {"appearance": asdict(done.appearance), "made_by": [self._add_provenance(p) for p in done.provenance]}
        if done.slide is not None:
            line |= {"slide": dict(done.slide.settings), "failed_tiles": len(done.slide.failed)}
        self._add(line)

    def _wrong(self, target: Target, done: _Line, existing: Mapping[str, int]) -> str | None:
        """Return why results differ from those that this run would make, or None."""
        altered = [f"{target[1]}{ending}" for ending, size in existing.items() if done.bytes.get(ending) != size]
        other = self._other_settings(done) or self._other_slide(target, done)
        if other is not None:
            return other
        # A slide with failed tiles may have been repaired; its job compares the pixels.
        if done.of != file_mark(target[0]) and not done.failed_tiles:
            return "has changed since it was segmented, and has results"
        return f"has results that were altered after they were written, {' and '.join(altered)}" if altered else None

    def _other_settings(self, line: _Line) -> str | None:
        if line.digest == self._digest:
            return None
        return _differing(self._shared, self._of_digest.get(line.digest, {}))

    def _other_slide(self, target: Target, done: _Line) -> str | None:
        """Return how an image was tiled differently, or None."""
        before, size_hw = done.slide, done.size_hw
        now = self._slides if size_hw and self._settings.is_slide(target[0], size_hw) else None
        if not size_hw or now == before:
            return None
        if now is None or before is None:
            return f"was segmented {'whole' if before is None else 'as a slide'}, and has results"
        return _differing({"slide": now}, {"slide": before})

    def _already(self, target: Target, done: _Line) -> ImageDone:
        """Return the outcome of an image that an earlier run finished."""
        return ImageDone(
            target=target,
            cells=done.done or 0,
            already=True,
            size_hw=done.size_hw,
            appearance=done.appearance,
            provenance=tuple(self._made_by[digest] for digest in done.made_by if digest in self._made_by),
        )

    def _add_provenance(self, provenance: Provenance) -> str:
        """Write what made results, unless this run has written it, and return its digest."""
        text = json.dumps(asdict(provenance), sort_keys=True)
        digest = _digest(text)
        if digest not in self._written:
            self._add({"digest": digest, "provenance": json.loads(text)})
            self._written.add(digest)
        return digest

    def _key(self, target: Target) -> str:
        return target[1].relative_to(self._out).as_posix()

    def _add(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            path = self._out / RECORD_NAME
            self._torn = path.exists() and not path.read_bytes().endswith(b"\n")
            self._file = path.open("ab", buffering=0)
            self._write({"schema": SCHEMA, "digest": self._digest, "settings": self._shared})
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append a line. After a failed write, the next line begins with a line break.

        Raises:
            OSError: the line was not written, or not completely.
        """
        assert self._file is not None, "opened by _add"
        data = (("\n" if self._torn else "") + json.dumps(line) + "\n").encode()
        self._torn = True
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._out / RECORD_NAME))
        self._torn = False


def _differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    named = [f"{name} is {asked!r}, was {begun!r}" for name, asked, begun in differences(now, before)]
    return f"has results from other settings ({'; '.join(named)})"


def _lines(path: Path) -> Iterator[_Line]:
    """Yield the lines of a record; skip lines of another form."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    yield from filter(None, map(_line, text.splitlines()))


def _line(text: str) -> _Line | None:
    try:
        return convert(json.loads(text), _Line)
    except (ValueError, RecursionError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bytes(path: Path) -> int | None:
    """Return the size of a file, or of all files of a directory; None if neither exists."""
    mark = file_mark(path)
    return None if mark is None else mark["bytes"]
