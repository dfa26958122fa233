"""The images of a folder, and the places of their results, as Cellpose's command chooses them.

Source: MouseLand/cellpose, ``cellpose/io.py`` (``get_image_files``, ``save_masks``, ``save_rois``).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.cellpose.settings import chosen_channels
from runtime.errors import InputError
from runtime.files.formats import open_image
from runtime.files.image_results import FileOptions, ReadImage, read_file
from runtime.files.outputs.cellpose import MOST_IN_16_BITS, write_masks_png, write_outlines, write_seg
from runtime.files.outputs.imagej import write_rois
from runtime.files.plain import write_labels
from runtime.provenance import distinct
from runtime.results import Segmentation

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

RESULTS = ("_cp_output", "_flows", "_flows_0", "_flows_1", "_flows_2", "_cellprob", "_masks")
"""Endings of names, before the suffix, that are never images."""


def images_of(folder: Path, mask_filter: str, image_filter: str = "", *, below: bool = False) -> list[Path]:
    """Find the images of a folder, sorted by name, with numbers in their order.

    Args:
        folder: the folder.
        mask_filter: ending of names to skip, before the suffix, beside those of ``RESULTS``.
        image_filter: ending that names must have.
        below: also search the folders inside it.

    Raises:
        InputError: there are no images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with images. Check --dir.", kind="not_found")
    folders = [*(inner for inner in folder.iterdir() if inner.is_dir()), folder] if below else [folder]
    skipped = (*RESULTS, mask_filter) if mask_filter else RESULTS
    found = [
        path
        for each in folders
        for path in each.iterdir()
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and path.stem.endswith(image_filter)
        and not path.stem.endswith(skipped)
    ]
    if not found:
        raise InputError(
            f"{folder} contains no images; expected {', '.join(SUFFIXES)} whose names end in {image_filter or 'any'} "
            f"but not in {', '.join(skipped)}. Check --dir, --img_filter and --mask_filter.",
            kind="not_found",
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sorting key that puts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]


def read_channels(path: Path, channels: tuple[int, int]) -> ReadImage:
    """Read an image with Cellpose's choice of channels; see ``chosen_channels``.

    Raises:
        InputError: the image cannot be read.
        ConfigError: a channel does not exist.
    """
    with open_image(path) as reader:
        chosen = chosen_channels(channels, len(reader.channels))
    options = FileOptions()
    if chosen is not None:
        nuclear = str(chosen[0]) if len(chosen) == 2 else None
        options = replace(options, nuclear=nuclear, membrane=str(chosen[-1]))
    return read_file(path, options)


@dataclass(frozen=True, slots=True)
class Saving:
    """The results to write, and where."""

    given: argparse.Namespace

    def save(self, result: Segmentation, image: ReadImage) -> None:
        """Write the results of an image; existing ones are replaced, as by Cellpose.

        Raises:
            OSError: a result cannot be written.
        """
        for path, write in self._files(result, image):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            # Files appear by a rename. QuPath's extension waits for a change of the file, which this is.
            path.touch()

    def _files(self, result: Segmentation, image: ReadImage) -> Iterator[tuple[Path, Callable[[Path], None]]]:
        given, labels, made_by = self.given, result.labels, distinct([result.provenance])
        beside = image.path.with_suffix("")
        diameter = result.appearance.diameter_px
        if not given.no_npy:
            yield _named(beside, "_seg.npy"), lambda path: write_seg(path, labels, str(image.path), diameter, made_by)
        if given.save_rois:
            yield _named(beside, "_rois.zip"), lambda path: write_rois(path, labels, provenance=made_by)
        many = len(result) > MOST_IN_16_BITS
        if given.save_tif or (given.save_png and many):
            place = self._folder(image.path, "masks") / f"{beside.name}{self._suffix}.tif"
            yield place, lambda path: write_labels(path, labels, image.pixel_size_um, made_by)
        if given.save_png and not many:
            place = self._folder(image.path, "masks") / f"{beside.name}{self._suffix}.png"
            yield place, lambda path: write_masks_png(path, labels, made_by)
        if given.save_txt:
            place = self._folder(image.path, "txt_outlines") / f"{beside.name}_cp_outlines.txt"
            yield place, lambda path: write_outlines(path, labels)
        if given.save_outlines:
            from runtime.files.outputs.overlay import write_overlay

            place = self._folder(image.path, "outlines") / f"{beside.name}_outlines{self._suffix}.png"
            yield place, lambda path: write_overlay(path, image.pixels, labels, made_by)

    def _folder(self, image: Path, inner: str) -> Path:
        folder = Path(os.path.abspath(image)).parent
        if self.given.savedir:
            folder = Path(self.given.savedir)
        elif self.given.dir_above:
            folder = folder.parent
        return folder / inner if self.given.in_folders else folder

    @property
    def _suffix(self) -> str:
        """Ending of the masks; an empty one only in another folder than that of the images."""
        given = self.given
        if given.output_name is None or (not given.output_name and not self._elsewhere):
            return "_cp_masks"
        return str(given.output_name)

    @property
    def _elsewhere(self) -> bool:
        folder = self.given.dir or Path(self.given.image_path).parent
        return bool(self.given.savedir) and os.path.realpath(self.given.savedir) != os.path.realpath(folder)


def _named(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}{ending}")
