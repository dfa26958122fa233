"""From an image file to the files of its results."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.errors import ConfigError, ImageTooLargeError
from runtime.files.formats import Plane, choose_channels, open_image, without_copies
from runtime.files.formats.base import RGB
from runtime.files.formats.channels import ChosenChannels
from runtime.files.outputs.formats import DEFAULT_FORMATS, OUTPUT_FORMATS, output_path
from runtime.files.plain import PARTIAL, move_into_place
from runtime.results import Segmentation

OVERLAY_ENDING = "_overlay.png"

_DOUBLE = ".ome"
"""What comes before the suffix of OME files and is no part of their name."""

LARGEST_IMAGE_PX = 100_000_000
"""Larger images are slides: as float32 in three channels such an image takes 1.2 GB, and several copies are held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOptions:
    """What is read from an image file, and what is written."""

    series: str | None = None
    """Image of a file that holds several."""
    plane: Plane = field(default_factory=Plane)
    nuclear: str | None = None
    membrane: str | None = None
    rgb: bool = False
    """Channels; see ``choose_channels``."""
    pixel_size_um: float | None = None
    """Side of a pixel; None where the file says it."""
    formats: tuple[str, ...] = DEFAULT_FORMATS
    """Names of ``OUTPUT_FORMATS``."""
    overlay: bool = False
    """Also a picture of the image with outlined cells."""
    largest_px: int = LARGEST_IMAGE_PX
    """Pixels of the largest image that is segmented as a whole."""

    def __post_init__(self) -> None:
        if self.rgb and (self.nuclear is not None or self.membrane is not None):
            raise ConfigError("--rgb takes all three planes of an image; expected either it or --nuclear, --membrane.")
        if self.pixel_size_um is not None and not 0 < self.pixel_size_um < float("inf"):
            raise ConfigError(f"pixel_size_um is {self.pixel_size_um}; expected a positive number of micrometres.")

    @property
    def endings(self) -> tuple[str, ...]:
        """What follows an image's name in the names of its results."""
        overlay = (OVERLAY_ENDING,) if self.overlay else ()
        return (*(OUTPUT_FORMATS[name].ending for name in self.formats), *overlay)


def result_name(path: Path) -> str:
    """What the names of an image's results begin with: the file's name without its type."""
    stem = Path(os.path.abspath(path)).stem
    return stem[: -len(_DOUBLE)] if stem.lower().endswith(_DOUBLE) and stem != _DOUBLE else stem


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image as it was read."""

    pixels: NDArray[Any]
    """(H, W) or (H, W, C), as ``Segmenter`` takes it."""
    pixel_size_um: float | None
    """Side of a pixel; None where neither the options nor the file say it."""


@contextmanager
def opened(path: Path, options: FileOptions) -> Iterator[ChosenChannels]:
    """An image file, to read what is to be segmented of it.

    Raises:
        InputError: it cannot be read, or a choice is missing or not there.
    """
    with open_image(path, series=options.series, plane=options.plane) as reader:
        yield choose_channels(reader, nuclear=options.nuclear, membrane=options.membrane, rgb=options.rgb)


def read_file(path: Path, options: FileOptions) -> ReadImage:
    """Read what is to be segmented of an image file.

    Raises:
        ImageTooLargeError: more pixels than ``options.largest_px``.
        InputError: an image that cannot be read.
    """
    with opened(path, options) as chosen:
        check_size(path, chosen.size_hw, options.largest_px)
        pixels = chosen.read(0, 0, *chosen.size_hw)
        if chosen.channels == RGB and not options.rgb:
            pixels = without_copies(pixels)
        return ReadImage(pixels, options.pixel_size_um or chosen.pixel_size_um)


def write_results(result: Segmentation, image: ReadImage, stem: Path, options: FileOptions) -> None:
    """Write the results of an image; those that exist are replaced.

    Args:
        result: its cells.
        image: what was segmented.
        stem: what the results' paths begin with; their directory is made if need be.
        options: what to write. No result is moved into its place before all are written.

    Raises:
        OSError: a result cannot be written, such as to a full disk; those that exist stay as they are.
    """
    from runtime.files.outputs.overlay import write_overlay

    with _staged(stem) as aside:
        for name in options.formats:
            OUTPUT_FORMATS[name].write(output_path(aside, name), result, image.pixel_size_um, options.plane)
        if options.overlay:
            write_overlay(Path(f"{aside}{OVERLAY_ENDING}"), image.pixels, result.labels)
        for ending in options.endings:
            move_into_place(Path(f"{aside}{ending}"), Path(f"{stem}{ending}"))


def check_size(path: Path, size_hw: tuple[int, int], largest_px: int) -> None:
    """Raises:
    ImageTooLargeError: more pixels than this.
    """
    height, width = size_hw
    if height * width > largest_px:
        raise ImageTooLargeError(
            f"{path} has {width} x {height} pixels; expected at most {largest_px / 1e6:g} million to segment it as a "
            f"whole. Segment it in tiles: cellsam-engine segment-slide {shlex.quote(str(path))} --out DIR"
        )


@contextmanager
def _staged(stem: Path) -> Iterator[Path]:
    """What the results' paths begin with while they are written, in a directory that does not outlive this."""
    directory = stem.with_name(f".{stem.name}.{os.getpid()}{PARTIAL}")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory / stem.name
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_leftovers(stems: Iterable[Path]) -> None:
    """Delete what killed processes left of the results that begin so; no other process may be at work on them."""
    names: dict[Path, set[str]] = {}
    for stem in stems:
        names.setdefault(stem.parent, set()).add(stem.name)
    for directory, wanted in names.items():
        for leftover in directory.glob(f".*{PARTIAL}"):
            name, _, number = leftover.name[1 : -len(PARTIAL)].rpartition(".")
            if name in wanted and number.isdigit():
                shutil.rmtree(leftover, ignore_errors=True)
