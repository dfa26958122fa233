"""What a folder job will take, from the headers of its images and one image segmented."""

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
"""Of one pixel of an image: three channels of float32, raw and normalised."""

_WARM_UP_PX = 64
"""Side of the part of an image that is segmented before the image is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageForecast:
    """One image of a job that is not run yet."""

    target: Target
    size_hw: tuple[int, int] | None = None
    """None for an image that cannot be opened, or is not looked into."""
    tiles: int | None = None
    """None if the diameter of its cells is yet to be measured, or the slide to be laid out."""
    tile_px: int | None = None
    """Side of the tiles of a slide, pixels."""
    diameter_px: float | None = None
    """Median cell diameter, pixels, if it is known."""
    already: bool = False
    as_slide: bool = False
    """It will be segmented as a slide."""
    failure: Failure | None = None

    @property
    def to_do(self) -> bool:
        """Whether it will be segmented as an image."""
        return not (self.already or self.as_slide or self.failure)

    @property
    def pixels(self) -> int:
        """Of the image."""
        return 0 if self.size_hw is None else self.size_hw[0] * self.size_hw[1]


@dataclass(frozen=True, slots=True)
class SlidesEstimate:
    """Time and memory of the slides of a job in one process."""

    seconds: float
    """At most: no tile is empty."""
    seconds_per_tile: float
    """Of the slowest slide."""
    memory_mib: float | None


@dataclass(frozen=True, slots=True)
class FolderEstimate:
    """Time and memory of a job in one process, slides left out."""

    sample: ImageForecast
    """The image of middle size, which was timed."""
    seconds: float
    memory_mib: float | None
    """Peak of a process; None where the system does not tell."""


def forecast_folder(
    targets: Sequence[Target], work: ImageWork, records: Records, options: FolderOptions, model_size: int
) -> list[ImageForecast]:
    """What a job would do with each image; no pixel is segmented, and nothing written.

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
    """Segment the image of middle size, and take it that the others cost the same a tile, or a pixel.

    Where that image fails, the next one is taken.

    Returns:
        The images, those that failed with why, and the estimate; None where no image is to be segmented, or can be.

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
        The images, slides with the number of their tiles or why they failed, and the estimate; None without a slide.

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
    """Time of reading and segmenting an image, once a part of it has been: the first call also warms up."""
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
    """The peak so far, and what the largest image takes beyond the one that was timed."""
    peak = peak_mib()
    return None if peak is None else peak + more_pixels * _PIXEL_BYTES / (1 << 20)
