"""Writer and reader of built datasets on disk.

- ``DIR/dataset.json``: summary; written last, so it marks a finished build
- ``DIR/<split>/images/<tile id>.npy``: (3, 512, 512) float32 in [0, 1]: blank, nuclear, whole-cell
- ``DIR/<split>/labels/<tile id>.npy``: (512, 512) int32, 0 background, 1..n
- ``DIR/<split>/tiles.jsonl``: one ``TileRecord`` per line
- ``DIR/<split>/coco.json``: the labels as COCO
- ``DIR/build.jsonl``: journal of the build (``training.data.journal``)

Source of the format: CellSAM (Israel et al. 2023), Appendix A.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.placing import write_whole
from runtime.typed_json import convert
from runtime.types import F32, I32
from training.data.coco_format import write_coco
from training.data.errors import DataError
from training.data.records import GROUPS, SPLITS, Split, TileRecord
from training.data.tiles import TILE_PX, Tile

SCHEMA = 1
SUMMARY = "dataset.json"
INDEX = "tiles.jsonl"
COCO = "coco.json"
KINDS = ("images", "labels")


@dataclass(frozen=True, slots=True)
class Sample:
    """One tile in memory."""

    image: F32
    """(3, 512, 512) in [0, 1], read lazily from the file. Writing changes only the copy in memory."""
    labels: I32
    """(512, 512), 0 background, 1..n."""
    record: TileRecord


@dataclass(frozen=True, slots=True)
class TileSet:
    """Tiles of one split of one or several datasets, in a fixed order: a map-style dataset for a loader."""

    records: tuple[TileRecord, ...]
    roots: tuple[Path, ...]
    """Split directory of each record."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Read one tile.

        Raises:
            IndexError: the index is out of range.
            DataError: a file of the tile is missing or damaged.
        """
        record, root = self.records[index], self.roots[index]
        image = read_array(tile_path(root, "images", record.tile_id), (3, TILE_PX, TILE_PX), np.float32)
        labels = read_array(tile_path(root, "labels", record.tile_id), (TILE_PX, TILE_PX), np.int32)
        return Sample(image, labels, record)


def read_split(root: str | Path, split: Split) -> TileSet:
    """Open one split of a built dataset, or of every built dataset directly below a directory.

    Args:
        root: a directory with a ``dataset.json``, or the parent of such directories.
        split: 'train', 'val' or 'test'; a dataset without this split adds no tiles.

    Raises:
        DataError: there is no finished build, its schema differs, or an index is damaged.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.", kind="out_of_range", field="split")
    records: list[TileRecord] = []
    roots: list[Path] = []
    for directory in dataset_directories(Path(root)):
        read_summary(directory)
        index = directory / split / INDEX
        found = _read_index(index) if index.is_file() else []
        records += found
        roots += [directory / split] * len(found)
    return TileSet(tuple(records), tuple(roots))


def dataset_directories(root: Path) -> list[Path]:
    """Return the built datasets at or directly below a directory, sorted.

    Raises:
        DataError: there is none.
    """
    if (root / SUMMARY).is_file():
        return [root]
    children = sorted(path.parent for path in root.glob(f"*/{SUMMARY}"))
    if not children:
        raise DataError(
            f"{root} contains no finished build (no {SUMMARY}); expected the output of 'data build'. "
            "Run the build, or repeat it if it was interrupted.",
            kind="not_found",
        )
    return children


def read_summary(directory: Path) -> dict[str, Any]:
    """Read ``dataset.json``.

    Raises:
        DataError: the file is damaged, or has another schema or an unknown group.
    """
    path = directory / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        schema, group = summary["schema"], summary["group"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}); expected an object with 'schema'. Build it again.", kind="damaged"
        ) from error
    if schema != SCHEMA:
        raise DataError(
            f"{path} has schema {schema}; this version reads {SCHEMA}. Build the dataset again.", kind="wrong_version"
        )
    if group not in GROUPS:
        raise DataError(
            f"{path} has group {group!r}; expected one of {', '.join(GROUPS)}. Build the dataset again.", kind="damaged"
        )
    out: dict[str, Any] = summary
    return out


def tile_path(split_directory: Path, kind: str, tile_id: str) -> Path:
    """Return the path of a tile's array; ``kind`` is 'images' or 'labels'."""
    return split_directory / kind / f"{tile_id}.npy"


def write_tile(split_directory: Path, tile_id: str, tile: Tile) -> None:
    """Write both arrays of a tile; each file appears only when it is complete."""
    for kind, array in zip(KINDS, (tile.image, tile.labels), strict=True):
        path = tile_path(split_directory, kind, tile_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(_save, array))


def tile_is_written(split_directory: Path, tile_id: str) -> bool:
    """Return whether both files of a tile exist with their full length."""
    least = {"images": 3 * TILE_PX**2 * 4, "labels": TILE_PX**2 * 4}
    paths = {kind: tile_path(split_directory, kind, tile_id) for kind in KINDS}
    return all(path.is_file() and path.stat().st_size > least[kind] for kind, path in paths.items())


def write_index(split_directory: Path, records: Sequence[TileRecord]) -> None:
    """Write ``tiles.jsonl`` and ``coco.json`` of a split after its tiles."""
    split_directory.mkdir(parents=True, exist_ok=True)
    text = _index_text(records)

    def labels(tile_id: str) -> I32:
        return read_array(tile_path(split_directory, "labels", tile_id), (TILE_PX, TILE_PX), np.int32)

    write_whole(split_directory / COCO, lambda path: write_coco(path, records, labels, size_px=TILE_PX))
    write_whole(split_directory / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def index_is_current(split_directory: Path, records: Sequence[TileRecord]) -> bool:
    """Return whether both index files exist and list exactly these tiles."""
    index = split_directory / INDEX
    if not (index.is_file() and (split_directory / COCO).is_file()):
        return False
    return index.read_text(encoding="utf-8") == _index_text(records)


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write ``dataset.json``."""
    text = json.dumps({"schema": SCHEMA, **summary}, indent=2, ensure_ascii=False) + "\n"
    write_whole(directory / SUMMARY, lambda path: path.write_text(text, encoding="utf-8"))


def read_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Map an npy file copy-on-write, and check its shape and dtype.

    Raises:
        DataError: the file is missing or damaged, or has another shape or dtype.
    """
    try:
        array = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); build the dataset again.", kind="unreadable") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} contains {array.shape} {array.dtype}; expected {shape} {np.dtype(dtype)}. "
            "Build the dataset again.",
            kind="damaged",
        )
    return array


def _save(array: NDArray[Any], path: Path) -> None:
    with path.open("wb") as file:  # given a path, numpy would append '.npy'
        np.save(file, array, allow_pickle=False)


def _index_text(records: Sequence[TileRecord]) -> str:
    return "".join(json.dumps(asdict(record), separators=(",", ":")) + "\n" for record in records)


def _read_index(path: Path) -> list[TileRecord]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [convert(json.loads(line), TileRecord) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); build the dataset again.", kind="damaged") from error
