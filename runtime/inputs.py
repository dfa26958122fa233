"""The images that the arguments of a command name: files, directories of images, patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from runtime.formats import IMAGE_SUFFIXES, is_zarr

_PATTERN = frozenset("*?[")
_DOUBLE = ".ome"
"""What comes before the suffix of OME files and is no part of their name."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to be segmented."""

    path: Path
    folder: Path = Path()
    """Where it lies below the directory that was given; results keep to it."""

    @property
    def name(self) -> Path:
        """What results begin with, below the output directory: the file's name without its type."""
        stem = Path(os.path.abspath(self.path)).stem
        return self.folder / (stem[: -len(_DOUBLE)] if stem.lower().endswith(_DOUBLE) and stem != _DOUBLE else stem)


def find_images(
    arguments: Iterable[Path], *, recursive: bool = False, out: Path | None = None, endings: Sequence[str] = ()
) -> list[ImageFile]:
    """The images that are named, in order; those of a directory sorted by name.

    Args:
        arguments: image files, OME-Zarr directories, directories of images, or patterns (``*.tif``, ``**/*.tif``).
        recursive: look into the directories of a directory, too.
        out: the output directory, which is not looked into unless it is an argument itself.
        endings: how names of results end. In a directory, a file named after another image and so is no input.

    Raises:
        InputError: a directory without images, or a pattern that nothing fits.
    """
    images: list[ImageFile] = []
    for argument in arguments:
        if argument.exists() or not _PATTERN & set(str(argument)):
            found = list(_images_of(argument, recursive, out, endings))
            if not found:
                more = "" if recursive else "; --recursive looks into its directories, too"
                raise InputError(f"{argument} holds no image ({', '.join(IMAGE_SUFFIXES)} or OME-Zarr){more}.")
        else:
            fitting = [Path(match) for match in sorted(glob.glob(str(argument), recursive=True))]
            found = [ImageFile(path) for path in fitting if is_zarr(path) or path.is_file()]
            if not found:
                raise InputError(f"no file fits {argument}; check the pattern.")
        images += found
    return images


def _images_of(path: Path, recursive: bool, out: Path | None, endings: Sequence[str]) -> Iterator[ImageFile]:
    if not path.is_dir() or is_zarr(path):
        yield ImageFile(path)
        return
    skipped = None if out is None or os.path.realpath(out) == os.path.realpath(path) else os.path.realpath(out)
    for folder, inner in _walk(path, recursive, skipped):
        images = [entry for entry in inner if is_zarr(entry) or _is_image(entry)]
        names = {ImageFile(image).name.name.casefold() for image in images if image.is_file()}
        for image in images:
            if not _is_result(image.name.casefold(), names, endings):
                yield ImageFile(image, folder)


def _walk(path: Path, recursive: bool, skipped: str | None) -> Iterator[tuple[Path, list[Path]]]:
    """Directories with what is in them, by name; the output directory and hidden ones left out."""
    waiting = [Path()]
    while waiting:
        folder = waiting.pop()
        try:
            inner = sorted(entry for entry in (path / folder).iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise InputError(f"{path / folder} cannot be listed ({error.strerror}); check its permissions.") from error
        yield folder, inner
        if recursive:
            below = [entry for entry in inner if entry.is_dir() and not entry.is_symlink() and not is_zarr(entry)]
            waiting += [folder / entry.name for entry in reversed(below) if os.path.realpath(entry) != skipped]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _is_result(name: str, names: set[str], endings: Sequence[str]) -> bool:
    """Whether a file is named as the result of an image file of its directory."""
    return any(name.endswith(ending) and name[: -len(ending)] in names for ending in endings)


def result_stems(images: Iterable[ImageFile], out: Path, endings: Sequence[str]) -> list[tuple[Path, Path]]:
    """Each image with the path its results begin with.

    Args:
        images: from ``find_images``.
        out: the output directory.
        endings: how the names of the results end, ``_labels.tif``.

    Raises:
        InputError: an image is given twice, two would write the same files, or results would replace an image.
    """
    stems: dict[str, tuple[Path, Path]] = {}
    inputs: dict[str, Path] = {}
    for image in images:
        real = os.path.realpath(image.path)
        if real in inputs:
            raise InputError(f"{_named(inputs[real], image.path)} given twice; give each image once.")
        inputs[real] = image.path
        # Many file systems do not tell A from a.
        stem, key = out / image.name, str(image.name).casefold()
        if key in stems:
            raise InputError(
                f"{stems[key][0]} and {image.path} would both write {stem}{endings[0]}; rename one of them."
            )
        stems[key] = (image.path, stem)
    folded = {real.casefold(): path for real, path in inputs.items()}
    for path, stem in stems.values():
        for ending in endings:
            replaced = folded.get(os.path.realpath(f"{stem}{ending}").casefold())
            if replaced is not None:
                raise InputError(f"the result of {path} would replace the image {replaced}; choose another --out.")
    return list(stems.values())


def _named(first: Path, again: Path) -> str:
    return f"{first} is" if first == again else f"{first} and {again} are one file,"
