"""Records that builders pass to the build, and the record of every tile."""

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
    """One source image with its labels; both are read on demand."""

    image_id: str
    """Id, unique in its dataset: a relative path without extension, parts joined with '/'."""
    file: str
    """File named in messages, relative to the source directory."""
    read_channels: Callable[[], NDArray[Any]]
    """Return (H, W), a single whole-cell or nuclear channel; (H, W, 2), nuclear and whole-cell; or (H, W, 3) as is."""
    read_labels: Callable[[], NDArray[Any]]
    """Return (H, W) integers: 0 background, one id per object."""
    split: Split | None = None
    """The published split; None if the dataset has none."""
    object_set: str | None = None
    """Name shared by fields that show the same objects. None if unknown; neighbours are then found by their borders."""
    scale: float = 1.0
    """Resize factor before the contrast step: bicubic for channels, nearest for labels."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source file that cannot be used, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SourceDataset:
    """One dataset found on disk."""

    name: str
    group: Group
    citation: str
    licence: str | None
    fields: tuple[Field, ...]
    skipped: tuple[Skipped, ...] = ()
    subdirectory: str = ""
    """Directory below the output directory; empty if the source has one dataset."""
    options: Mapping[str, str] = field(default_factory=dict)
    """User options that change the result; a build is resumed only with the same ones."""

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
    """Origin of one written tile, stored as a line of ``tiles.jsonl``."""

    tile_id: str
    """File stem of the tile's image and labels."""
    image_id: str
    """Id of the source image, unique in its dataset."""
    object_set: str
    """Name shared by source images that show the same objects."""
    y0: int
    x0: int
    """Upper left corner in the source image (after rescaling), pixels."""
    height: int
    width: int
    """Size of the image in the tile, pixels; the rest is zero padding."""
    objects: int
    """Number of labels."""
    dataset: str
    group: Group


def tile_stem(image_id: str) -> str:
    """Convert an image id to a file name: '/' becomes '__', other unsafe characters become '~' and their hex code."""
    parts = PurePosixPath(image_id).parts
    return "__".join(
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else f"~{ord(c):x}" for c in part) for part in parts
    )
