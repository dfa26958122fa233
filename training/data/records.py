"""What builders hand to the driver, and what the driver writes about every tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from training.data.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Group = Literal["Tissue", "Cell Culture", "Bacteria", "Yeast", "Nuclear"]
"""The data types of the evaluation. Source: CellSAM (Israel et al. 2023), section 2.1."""
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One source image with its labels, not yet read."""

    image_id: str
    """Unique in its dataset; a relative path without extension, parts joined with '/'."""
    file: str
    """The file to name in messages, relative to the source directory."""
    read_channels: Callable[[], NDArray[Any]]
    """(H, W): the only channel, whole-cell or nuclear alone; (H, W, 2): nuclear, whole-cell; (H, W, 3) as is."""
    read_labels: Callable[[], NDArray[Any]]
    """(H, W) integers, 0 background, one id per object."""
    split: Split | None = None
    """The published split; None where the dataset has none."""
    object_set: str | None = None
    """Fields that show the same objects share it. None: not known, neighbours are found by their borders."""
    scale: float = 1.0
    """Factor of size before the contrast step: bicubic for channels, nearest for labels."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source file that cannot be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SourceDataset:
    """One dataset as found on the user's disk."""

    name: str
    group: Group
    citation: str
    licence: str | None
    fields: tuple[Field, ...]
    skipped: tuple[Skipped, ...] = ()
    subdirectory: str = ""
    """Where it goes below the output directory; empty where the source holds one dataset."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Choices of the user that change the result; a build with other ones is not resumed."""

    def __post_init__(self) -> None:
        seen: dict[str, Field] = {}
        for item in self.fields:
            stem = tile_stem(item.image_id)
            if stem in seen:
                raise DataError(
                    f"{item.file} and {seen[stem].file} would both write tiles {stem}_*; expected distinct names. "
                    "Rename one of them.",
                    kind="conflict",
                )
            seen[stem] = item


@dataclass(frozen=True, kw_only=True, slots=True)
class TileRecord:
    """One written tile: where it came from. Stored as a line of ``tiles.jsonl``."""

    tile_id: str
    """File stem of the tile's image and labels."""
    image_id: str
    """Source image, unique in its dataset."""
    object_set: str
    """Source images that show the same objects share it."""
    y0: int
    x0: int
    """Upper left corner in the source image (after rescaling), pixels."""
    height: int
    width: int
    """Pixels that are image; the rest of the tile is zero padding."""
    objects: int
    """Number of labels."""
    dataset: str
    group: Group


def tile_stem(image_id: str) -> str:
    """File-name form of an image id: '/' becomes '__', other unsafe characters '~' and their hex code."""
    parts = PurePosixPath(image_id).parts
    return "__".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else f"~{ord(c):x}" for c in part) for part in parts
    )
