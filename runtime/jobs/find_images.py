"""Search for the images that the arguments of a command name: files, directories and patterns."""

from __future__ import annotations

import glob
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InputError
from runtime.files.formats import IMAGE_SUFFIXES, VENDOR_HINT, VENDOR_SUFFIXES, is_zarr
from runtime.files.image_results import OVERLAY_ENDING, result_name
from runtime.files.outputs.formats import OUTPUT_FORMATS
from runtime.files.outputs.label_images import is_label_group
from runtime.jobs.slides.jobs import JOB_ENDING, JOB_NAME

RESULT_ENDINGS = (*(one.ending for one in OUTPUT_FORMATS.values()), OVERLAY_ENDING)
"""Endings of result file names, for runs with any options."""

NO_IMAGES = (
    *(".cfg", ".csv", ".dat", ".geojson", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".log", ".md", ".parquet"),
    *(".pdf", ".py", ".toml", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip"),
)
"""Suffixes of files that are often kept with images but are not images."""

MASK, OF_IMAGE = "_mask", "_img"
"""Endings, before the suffix, of a ground-truth mask and its image in training data."""

SHOWN_GROUPS = 10

_PATTERN = frozenset("*?[")

_log = logging.getLogger(__name__)

Owners = Mapping[str, Sequence[Path]]
"""The images of a directory by the common beginning of their result names, in lower case."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to segment."""

    path: Path
    folder: Path = Path()
    """Its folder, relative to the directory that was given; results go to the same relative folder."""

    @property
    def name(self) -> Path:
        """Beginning of the result paths, relative to the output directory: the file name without its suffix."""
        return self.folder / result_name(self.path)


def find_images(
    arguments: Iterable[Path], *, recursive: bool = False, out: Path | None = None, silent: bool = False
) -> list[ImageFile]:
    """Find the images that the arguments name, in order; images of a directory are sorted by name.

    Directories and patterns skip files named like the result of another image, and ``NAME_mask`` if ``NAME_img``
    exists. A warning in the log counts the files skipped because of their type.

    Args:
        arguments: image files, OME-Zarr directories, directories of images, or patterns (``*.tif``, ``**/*.tif``).
        recursive: also search subdirectories.
        out: the output directory, which is not searched unless it is itself an argument.
        silent: log no warning.

    Raises:
        InputError: a directory has no images, or a pattern has no matches.
    """
    images: list[ImageFile] = []
    left_out = _LeftOut([], [])
    try:
        for argument in arguments:
            if argument.exists() or not _PATTERN & set(str(argument)):
                images += _named_by(argument, recursive, out, left_out)
            else:
                images += _fitting(argument, left_out)
    finally:
        if not silent:
            _log_left_out(left_out)
    return images


class _LeftOut(NamedTuple):
    """Files that are skipped."""

    others: list[Path]
    """Files of types that cannot be read."""
    masks: list[Path]


def _named_by(path: Path, recursive: bool, out: Path | None, left_out: _LeftOut) -> list[ImageFile]:
    """Return a file, or the images of a directory; add its other files to ``left_out``."""
    if not path.is_dir() or is_zarr(path):
        return [ImageFile(path)]
    skipped = None if out is None or os.path.realpath(out) == os.path.realpath(path) else os.path.realpath(out)
    found = []
    for folder, inner in _walk(path, recursive, skipped):
        images = _images_among(inner)
        owners = _owners(images)
        masks = {image for image in images if _is_mask(image, owners)}
        found += [ImageFile(image, folder) for image in images if image not in masks and not _is_result(image, owners)]
        left_out.masks.extend(masks)
        left_out.others.extend(entry for entry in inner if _is_left_out(entry))
    if not found:
        more = "" if recursive else "; recursive=True also searches the directories inside it"
        message = f"{path} contains no images ({', '.join(IMAGE_SUFFIXES)} or OME-Zarr){more}."
        raise InputError(message, kind="not_found")
    return found


def _fitting(pattern: Path, left_out: _LeftOut) -> list[ImageFile]:
    """Return the images that match a pattern, without results and masks of other images."""
    # ``Path.glob`` would also match hidden files.
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207
    fitting = [path for path in matches if is_zarr(path) or path.is_file()]
    if not fitting:
        raise InputError(f"no file matches {pattern}; check the pattern.", kind="not_found")
    owners = {folder: _owners(_images_among(_entries(folder))) for folder in {path.parent for path in fitting}}
    # The pattern '*_labels.tif' asks for results.
    endings = [ending for ending in RESULT_ENDINGS if not pattern.name.casefold().endswith(ending)]
    masks = set() if MASK in pattern.name else {path for path in fitting if _is_mask(path, owners[path.parent])}
    left_out.masks.extend(masks)
    found = [
        ImageFile(path) for path in fitting if path not in masks and not _is_result(path, owners[path.parent], endings)
    ]
    if not found:
        raise InputError(
            f"all files that match {pattern} are results of other images; check the pattern.", kind="not_found"
        )
    return found


def _walk(path: Path, recursive: bool, skipped: str | None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield directories with their entries, by name; skip ``skipped``, job directories and hidden directories."""
    waiting = [Path()]
    while waiting:
        folder = waiting.pop()
        inner = _entries(path / folder)
        yield folder, inner
        if recursive:
            below = [entry for entry in inner if entry.is_dir() and not entry.is_symlink() and not is_zarr(entry)]
            images = [entry for entry in below if os.path.realpath(entry) != skipped and not _is_job(entry)]
            waiting += [folder / entry.name for entry in reversed(images)]


def _entries(folder: Path) -> list[Path]:
    """List the entries of a directory that are not hidden, by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed ({error.strerror}); check its permissions.", kind="unreadable"
        ) from error


def _images_among(entries: Iterable[Path]) -> list[Path]:
    return [entry for entry in entries if is_zarr(entry) or (_suffix(entry) in IMAGE_SUFFIXES and entry.is_file())]


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _is_job(folder: Path) -> bool:
    """Return whether a directory contains a job on a slide."""
    return folder.name.endswith(JOB_ENDING) and (folder / JOB_NAME).is_file()


def _is_left_out(path: Path) -> bool:
    """Return whether a file may be an image of a type that cannot be read."""
    return _suffix(path) not in ("", *IMAGE_SUFFIXES, *NO_IMAGES) and path.is_file()


def _log_left_out(left_out: _LeftOut) -> None:
    others, masks = left_out
    if masks:
        count = f"{len(masks)} masks" if len(masks) > 1 else "1 mask"
        _log.warning("%s skipped (NAME%s of an image NAME%s).", count, MASK, OF_IMAGE)
    if not others:
        return
    types = sorted({_suffix(path) for path in others})
    hint = f" {VENDOR_HINT}" if set(types) & set(VENDOR_SUFFIXES) else ""
    count = f"{len(others)} files of other types are" if len(others) > 1 else "1 file of another type is"
    _log.warning("%s skipped (%s).%s", count, ", ".join(types), hint)


def _owners(images: Iterable[Path]) -> Owners:
    owners: dict[str, list[Path]] = {}
    for image in images:
        owners.setdefault(result_name(image).casefold(), []).append(image)
    return owners


def _is_mask(path: Path, owners: Owners) -> bool:
    """Return whether a file is named like the ground-truth mask of an image in its directory."""
    name = result_name(path).casefold()
    return name.endswith(MASK) and f"{name[: -len(MASK)]}{OF_IMAGE}" in owners


def _is_result(path: Path, owners: Owners, endings: Sequence[str] = RESULT_ENDINGS) -> bool:
    """Return whether a file or directory is named like the result of another image in its directory."""
    name = path.name.casefold()
    begins = [name[: -len(ending)] for ending in endings if name.endswith(ending)]
    owned = any(owner.name != path.name for begin in begins for owner in owners.get(begin, ()))
    # A directory with such a name may also be an OME-Zarr image.
    return owned and (not path.is_dir() or is_label_group(path))


def result_stems(images: Iterable[ImageFile], out: Path, endings: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pair each image with the common beginning of its result paths.

    Args:
        images: from ``find_images``.
        out: the output directory.
        endings: endings of the result names, such as ``_labels.tif``.

    Raises:
        InputError: an image is given twice, several would write the same files, or results would replace an image.
    """
    groups: dict[str, list[ImageFile]] = {}
    inputs: dict[str, Path] = {}
    for image in images:
        real = os.path.realpath(image.path)
        if real in inputs:
            raise InputError(f"{_named(inputs[real], image.path)} given twice; give each image once.", kind="conflict")
        inputs[real] = image.path
        # Many file systems ignore case.
        groups.setdefault(str(image.name).casefold(), []).append(image)
    _check_names([group for group in groups.values() if len(group) > 1], out, endings[0])
    stems = [(image.path, out / image.name) for group in groups.values() for image in group]
    folded = {real.casefold(): path for real, path in inputs.items()}
    for path, stem in stems:
        for ending in endings:
            replaced = folded.get(os.path.realpath(f"{stem}{ending}").casefold())
            if replaced is not None:
                raise InputError(
                    f"the result of {path} would replace the image {replaced}; choose another directory with out=.",
                    kind="conflict",
                    field="out",
                )
    return stems


def _named(first: Path, again: Path) -> str:
    return f"{first} is" if first == again else f"{first} and {again} are one file,"


def _check_names(groups: Sequence[Sequence[ImageFile]], out: Path, ending: str) -> None:
    """Raise an ``InputError`` if there are images whose results would have the same names."""
    if not groups:
        return
    lines = [
        f"{' and '.join(str(image.path) for image in group)} would {'both' if len(group) == 2 else 'all'} write "
        f"{out / group[0].name}{ending}"
        for group in groups[:SHOWN_GROUPS]
    ]
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"and {len(groups) - SHOWN_GROUPS} more")
    way_out = "rename them, or segment each directory into a different output directory with out=."
    if (pattern := next(filter(None, map(_pattern_for_one, groups)), None)) is not None:
        way_out = f"choose with a pattern, such as {shlex.quote(pattern)} (with the quotes), or rename them."
    raise InputError(
        "several images would write the same files:\n  " + "\n  ".join(lines) + f"\nTo continue, {way_out}",
        kind="conflict",
    )


def _pattern_for_one(group: Sequence[ImageFile]) -> str | None:
    """Suggest a pattern that matches one image of a group in one directory; None if there is none."""
    if len({image.path.parent for image in group}) > 1:
        return None
    names = [image.path.name for image in group]
    for image in group:
        pattern = "*" + image.path.name[len(image.name.name) :]
        if sum(fnmatchcase(name, pattern) for name in names) == 1:
            return str(Path(glob.escape(str(image.path.parent))) / pattern)
    return None
