"""Build of a dataset: tiles of the common format from the files on disk; resumes, and reports skipped files.

It has three passes, each a pure function of the source: scan (content hashes, borders), assign splits, cut and write
tiles. A field with a current journal entry is not cut again. All output is deterministic, so a resumed build equals an
uninterrupted one byte for byte.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.files.placing import PARTIAL
from training.data.errors import DataError
from training.data.format import (
    COCO,
    INDEX,
    KINDS,
    SUMMARY,
    index_is_current,
    tile_is_written,
    write_index,
    write_summary,
    write_tile,
)
from training.data.journal import FieldEntry, Journal
from training.data.records import SPLITS, Field, Skipped, SourceDataset, Split, TileRecord, tile_stem
from training.data.scan import UNREADABLE, Progress, scan, skip
from training.data.splits import HELD_OUT, Assignment, assign_splits
from training.data.tiles import Tile, cut_field


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """Result of a build."""

    directory: Path
    name: str
    images: dict[Split, int]
    """Number of source images with at least one tile, by split."""
    tiles: dict[Split, int]
    objects: dict[Split, int]
    """Number of labels in all tiles; an object in the overlap of two tiles counts in both."""
    reused: int
    """Number of fields kept from an earlier, interrupted build."""
    skipped: tuple[Skipped, ...]


def build_dataset(
    dataset: SourceDataset,
    out: Path,
    *,
    seed: int = 0,
    held_out: Sequence[Split] = HELD_OUT,
    progress: Progress | None = None,
) -> BuildReport:
    """Build one dataset, or resume an interrupted build.

    A field that is already built is kept as long as its image and split stay the same. If labels have changed since,
    build into an empty directory.

    Args:
        dataset: the dataset that a builder found.
        out: output directory: empty, missing, or an earlier build of the same dataset and seed.
        seed: seed of the 80-10-10 draw, for datasets without published splits.
        held_out: splits that this draw makes besides train; ("val",) if test images come from elsewhere.
        progress: called for every field.

    Returns:
        Counts, and the source files that were skipped.

    Raises:
        DataError: the output directory contains something else, or no field could be used.
    """
    tell = progress or (lambda *_: None)
    settings: dict[str, Any] = {
        "name": dataset.name,
        "group": dataset.group,
        "seed": seed,
        "options": dict(dataset.options),
    }
    if tuple(held_out) != HELD_OUT:
        settings["held_out"] = list(held_out)
    with Journal(out, settings) as journal:
        _remove_partial(out)
        candidates, broken = scan(dataset.fields, tell)
        assignments = assign_splits(candidates, seed=seed, held_out=held_out)
        hashes = {item.image_id: item.image_hash for item in candidates}
        fields = sorted((f for f in dataset.fields if f.image_id in hashes), key=lambda f: f.image_id)
        todo = [f for f in fields if not _holds(journal, f, assignments[f.image_id], hashes[f.image_id], out)]
        if todo:
            _unfinish(out)
        for done, field in enumerate(todo):
            tell("cutting", done, len(todo), field.image_id)
            try:
                tiles = cut_field(field.read_channels(), field.read_labels(), field.scale)
            except UNREADABLE as error:
                broken[field.image_id] = skip(field, error)
                continue
            journal.add(_write(dataset, field, tiles, assignments[field.image_id], hashes[field.image_id], out))
        tell("cutting", len(todo), len(todo), "")
        skipped = (*dataset.skipped, *broken.values())
        kept = [f.image_id for f in fields if f.image_id not in broken]
        if not kept:
            raise DataError(_nothing_left(dataset, skipped))
        journal.finish(kept)
        entries = [journal.entries[image_id] for image_id in kept]
        report = _report(dataset, entries, skipped, out, reused=len(fields) - len(todo))
        _write_indices(entries, out, tell)
        write_summary(out, _summary(dataset, entries, report, settings))
    return report


def _holds(journal: Journal, field: Field, assignment: Assignment, image_hash: str, out: Path) -> bool:
    """Return whether the journal's entry for a field is current and its tiles are there."""
    entry = journal.entries.get(field.image_id)
    if entry is None or (entry.image_hash, entry.split) != (image_hash, assignment.split):
        return False
    if entry.object_set != assignment.object_set:
        return False
    return all(tile_is_written(out / entry.split, record.tile_id) for record in entry.tiles)


def _write(
    dataset: SourceDataset, field: Field, tiles: list[Tile], assignment: Assignment, image_hash: str, out: Path
) -> FieldEntry:
    records = []
    for tile in tiles:
        tile_id = f"{tile_stem(field.image_id)}_y{tile.y0:05d}_x{tile.x0:05d}"
        write_tile(out / assignment.split, tile_id, tile)
        records.append(
            TileRecord(
                tile_id=tile_id,
                image_id=field.image_id,
                object_set=assignment.object_set,
                y0=tile.y0,
                x0=tile.x0,
                height=tile.height,
                width=tile.width,
                objects=int(tile.labels.max()),
                dataset=dataset.name,
                group=dataset.group,
            )
        )
    return FieldEntry(
        image_id=field.image_id,
        image_hash=image_hash,
        split=assignment.split,
        object_set=assignment.object_set,
        tiles=tuple(records),
    )


def _remove_partial(out: Path) -> None:
    """Remove the temporary files of a killed build."""
    for path in out.rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _unfinish(out: Path) -> None:
    """Remove the files that mark a finished build, so that no index outlives its tiles."""
    (out / SUMMARY).unlink(missing_ok=True)
    for split in SPLITS:
        for name in (INDEX, COCO):
            (out / split / name).unlink(missing_ok=True)


def _write_indices(entries: list[FieldEntry], out: Path, tell: Progress) -> None:
    """Write missing indices of splits, and remove tiles that belong to no field."""
    for done, split in enumerate(SPLITS):
        tell("indexing", done, len(SPLITS), split)
        records = [record for entry in entries if entry.split == split for record in entry.tiles]
        claimed = {f"{record.tile_id}.npy" for record in records}
        for kind in KINDS:
            for path in (out / split / kind).glob("*.npy"):
                if path.name not in claimed:
                    path.unlink()
        if not index_is_current(out / split, records):
            write_index(out / split, records)
    tell("indexing", len(SPLITS), len(SPLITS), "")


def _summary(
    dataset: SourceDataset, entries: list[FieldEntry], report: BuildReport, settings: dict[str, Any]
) -> dict[str, Any]:
    counts = {"images": report.images, "tiles": report.tiles, "objects": report.objects}
    return {
        **settings,
        "source": dataset.citation,
        "licence": dataset.licence,
        "splits": {split: {name: values[split] for name, values in counts.items()} for split in SPLITS},
        "images_without_tiles": [entry.image_id for entry in entries if not entry.tiles],
        "duplicates": _duplicates(entries),
        "skipped": [{"file": item.file, "reason": item.reason} for item in report.skipped],
    }


def _duplicates(entries: list[FieldEntry]) -> list[list[str]]:
    """Return the image ids of equal images, as lists of two or more."""
    copies: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        copies[entry.image_hash].append(entry.image_id)
    return [image_ids for image_ids in copies.values() if len(image_ids) > 1]


def _report(
    dataset: SourceDataset, entries: list[FieldEntry], skipped: tuple[Skipped, ...], out: Path, *, reused: int
) -> BuildReport:
    images: Counter[Split] = Counter(entry.split for entry in entries if entry.tiles)
    tiles: Counter[Split] = Counter()
    objects: Counter[Split] = Counter()
    for entry in entries:
        tiles[entry.split] += len(entry.tiles)
        objects[entry.split] += sum(record.objects for record in entry.tiles)
    return BuildReport(
        directory=out,
        name=dataset.name,
        images={split: images[split] for split in SPLITS},
        tiles={split: tiles[split] for split in SPLITS},
        objects={split: objects[split] for split in SPLITS},
        reused=reused,
        skipped=tuple(sorted(set(skipped), key=lambda item: (item.file, item.reason))),
    )


def _nothing_left(dataset: SourceDataset, skipped: tuple[Skipped, ...]) -> str:
    first = f"; the first problem: {skipped[0].file}: {skipped[0].reason}" if skipped else ""
    return (
        f"{dataset.name}: none of {len(dataset.fields)} images could be used{first}. "
        "Check that the source is complete and readable."
    )
