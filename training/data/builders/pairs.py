"""Pairs of image and mask files, matched by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from training.data.builders.reading import read_gray, read_label_file
from training.data.errors import DataError
from training.data.records import Field, Skipped, Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Names of published split directories."""

ReadChannels = Callable[[Path], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Patterns of a dataset's image and mask files, relative to a directory.

    ``*`` matches any characters but '/', and ``**/`` any directories. The wildcards of an image and its mask must match
    equal text, except for a final ``.*``: ``images/*.*`` and ``masks/*.png`` pair images/a.tif with masks/a.png.
    """

    image: str
    mask: str

    def __post_init__(self) -> None:
        for name in ("image", "mask"):
            glob = getattr(self, name)
            if "*" not in glob.removesuffix(".*"):
                raise DataError(f"{name} pattern is {glob!r}; expected a '*' for the id, such as '*_{name}.png'.")
            if set(glob) & set("?[]"):
                raise DataError(f"{name} pattern is {glob!r}; expected no wildcards but '*' and '**/'.")
        if self.image == self.mask:
            raise DataError(f"image and mask pattern are both {self.image!r}; expected two different ones.")


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its mask."""

    key: str
    """Text that the wildcards match, joined with '/'."""
    image: Path
    mask: Path


def find_pairs(directory: Path, pattern: Pattern) -> tuple[list[Pair], list[Path]]:
    """Find pairs below a directory, sorted by key, and the files without a partner.

    A file that both patterns match counts as a mask.
    """
    masks = _matches(directory, pattern.mask)
    taken = set(masks.values())
    images = {key: path for key, path in _matches(directory, pattern.image).items() if path not in taken}
    pairs = [Pair(key, images[key], masks[key]) for key in sorted(images.keys() & masks.keys())]
    alone = [images[key] for key in images.keys() - masks.keys()] + [masks[key] for key in masks.keys() - images.keys()]
    return pairs, sorted(alone)


def pair_fields(
    pairs: list[Pair],
    source: Path,
    *,
    prefix: str = "",
    split: Split | None = None,
    read_channels: ReadChannels = read_gray,
) -> list[Field]:
    """Return fields for image and mask files; the image id is the prefix and the pair's key."""
    return [
        Field(
            image_id=f"{prefix}{pair.key}",
            file=relative(pair.image, source),
            read_channels=partial(read_channels, pair.image),
            read_labels=partial(read_label_file, pair.mask),
            split=split,
        )
        for pair in pairs
    ]


def skip_unpaired(paths: list[Path], source: Path) -> list[Skipped]:
    """Record the files without a partner."""
    return [Skipped(relative(path, source), "its image or mask is missing; expected both.") for path in paths]


def relative(path: Path, source: Path) -> str:
    """Return a path as shown to the user: relative to the source, with '/'."""
    return path.relative_to(source).as_posix()


def _matches(directory: Path, glob: str) -> dict[str, Path]:
    """Return the files below a directory that match a pattern, by key."""
    # The id may contain dots; '.*' matches only the last suffix.
    body, suffix = (glob[:-2], r"\.[^./]+") if glob.endswith(".*") else (glob, "")
    parts = re.split(r"(\*\*/|\*)", body)
    wildcards = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)"}
    expression = re.compile("".join(wildcards.get(part, re.escape(part)) for part in parts) + suffix)
    out: dict[str, Path] = {}
    for path in sorted(directory.glob(glob)):
        match = expression.fullmatch(path.relative_to(directory).as_posix())
        if match and path.is_file() and not path.name.startswith("."):
            out.setdefault("/".join(group.strip("/") for group in match.groups() if group.strip("/")), path)
    return out
