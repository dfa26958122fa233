"""Journal of a build: the finished fields, from which an interrupted build resumes.

``build.jsonl`` has the settings in its first line, then one line per finished field. A line is added only after the
tiles of its field are in place. A line that a crash truncated is dropped. A finished build rewrites the journal in
field order, so a resumed build equals an uninterrupted one byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from runtime.files.placing import write_whole
from runtime.typed_json import convert
from training.data.errors import DataError
from training.data.records import Split, TileRecord

JOURNAL = "build.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldEntry:
    """One finished field."""

    image_id: str
    image_hash: str
    split: Split
    object_set: str
    tiles: tuple[TileRecord, ...]


class Journal:
    """Journal of one output directory, open for appending; a context manager.

    Args:
        directory: the output directory; created if it is missing.
        settings: settings of the build; a journal with other settings raises an error.

    Raises:
        DataError: the directory contains something else, or a build with other settings.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self._path = directory / JOURNAL
        self._settings = settings
        self._file: TextIO | None = None
        directory.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            # A build that is killed at its start leaves a temporary journal.
            others = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
            if others:
                raise DataError(
                    f"{directory} contains {others[0]} but no {JOURNAL}; expected an empty directory or an earlier "
                    "build. Choose another directory with out=.",
                    kind="exists",
                    field="out",
                )
            self._rewrite([])
        self.entries = self._read()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; adding an entry opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, entry: FieldEntry) -> None:
        """Add a finished field and flush it to the file."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(_line(asdict(entry)))
        self._file.flush()
        self.entries[entry.image_id] = entry

    def finish(self, image_ids: Iterable[str]) -> None:
        """Rewrite the journal with the entries of these fields, in this order."""
        self.close()
        self.entries = {image_id: self.entries[image_id] for image_id in image_ids}
        self._rewrite(self.entries.values())

    def _rewrite(self, entries: Iterable[FieldEntry]) -> None:
        text = _line(self._settings) + "".join(_line(asdict(entry)) for entry in entries)
        write_whole(self._path, lambda path: path.write_text(text, encoding="utf-8"))

    def _read(self) -> dict[str, FieldEntry]:
        text = self._path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if not text.endswith("\n"):
            del lines[-1:]
        try:
            settings, *rest = [convert(json.loads(line), dict[str, Any]) for line in lines]
            entries = [convert(values, FieldEntry) for values in rest]
        except ValueError as error:
            raise DataError(
                f"{self._path} is damaged ({error}); delete {self._path.parent} and build again.", kind="damaged"
            ) from error
        different = {
            key for key in settings.keys() | self._settings.keys() if settings.get(key) != self._settings.get(key)
        }
        if different:
            key = min(different)
            raise DataError(
                f"{self._path.parent} contains a build with {key} = {settings.get(key)!r}; expected "
                f"{self._settings.get(key)!r}. Choose another directory with out=, or use the "
                "earlier settings.",
                kind="mismatch",
                field=key,
            )
        if not text.endswith("\n"):
            write_whole(self._path, lambda path: path.write_text("".join(f"{s}\n" for s in lines), encoding="utf-8"))
        return {entry.image_id: entry for entry in entries}


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"
