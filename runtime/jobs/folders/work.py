"""The piece of work of a folder job: one image file, read, segmented and written by any process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from runtime.config import SegmentConfig
from runtime.errors import RECOVERABLE_ERRORS, ImageTooLargeError
from runtime.files.image_results import FileOptions, ReadImage, read_file, write_results
from runtime.jobs.failure import Failure
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.jobs.slides.settings import SlideSettings
from runtime.jobs.step import at_work_on
from runtime.results import Appearance, Segmentation

Target = tuple[Path, Path]
"""An image, and the path its results begin with."""

SMALL_VALUES = 16_000_000
"""Images with more values than this are segmented one at a time: several copies of each are held."""

_ONE_LARGE = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class TilesDone:
    """How a slide was segmented."""

    settings: Mapping[str, Any]
    """Those that its tiles depend on."""
    tiles: int
    skipped: int
    """Tiles without signal that this run skipped."""
    failed: tuple[str, ...] = ()
    """Tiles that have no result, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDone:
    """What became of one image."""

    target: Target
    cells: int = 0
    size_hw: tuple[int, int] | None = None
    """Height and width in pixels; None if the image was not opened."""
    seconds: float = 0.0
    """Time of reading, segmenting and writing it; images that share an engine call share its time."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the image was shown to the model."""
    slide: TilesDone | None = None
    """None for an image that was segmented whole."""
    as_slide: bool = False
    """It is a slide, and not segmented yet."""
    already: bool = False
    """An earlier run did it."""
    failure: Failure | None = None
    """Why it has no result."""


def failed_by(target: Target, error: BaseException) -> ImageDone:
    """What became of an image at which an error was raised."""
    return ImageDone(target=target, failure=Failure.of(error, target[0]))


class _Waiting(NamedTuple):
    """An image that was read, the settings for its pixel size, and the seconds that reading took."""

    target: Target
    image: ReadImage
    config: SegmentConfig
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageWork:
    """Everything a process needs to segment images; can be pickled."""

    engines: SegmenterSpec
    config: SegmentConfig
    files: FileOptions
    slides: SlideSettings = field(default_factory=SlideSettings)
    """How slides among the images are cut."""

    def run(self, target: Target) -> ImageDone:
        """Segment an image and write its results; the engines are loaded at the first."""
        (done,) = self.run_together([target])
        return done

    def run_together(
        self, targets: Sequence[Target], *, large: Callable[[Target, tuple[int, int], bool], None] | None = None
    ) -> list[ImageDone]:
        """``run`` for several images, which share engine calls if they are small; one that fails harms no other.

        Args:
            targets: the images.
            large: told of each large image, with its size, before it is segmented (False) and after (True).
        """
        done: list[ImageDone] = []
        waiting: dict[SegmentConfig, list[_Waiting]] = {}
        for target in targets:
            one = self._read(target)
            if isinstance(one, ImageDone):
                done.append(one)
            elif one.image.pixels.size <= SMALL_VALUES:
                waiting.setdefault(one.config, []).append(one)
            else:
                with _ONE_LARGE:
                    tell = large or (lambda *_: None)
                    tell(target, _size_hw(one), False)
                    done += self._segmented([one], one.config)
                    tell(target, _size_hw(one), True)
        for config, images in waiting.items():
            done += self._segmented(images, config)
        return done

    def _read(self, target: Target) -> _Waiting | ImageDone:
        start = time.perf_counter()
        try:
            with at_work_on([target[0]]):
                image = read_file(target[0], self.files)
            config = self.config.at_pixel_size(image.pixel_size_um, str(target[0]))
        except ImageTooLargeError:
            return ImageDone(target=target, as_slide=True)
        except RECOVERABLE_ERRORS as error:
            return failed_by(target, error)
        return _Waiting(target, image, config, time.perf_counter() - start)

    def _segmented(self, images: Sequence[_Waiting], config: SegmentConfig) -> list[ImageDone]:
        """Segment images together; if that fails, one by one."""
        start = time.perf_counter()
        try:
            segmenter = loaded_segmenter(self.engines)
            with at_work_on([one.target[0] for one in images]):
                results = segmenter.batch([one.image.pixels for one in images], config=config)
        except RECOVERABLE_ERRORS as error:
            if len(images) > 1:
                return [done for one in images for done in self._segmented([one], config)]
            return [failed_by(one.target, error) for one in images]
        each = (time.perf_counter() - start) / len(images)
        return [
            self._written(one._replace(seconds=one.seconds + each), result)
            for one, result in zip(images, results, strict=True)
        ]

    def _written(self, one: _Waiting, result: Segmentation) -> ImageDone:
        start = time.perf_counter()
        try:
            write_results(result, one.image, one.target[1], self.files)
        except RECOVERABLE_ERRORS as error:
            return failed_by(one.target, error)
        return ImageDone(
            target=one.target,
            cells=len(result),
            size_hw=_size_hw(one),
            appearance=result.appearance,
            seconds=one.seconds + time.perf_counter() - start,
        )

    def failed(self, target: Target, error: BaseException) -> ImageDone:
        """What became of an image that a cluster could not do."""
        return ImageDone(target=target, failure=Failure.of(error, message=f"{type(error).__name__}: {error}"))


def _size_hw(one: _Waiting) -> tuple[int, int]:
    height, width = one.image.pixels.shape[:2]
    return height, width
