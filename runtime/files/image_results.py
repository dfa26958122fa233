"""Read what to segment from an image file, and write the results."""

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
from runtime.files.formats.stack import parse_planes
from runtime.files.outputs.formats import DEFAULT_FORMATS, OUTPUT_FORMATS, ImageOutput, check_measure, output_path
from runtime.files.placing import move_into_place, remove_leftovers, staged
from runtime.files.readers import ImageReader
from runtime.ops.measure import intensities, shapes
from runtime.results import Segmentation
from runtime.types import I32, Arrays

_log = logging.getLogger(__name__)

OVERLAY_ENDING = "_overlay.png"

_DOUBLE = ".ome"
"""Ending before the suffix of OME files, which does not belong to the image's name."""

LARGEST_IMAGE_PX = 100_000_000
"""Larger images are slides. An image of this size takes 1.2 GB as float32 in three channels, in several copies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOptions:
    """Options for reading an image file and writing its results."""

    series: str | None = None
    """The image, if the file has several."""
    plane: Plane = field(default_factory=Plane)
    nuclear: str | None = None
    membrane: str | None = None
    rgb: bool = False
    """These three options choose the channels; see ``choose_channels``."""
    pixel_size_um: float | None = None
    """Side of a pixel, micrometres; None to use the value that the file declares."""
    formats: tuple[str, ...] = DEFAULT_FORMATS
    """Names of ``OUTPUT_FORMATS``."""
    overlay: bool = False
    """Also write a picture of the image with outlined cells."""
    measure: bool = False
    """Also write perimeter, eccentricity and the intensities of each channel to the tables."""
    strict: bool = False
    """Reject Zarr images with missing chunks; otherwise missing chunks count as background, with a warning."""
    planes: str | None = None
    """Planes to segment as one stack or movie; see ``runtime.files.formats.stack.parse_planes``. None segments one."""
    unlinked: bool = False
    """Number the cells of each plane by themselves, instead of giving a cell one label in all planes."""
    largest_px: int = LARGEST_IMAGE_PX
    """Maximum number of pixels of an image that is segmented whole; larger images and whole-slide files are slides."""

    def __post_init__(self) -> None:
        if self.rgb and (self.nuclear is not None or self.membrane is not None):
            raise ConfigError(
                "rgb=True uses all three planes of an image, but nuclear= or membrane= is given too; expected one or "
                "the other. Leave one out.",
                kind="conflict",
                field="rgb",
            )
        check_pixel_size(self.pixel_size_um)
        if self.planes is not None:
            self._check_planes(self.planes)
        check_measure(self.measure, self.formats)

    def _check_planes(self, planes: str) -> None:
        from runtime.files.outputs.stacks import check_stack_formats

        parse_planes(planes)
        check_stack_formats(self.formats)
        if self.overlay:
            raise ConfigError(
                "overlay=True was given with planes; expected one or the other. Leave overlay=True out.",
                kind="conflict",
                field="overlay",
            )

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the result names, after the name of the image."""
        overlay = (OVERLAY_ENDING,) if self.overlay else ()
        return (*(OUTPUT_FORMATS[name].ending for name in self.formats), *overlay)


def result_name(path: Path) -> str:
    """Return the beginning of an image's result names: the file name without its suffix."""
    stem = Path(os.path.abspath(path)).stem
    return stem[: -len(_DOUBLE)] if stem.lower().endswith(_DOUBLE) and stem != _DOUBLE else stem


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image read from a file."""

    pixels: NDArray[Any]
    """(H, W) or (H, W, C), as ``Segmenter`` expects it."""
    pixel_size_um: float | None
    """Side of a pixel, micrometres; None if neither the options nor the file declare it."""
    path: Path
    """The file."""


@contextmanager
def opened(path: Path, options: FileOptions) -> Iterator[ChosenChannels]:
    """Open an image file with the channels to segment.

    Raises:
        InputError: the file cannot be read, a choice is missing, or the file lacks what was chosen.
    """
    with open_image(path, series=options.series, plane=options.plane) as reader:
        yield choose_channels(reader, nuclear=options.nuclear, membrane=options.membrane, rgb=options.rgb)


def read_file(path: Path, options: FileOptions) -> ReadImage:
    """Read the channels to segment from an image file.

    Raises:
        ImageTooLargeError: the image is a slide, see ``is_slide``.
        InputError: the image cannot be read.
    """
    with opened(path, options) as chosen:
        _check_size(path, chosen.size_hw, options.largest_px)
        check_chunks(chosen.reader, strict=options.strict)
        pixels = chosen.read(0, 0, *chosen.size_hw)
        if chosen.channels == RGB and not options.rgb:
            pixels = without_copies(pixels)
        return ReadImage(pixels, options.pixel_size_um or chosen.pixel_size_um, path)


def write_results(result: Segmentation, image: ReadImage, stem: Path, options: FileOptions) -> None:
    """Write the results of an image, and replace existing ones.

    Args:
        result: the cells of the image.
        image: the image that was segmented.
        stem: common beginning of the result paths; their directory is created if necessary.
        options: the results to write. They are moved into place after all are written.

    Raises:
        OSError: a result cannot be written, for example because the disk is full; existing results stay unchanged.
    """
    from runtime.files.outputs.overlay import write_overlay

    measured = measure_file(result.labels, image.path, options) if options.measure else None
    output = ImageOutput(
        result=result,
        pixel_size_um=image.pixel_size_um,
        plane=options.plane,
        measured=measured,
        image=image.path,
    )
    with staged(stem) as directory:
        aside = directory / stem.name
        for name in options.formats:
            OUTPUT_FORMATS[name].write(output_path(aside, name), output)
        if options.overlay:
            write_overlay(Path(f"{aside}{OVERLAY_ENDING}"), image.pixels, result.labels, output.provenance)
        for ending in options.endings:
            move_into_place(Path(f"{aside}{ending}"), Path(f"{stem}{ending}"))


def measure_file(labels: I32, path: Path, options: FileOptions) -> Arrays:
    """Measure cells in every channel of an image file, segmented or not, one channel at a time.

    Args:
        labels: (H, W), 0 background, 1..n cells.
        path: the image.
        options: select the image and plane of the file.

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
    """Return whether an image is segmented tile by tile: it exceeds ``largest_px``, or is a whole-slide file."""
    return size_hw[0] * size_hw[1] > largest_px or path.suffix.lower() in SLIDE_SUFFIXES


def _check_size(path: Path, size_hw: tuple[int, int], largest_px: int) -> None:
    """Check that an image can be segmented whole.

    Raises:
        ImageTooLargeError: the image is a slide.
    """
    if is_slide(path, size_hw, largest_px):
        raise ImageTooLargeError(
            f"{path} has {size_hw[1]} x {size_hw[0]} pixels; expected at most {largest_px / 1e6:g} million, not in a "
            "whole-slide file, to segment it whole. Segment it as a slide (runtime.jobs.slides.segment_slide)."
        )


def check_chunks(reader: ImageReader, *, strict: bool) -> None:
    """Warn if chunks of an image are missing: lost, or never written because they contain only the fill value.

    Raises:
        InputError: chunks are missing, and ``strict`` is set.
    """
    absent, looked = reader.absent_chunks() if isinstance(reader, FileReader) else (0, 0)
    if not absent:
        return
    finding = f"{reader.name} lacks {absent} of {looked} chunks"
    if strict:
        raise InputError(
            f"{finding}; expected all of them because of strict=True. Copy the image again, or leave strict out if its "
            "background was not written.",
            kind="damaged",
            field="strict",
        )
    _log.warning("%s; cells there are missed, unless these chunks are background that was not written", finding)


def remove_leftovers_of(stems: Iterable[Path], endings: Sequence[str] = ()) -> None:
    """Delete unfinished results that killed processes left; keep those of live processes.

    Args:
        stems: beginnings of their paths.
        endings: endings of their names, see ``FileOptions.endings``.
    """
    names: dict[Path, set[str]] = {}
    for stem in stems:
        names.setdefault(stem.parent, set()).update(f"{stem.name}{ending}" for ending in ("", *endings))
    for directory, wanted in names.items():
        remove_leftovers(directory, wanted)
