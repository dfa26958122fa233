"""What is known of the images of an output directory: ``segmented.jsonl``, one line for each step.

A line says which settings a run has, that an image is begun, or that it is done, with the sizes of its files. The last
line of an image counts. Lines are only added; one that a kill cut short is passed over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from runtime.jobs.differences import differences
from runtime.jobs.folders.work import ImageDone, Target

RECORD_NAME = "segmented.jsonl"
SCHEMA = 1


class Records:
    """The record of one output directory, and what this run adds to it."""

    def __init__(self, out: Path, settings: Mapping[str, Any], endings: Sequence[str]) -> None:
        """Read what is there; nothing is written yet.

        Args:
            out: the output directory.
            settings: all that results depend on but the image, as JSON takes it.
            endings: how the names of the results end.
        """
        self._out, self._endings = out, tuple(endings)
        text = json.dumps(settings, sort_keys=True)
        self._settings: dict[str, Any] = json.loads(text)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._of_digest: dict[str, dict[str, Any]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._file: FileIO | None = None
        self._torn = False
        for line in _lines(out / RECORD_NAME):
            if "settings" in line:
                self._of_digest[str(line.get("digest"))] = line["settings"]
            elif "image" in line:
                self._last[str(line["image"])] = line

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def judge(self, target: Target, *, resume: bool, overwrite: bool) -> ImageDone | None:
        """An image that is done, or whose results may not be replaced; None for one to be segmented.

        Args:
            target: the image and its results.
            resume: pass over what is done; do again what an earlier run began and did not finish.
            overwrite: replace results that exist.
        """
        last = self._last.get(self._key(target))
        there = {ending: _bytes(Path(f"{target[1]}{ending}")) for ending in self._endings}
        existing = {ending: size for ending, size in there.items() if size is not None}
        if resume and last is not None and "done" in last:
            wrong = self._wrong(target, last, existing)
            if not wrong and len(existing) == len(there):
                return ImageDone(target=target, cells=last["done"], already=True)
            if wrong and existing and not overwrite:
                return ImageDone(target=target, failure=f"{wrong}; pass --overwrite to replace its results")
            return None
        if not existing or overwrite or (resume and last is not None):
            return None
        names = " and ".join(f"{target[1]}{ending}" for ending in existing)
        advice = "" if resume else "; --resume passes over images that are done"
        return ImageDone(target=target, failure=f"{names} exist; pass --overwrite to replace them{advice}.")

    def begin(self, target: Target) -> None:
        """Note that the results of an image may be in any state from now on."""
        self._add({"image": self._key(target), "digest": self._digest})

    def finish(self, done: ImageDone) -> None:
        """Note that all results of an image are in place."""
        sizes = {ending: _bytes(Path(f"{done.target[1]}{ending}")) for ending in self._endings}
        of = {"image": self._key(done.target), "digest": self._digest, "done": done.cells}
        self._add({**of, "of": _mark(done.target[0]), "bytes": sizes})

    def _wrong(self, target: Target, last: Mapping[str, Any], existing: Mapping[str, int]) -> str | None:
        """Why results are not those that this run would make."""
        if last.get("digest") != self._digest:
            begun = self._of_digest.get(str(last.get("digest")), {})
            named = [f"{name} is {now!r}, was {was!r}" for name, now, was in differences(self._settings, begun)]
            return f"was segmented otherwise ({'; '.join(named)})"
        if last.get("of") != _mark(target[0]):
            return "has changed since it was segmented"
        written = last.get("bytes") or {}
        altered = [f"{target[1]}{ending}" for ending, size in existing.items() if written.get(ending) != size]
        return f"has results that are not as they were written, {' and '.join(altered)}" if altered else None

    def _key(self, target: Target) -> str:
        return target[1].relative_to(self._out).as_posix()

    def _add(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            path = self._out / RECORD_NAME
            self._torn = path.exists() and not path.read_bytes().endswith(b"\n")
            self._file = path.open("ab", buffering=0)
            self._write({"schema": SCHEMA, "digest": self._digest, "settings": self._settings})
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        """Raises:
        OSError: the line is not there, or not whole; the next one begins on a line of its own.
        """
        assert self._file is not None, "opened by _add"
        data = (("\n" if self._torn else "") + json.dumps(line) + "\n").encode()
        self._torn = True
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._out / RECORD_NAME))
        self._torn = False


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content


def _bytes(path: Path) -> int | None:
    """Of a file, or of all files of a directory; None where there is neither."""
    mark = _mark(path)
    return None if mark is None else mark["bytes"]


def _mark(path: Path) -> dict[str, int] | None:
    """Size and time of the last change of a file, or of what is in a directory; None where there is neither."""
    if not path.exists():
        return None
    files = [path]
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    stats = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in stats), "mtime_ns": max((s.st_mtime_ns for s in stats), default=0)}
