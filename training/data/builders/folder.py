"""Any folders of image and mask pairs.

Layouts, tried in this order; <files> are pairs that match the two patterns:

    <split>/<dataset>/<files>    published splits, one built dataset per name
    <split>/<files>              published splits, one dataset
    <files>                      one dataset, 80-10-10
    <dataset>/<files>            one built dataset per name, 80-10-10
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from runtime.files.plain import read_image
from training.data.builders.pairs import SPLIT_NAMES, Pattern, find_pairs, pair_fields, skip_unpaired
from training.data.builders.reading import is_gray, to_gray
from training.data.errors import DataError
from training.data.records import GROUPS, Field, Group, Skipped, SourceDataset, Split

Colours = Literal["gray", "channels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """Options that describe a folder of pairs.

    Raises:
        DataError: a pattern has no wildcard, a group is unknown, or an expression is invalid.
    """

    image_glob: str = "*_img.*"
    mask_glob: str = "*_mask.*"
    """Patterns of images and masks (``Pattern``)."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group by dataset name; the key '' is for all others."""
    object_set: str | None = None
    """Regular expression for the image id; images with an equal first group (or match) are one object set."""
    licence: str | None = None
    """Licence of the data, for ``dataset.json``."""
    rgb: Colours = "channels"
    """'channels': red, green and blue fill the three channels, as in ``Segmenter``. 'gray': colours become their
    luminance, the whole-cell channel."""

    def __post_init__(self) -> None:
        Pattern(self.image_glob, self.mask_glob)
        for name, group in self.groups.items():
            if group not in GROUPS:
                raise DataError(
                    f"group of {name or 'all datasets'} is {group!r}; expected one of {', '.join(GROUPS)}.",
                    kind="out_of_range",
                    field="groups",
                )
        try:
            re.compile(self.object_set or "")
        except re.error as error:
            raise DataError(
                f"object_set is {self.object_set!r}; expected a regular expression ({error}).",
                kind="invalid",
                field="object_set",
            ) from error

    def group_of(self, dataset: str) -> Group:
        """Return the group of a dataset.

        Raises:
            DataError: it has no group.
        """
        given = self.groups.get(dataset, self.groups.get(""))
        for group in GROUPS:
            if group == given:
                return group
        raise DataError(
            f"the group of dataset {dataset!r} is missing; expected one of {', '.join(GROUPS)}. "
            f"Pass it with groups=: '{dataset}=Cell Culture', or 'Cell Culture' for all datasets.",
            kind="missing",
            field="groups",
        )


@dataclass(slots=True)
class _Found:
    fields: list[Field] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def find(source: Path, options: FolderOptions) -> list[SourceDataset]:
    """Find pairs in one of the layouts.

    Raises:
        DataError: there are none, or the group of a dataset is missing.
    """
    own_name = source.resolve().name
    pattern = Pattern(options.image_glob, options.mask_glob)
    split_directories = {path: SPLIT_NAMES[path.name.lower()] for path in _directories(source) if _is_split(path)}
    found: dict[str, _Found] = {}
    for directory, split in split_directories.items():
        _add(found, source, [(own_name, directory)], f"{split}/", split, pattern, options)
        if own_name not in found:
            below = [(path.name, path) for path in _directories(directory)]
            _add(found, source, below, f"{split}/", split, pattern, options)
    if not found:
        _add(found, source, [(own_name, source)], "", None, pattern, options)
    if not found:
        _add(found, source, [(path.name, path) for path in _directories(source)], "", None, pattern, options)
    if not found:
        raise DataError(
            f"{source} contains no pairs of {options.image_glob} and {options.mask_glob}, nor do its directories; "
            "expected <split>/<dataset>/, <split>/ or plain folders. Pass image_glob= and mask_glob=.",
            kind="not_found",
            field="image_glob",
        )
    return [
        SourceDataset(
            name=name,
            group=options.group_of(name),
            citation="folder of image and mask pairs",
            licence=options.licence,
            fields=tuple(item.fields),
            skipped=tuple(item.skipped),
            subdirectory="" if name == own_name else name,
            options={"rgb": options.rgb, "object_set": options.object_set or ""},
        )
        for name, item in sorted(found.items())
    ]


def _add(
    found: dict[str, _Found],
    source: Path,
    directories: list[tuple[str, Path]],
    prefix: str,
    split: Split | None,
    pattern: Pattern,
    options: FolderOptions,
) -> None:
    """Add the pairs of each (dataset name, directory) to its dataset; a directory without pairs adds nothing."""
    read = partial(read_folder_image, rgb=options.rgb)
    for name, directory in directories:
        pairs, alone = find_pairs(directory, pattern)
        if not pairs:
            continue
        item = found.setdefault(name, _Found())
        fields = pair_fields(pairs, source, prefix=prefix, split=split, read_channels=read)
        item.fields += [replace(f, object_set=_object_set(f.image_id, options.object_set)) for f in fields]
        item.skipped += skip_unpaired(alone, source)


def read_folder_image(path: Path, rgb: Colours) -> NDArray[Any]:
    """Read an image; two channels are nuclear and whole-cell."""
    image = read_image(path)
    two_or_kept = image.ndim == 3 and (image.shape[2] == 2 or (image.shape[2] == 3 and rgb == "channels"))
    if two_or_kept and not is_gray(image):
        return image
    return to_gray(image[..., :1] if two_or_kept else image, path.name)


def _object_set(image_id: str, expression: str | None) -> str | None:
    match = re.search(expression, image_id) if expression else None
    return (match[1] if match.re.groups else match[0]) if match else None


def _directories(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_split(path: Path) -> bool:
    return path.name.lower() in SPLIT_NAMES
