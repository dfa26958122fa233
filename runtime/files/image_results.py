"""From an image file to the files of its results."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.config import check_pixel_size
from runtime.errors import ConfigError, ImageTooLargeError, InputError
from runtime.files.formats import Plane, choose_channels, open_image, without_copies
from runtime.files.formats.base import RGB, FileReader, distinct_names
from runtime.files.formats.channels import ChosenChannels
from runtime.files.formats.slides import SLIDE_SUFFIXES
from runtime.files.outputs.formats import DEFAULT_FORMATS, OUTPUT_FORMATS, ImageOutput, check_measure, output_path
from runtime.files.placing import move_into_place, remove_leftovers, staged
from runtime.files.readers import ImageReader
from runtime.ops.measure import intensities, shapes
from runtime.results import Segmentation
from runtime.types import I32, Arrays

_log = logging.getLogger(__name__)

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
    measure: bool = False
    """Also perimeter, eccentricity and the intensities of each channel, in the tables."""
    strict: bool = False
    """Refuse Zarr images of which chunks are absent; else they count as background, with a warning."""
    largest_px: int = LARGEST_IMAGE_PX
    """Number of pixels of the largest image that is segmented whole; larger ones, and whole-slide files, are slides."""

    def __post_init__(self) -> None:
        if self.rgb and (self.nuclear is not None or self.membrane is not None):
            raise ConfigError(
                "rgb=True takes all three planes of an image; expected either it or nuclear= and membrane=.",
                kind="conflict",
                field="rgb",
            )
        check_pixel_size(self.pixel_size_um)
        check_measure(self.measure, self.formats)

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
    path: Path
    """The file."""


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
        ImageTooLargeError: a slide, see ``is_slide``.
        InputError: an image that cannot be read.
    """
    with opened(path, options) as chosen:
        _check_size(path, chosen.size_hw, options.largest_px)
        check_chunks(chosen.reader, strict=options.strict)
        pixels = chosen.read(0, 0, *chosen.size_hw)
        if chosen.channels == RGB and not options.rgb:
            pixels = without_copies(pixels)
        return ReadImage(pixels, options.pixel_size_um or chosen.pixel_size_um, path)


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

    measured = measure_file(result.labels, image.path, options) if options.measure else None
    output = ImageOutput(result=result, pixel_size_um=image.pixel_size_um, plane=options.plane, measured=measured)
    with staged(stem) as directory:
        aside = directory / stem.name
        for name in options.formats:
            OUTPUT_FORMATS[name].write(output_path(aside, name), output)
        if options.overlay:
            write_overlay(Path(f"{aside}{OVERLAY_ENDING}"), image.pixels, result.labels)
        for ending in options.endings:
            move_into_place(Path(f"{aside}{ending}"), Path(f"{stem}{ending}"))


def measure_file(labels: I32, path: Path, options: FileOptions) -> Arrays:
    """Measure cells in every channel of an image file, those that were not segmented too, one channel at a time.

    Args:
        labels: (H, W), 0 background, 1..n the cells.
        path: the image.
        options: which image and plane of the file.

    Returns:
        The columns of ``runtime.ops.measure.shapes``, then those of ``intensities``, each (n,).

    Raises:
        InputError: the file cannot be read.
    """
    columns = shapes(labels)
    with open_image(path, series=options.series, plane=options.plane) as reader:
        for number, name in enumerate(distinct_names(reader.channels)):
            pixels = reader.read(0, 0, *reader.size_hw, (number,))
            columns |= intensities(labels, pixels, (name,))
    return columns


def is_slide(path: Path, size_hw: tuple[int, int], largest_px: int) -> bool:
    """Whether an image is segmented tile by tile: it has more pixels than this, or is a whole-slide file."""
    return size_hw[0] * size_hw[1] > largest_px or path.suffix.lower() in SLIDE_SUFFIXES


def _check_size(path: Path, size_hw: tuple[int, int], largest_px: int) -> None:
    """Raises:
    ImageTooLargeError: a slide.
    """
    if is_slide(path, size_hw, largest_px):
        raise ImageTooLargeError(
            f"{path} has {size_hw[1]} x {size_hw[0]} pixels; expected at most {largest_px / 1e6:g} million, and no "
            "whole-slide file, to segment it whole. Segment it as a slide (runtime.jobs.slides.segment_slide)."
        )


def check_chunks(reader: ImageReader, *, strict: bool) -> None:
    """Warn of an image of which chunks are absent: lost, or not written as they hold nothing but the fill value.

    Raises:
        InputError: there are such, and ``strict``.
    """
    absent, looked = reader.absent_chunks() if isinstance(reader, FileReader) else (0, 0)
    if not absent:
        return
    said = f"{reader.name} lacks {absent} of {looked} chunks"
    if strict:
        raise InputError(
            f"{said}; expected all of them, as strict=True says. Copy the image again, or leave strict out if its "
            "background was not written.",
            kind="damaged",
            field="strict",
        )
    _log.warning("%s; cells there are missed, unless these chunks hold background that was not written", said)


def remove_leftovers_of(stems: Iterable[Path], endings: Sequence[str] = ()) -> None:
    """Delete what killed processes left of results; what a live process is at work on stays.

    Args:
        stems: what their paths begin with.
        endings: how their names end, see ``FileOptions.endings``.
    """
    names: dict[Path, set[str]] = {}
    for stem in stems:
        names.setdefault(stem.parent, set()).update(f"{stem.name}{ending}" for ending in ("", *endings))
    for directory, wanted in names.items():
        remove_leftovers(directory, wanted)
