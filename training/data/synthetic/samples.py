"""Synthetic images for training: tiles on the fly, and datasets on disk."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from training.data.errors import DataError
from training.data.format import Sample, write_index, write_summary, write_tile
from training.data.records import SPLITS, TileRecord, tile_stem
from training.data.synthetic.groups import group_of, make_image
from training.data.synthetic.registry import PREFIX, SYNTHETIC_GROUPS, SyntheticGroup
from training.data.tiles import TILE_PX, Tile, filter_labels, normalize_field

SOURCE = "made by cellsam-engine"
LICENCE = "CC0-1.0"

Progress = Callable[[str, int, int], None]
"""Callback with a group's name, the number of images done and their total."""


class MadeSamples:
    """Source of synthetic images, drawn from all groups.

    Args:
        weights: relative frequency of each group, by name; 1 if absent.

    Raises:
        ValueError: a group does not exist, or no weight is above 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if missing := sorted(weights.keys() - SYNTHETIC_GROUPS.keys()):
            raise ValueError(f"no group of made images is called {', '.join(missing)}; expected some of {_NAMES}.")
        drawn = np.array([weights.get(name, 1.0) for name in SYNTHETIC_GROUPS])
        if not drawn.any():
            raise ValueError("every group of made images has weight 0; expected one above 0.")
        self._names, self._cumulative = tuple(SYNTHETIC_GROUPS), np.cumsum(drawn / drawn.sum())

    def draw(self, rng: np.random.Generator) -> Sample:
        """Make a new image, which depends only on the state of ``rng``."""
        index = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        return made_sample(self._names[min(index, len(self._names) - 1)], int(rng.integers(2**62)))


_NAMES = ", ".join(SYNTHETIC_GROUPS)


def made_sample(group: str, seed: int) -> Sample:
    """Make an image in the form of a built dataset's sample; it depends only on the arguments.

    Raises:
        DataError: the group does not exist.
    """
    chosen = group_of(group)
    tile = _tile(chosen, seed)
    return Sample(tile.image, tile.labels, _record(chosen, f"seed{seed}", int(tile.labels.max())))


def numbered_seed(seed: int, number: int) -> int:
    """Return the seed of image ``number`` of a dataset with this seed; distinct for numbers below 2**32."""
    return seed << 32 | number


def write_datasets(
    out: Path,
    *,
    count: int,
    groups: Iterable[str] = (),
    seed: int = 0,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one dataset per group in the built format, as a training split, including images without cells.

    Equal arguments write equal bytes for any number of ``workers``.

    Args:
        out: directory of the datasets; each is written to a new directory below it.
        count: images per group.
        groups: names of groups; all if empty.
        seed: seed of the images.
        workers: number of processes that make images; 0 uses this process.
        progress: called for every image.

    Returns:
        The directories of the datasets.

    Raises:
        DataError: a group does not exist, ``count`` or ``seed`` is out of range, or a directory exists.
    """
    chosen = [group_of(name) for name in dict.fromkeys(groups)] or list(SYNTHETIC_GROUPS.values())
    if count < 1 or seed < 0:
        raise DataError(f"count is {count} and seed is {seed}; expected 1 or more, and 0 or more.")
    directories = [out / group.name for group in chosen]
    for directory in directories:
        if directory.exists():
            raise DataError(
                f"{directory} exists; expected a new directory. Remove it, or choose another directory with out=.",
                kind="exists",
                field="out",
            )
    tell = progress or (lambda *_: None)
    for group, directory in zip(chosen, directories, strict=True):
        records = []
        for record in _written(partial(_write, group, directory, seed), count, workers):
            records.append(record)
            tell(group.name, len(records), count)
        write_index(directory / "train", records)
        write_summary(directory, _summary(group, records, seed))
    return directories


def _written(write: Callable[[int], TileRecord], count: int, workers: int) -> Iterator[TileRecord]:
    if not workers:
        yield from map(write, range(count))
        return
    # Forked processes would inherit the locks of threads that do not exist in them.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, range(count), chunksize=4)


def _write(group: SyntheticGroup, directory: Path, seed: int, number: int) -> TileRecord:
    tile = _tile(group, numbered_seed(seed, number))
    record = _record(group, f"{number:06d}", int(tile.labels.max()))
    write_tile(directory / "train", record.tile_id, tile)
    return record


def _tile(group: SyntheticGroup, seed: int) -> Tile:
    made = make_image(group.name, seed, (TILE_PX, TILE_PX))
    return Tile(normalize_field(made.image), filter_labels(made.labels), 0, 0, TILE_PX, TILE_PX)


def _record(group: SyntheticGroup, image_id: str, objects: int) -> TileRecord:
    return TileRecord(
        tile_id=tile_stem(image_id),
        image_id=image_id,
        object_set=image_id,
        y0=0,
        x0=0,
        height=TILE_PX,
        width=TILE_PX,
        objects=objects,
        dataset=PREFIX + group.name,
        group=group.setting.kind,
    )


def _summary(group: SyntheticGroup, records: list[TileRecord], seed: int) -> dict[str, object]:
    counts = {"images": len(records), "tiles": len(records), "objects": sum(record.objects for record in records)}
    none = dict.fromkeys(counts, 0)
    return {
        "name": PREFIX + group.name,
        "group": group.setting.kind,
        "seed": seed,
        "source": SOURCE,
        "licence": LICENCE,
        "splits": {split: counts if split == "train" else none for split in SPLITS},
    }
