"""Estimate of a folder job's time and memory, from the headers of its images and a trial on one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.config import SegmentConfig
from runtime.errors import RECOVERABLE_ERRORS
from runtime.files.image_results import FileOptions, is_slide, opened, read_file
from runtime.jobs.failure import Failure
from runtime.jobs.folders.records import Records
from runtime.jobs.folders.run import FolderOptions
from runtime.jobs.folders.work import ImageWork, Target
from runtime.jobs.memory import peak_mib
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.segmenter import Segmenter
from runtime.views.grid import grid_at_scale

_PIXEL_BYTES = 24
"""Memory of one image pixel, bytes: three channels of float32, raw and normalised."""

_WARM_UP_PX = 64
"""Side of the image part that is segmented to warm up before timing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageForecast:
    """Forecast for one image of a job."""

    target: Target
    size_hw: tuple[int, int] | None = None
    """Height and width, pixels; None if the image was not opened."""
    tiles: int | None = None
    """Number of tiles; None until the cells are measured or the slide is laid out."""
    tile_px: int | None = None
    """Side of the tiles of a slide, pixels."""
    diameter_px: float | None = None
    """Median cell diameter, pixels, if it is known."""
    already: bool = False
    as_slide: bool = False
    """True for an image that will be segmented as a slide."""
    failure: Failure | None = None

    @property
    def to_do(self) -> bool:
        """Return whether the image will be segmented, and not as a slide."""
        return not (self.already or self.as_slide or self.failure)

    @property
    def pixels(self) -> int:
        """Number of pixels of the image; 0 if unknown."""
        return 0 if self.size_hw is None else self.size_hw[0] * self.size_hw[1]


@dataclass(frozen=True, slots=True)
class SlidesEstimate:
    """Time and memory of the slides of a job in one process."""

    seconds: float
    """Upper bound, as if no tile were empty."""
    seconds_per_tile: float
    """Time for a tile of the slowest slide."""
    memory_mib: float | None


@dataclass(frozen=True, slots=True)
class FolderEstimate:
    """Time and memory of a job in one process, without its slides."""

    sample: ImageForecast
    """The image of middle size, which was timed."""
    seconds: float
    memory_mib: float | None
    """Peak memory of a process; None if the system does not report it."""


def forecast_folder(
    targets: Sequence[Target], work: ImageWork, records: Records, options: FolderOptions, model_size: int
) -> list[ImageForecast]:
    """Forecast what a job would do with each image, without segmenting or writing anything.

    Args:
        targets, work, records, options: as for ``segment_folder``.
        model_size: side of the model input, pixels.
    """
    return [_forecast(target, work, records, options, model_size) for target in targets]


def _forecast(
    target: Target, work: ImageWork, records: Records, options: FolderOptions, model_size: int
) -> ImageForecast:
    judged = records.judge(target, restart=options.restart, overwrite=options.overwrite)
    if judged is not None:
        return ImageForecast(target=target, already=judged.already, failure=judged.failure)
    files = work.files
    try:
        with opened(target[0], files) as reader:
            size_hw = reader.size_hw
            config = work.config.at_pixel_size(files.pixel_size_um or reader.pixel_size_um, str(target[0]))
        as_slide = is_slide(target[0], size_hw, files.largest_px)
        tiles = None if as_slide else _tiles(size_hw, config, model_size)
    except RECOVERABLE_ERRORS as error:
        return ImageForecast(target=target, failure=Failure.of(error, target[0]))
    if as_slide:
        return ImageForecast(target=target, size_hw=size_hw, as_slide=True)
    return ImageForecast(target=target, size_hw=size_hw, tiles=tiles, diameter_px=config.diameter_px)


def _tiles(size_hw: tuple[int, int], config: SegmentConfig, model_size: int) -> int | None:
    if config.view_diameter_px is None:
        return 1
    if config.diameter_px is None:
        return None
    return len(grid_at_scale(size_hw, config.diameter_px, model_size, config.view_diameter_px))


def estimate_folder(
    forecasts: Sequence[ImageForecast], work: ImageWork
) -> tuple[list[ImageForecast], FolderEstimate | None]:
    """Time the image of median size, and assume the same time per tile or pixel for the others.

    If that image fails, try the next one.

    Returns:
        The images, with the failures found, and the estimate; None if there is no image that can be segmented.

    Raises:
        EngineError, BackendError: the engines cannot be loaded.
    """
    known = {one.target: one for one in forecasts}
    waiting = sorted((one for one in forecasts if one.to_do), key=lambda one: one.pixels)
    while waiting:
        segmenter, sample = loaded_segmenter(work.engines), waiting[len(waiting) // 2]
        try:
            seconds = _seconds(sample, segmenter, work.config, work.files)
        except RECOVERABLE_ERRORS as error:
            waiting.remove(sample)
            known[sample.target] = replace(sample, failure=Failure.of(error, sample.target[0]))
            continue
        share = sum(
            one.tiles / sample.tiles if one.tiles and sample.tiles else one.pixels / sample.pixels for one in waiting
        )
        memory = _memory_mib(waiting[-1].pixels - sample.pixels)
        return list(known.values()), FolderEstimate(sample, share * seconds, memory)
    return list(known.values()), None


def estimate_slides(
    forecasts: Sequence[ImageForecast], work: ImageWork
) -> tuple[list[ImageForecast], SlidesEstimate | None]:
    """Lay out each slide and segment one of its tiles.

    Returns:
        The images, in which slides have their number of tiles or their failure, and the estimate; None if there is no
        usable slide.

    Raises:
        EngineError, BackendError: the engines cannot be loaded.
    """
    from runtime.jobs.slides.engines import for_tiles
    from runtime.jobs.slides.estimate import Estimate, estimate
    from runtime.jobs.slides.slide_file import open_slide

    known, found = list(forecasts), list[Estimate]()
    for place, one in enumerate(forecasts):
        if not one.as_slide or one.failure is not None:
            continue
        try:
            reader = open_slide(one.target[0], work.files)
            found.append(estimate(reader, for_tiles(work.engines), work.config, work.slides))
            layout = found[-1].layout
            known[place] = replace(
                one, tiles=found[-1].tiles, tile_px=layout.grid.side, diameter_px=layout.appearance.diameter_px
            )
        except RECOVERABLE_ERRORS as error:
            known[place] = replace(one, failure=Failure.of(error, one.target[0]))
    if not found:
        return known, None
    peaks = [one.memory_mib for one in found if one.memory_mib is not None]
    return known, SlidesEstimate(
        sum(one.seconds for one in found), max(one.seconds_per_tile for one in found), max(peaks, default=None)
    )


def _seconds(sample: ImageForecast, segmenter: Segmenter, config: SegmentConfig, files: FileOptions) -> float:
    """Time reading and segmenting an image, after a warm-up call on a part of it."""
    image = sample.target[0]
    with opened(image, files) as reader:
        height, width = (min(length, _WARM_UP_PX) for length in reader.size_hw)
        top, left = ((whole - part) // 2 for whole, part in zip(reader.size_hw, (height, width), strict=True))
        segmenter(reader.read(top, left, height, width), config=replace(config, diameter_um=None))
    start = time.perf_counter()
    read = read_file(image, files)
    segmenter(read.pixels, config=config.at_pixel_size(read.pixel_size_um, str(image)))
    return time.perf_counter() - start


def _memory_mib(more_pixels: int) -> float | None:
    """Add to the peak memory so far what the largest image needs beyond the timed one."""
    peak = peak_mib()
    return None if peak is None else peak + more_pixels * _PIXEL_BYTES / (1 << 20)
