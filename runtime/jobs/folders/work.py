"""The unit of work of a folder job: any process can read and segment an image file and write its results."""

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
from runtime.provenance import Provenance, distinct
from runtime.results import Appearance, Segmentation

Target = tuple[Path, Path]
"""An image, and the common beginning of its result paths."""

SMALL_VALUES = 16_000_000
"""Images with more values than this are segmented one at a time: each needs several copies in memory."""

_ONE_LARGE = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class TilesDone:
    """Outcome for the tiles of a slide."""

    settings: Mapping[str, Any]
    """Settings on which the tiles depend."""
    tiles: int
    skipped: int
    """Tiles without signal that this run skipped."""
    failed: tuple[str, ...] = ()
    """Descriptions of the tiles without a result, with the reasons."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDone:
    """Outcome for one image."""

    target: Target
    cells: int = 0
    size_hw: tuple[int, int] | None = None
    """Height and width in pixels; None if the image was not opened."""
    seconds: float = 0.0
    """Time to read, segment and write the image; images that share an engine call share its time."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the image was shown to the model."""
    provenance: tuple[Provenance, ...] = ()
    """Origin of the result; several records if processes with different engines made parts of a slide."""
    slide: TilesDone | None = None
    """None for an image that was segmented whole."""
    as_slide: bool = False
    """True for a slide that is not segmented yet."""
    already: bool = False
    """True if an earlier run finished the image."""
    failure: Failure | None = None
    """Reason why the image has no result."""


def failed_by(target: Target, error: BaseException) -> ImageDone:
    """Return the outcome of an image for which an error was raised."""
    return ImageDone(target=target, failure=Failure.of(error, target[0]))


class _Waiting(NamedTuple):
    """An image read from its file, the settings for its pixel size, and the reading time in seconds."""

    target: Target
    image: ReadImage
    config: SegmentConfig
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageWork:
    """Everything that a process needs to segment images, picklable."""

    engines: SegmenterSpec
    config: SegmentConfig
    files: FileOptions
    slides: SlideSettings = field(default_factory=SlideSettings)
    """Settings for slides among the images."""

    def run(self, target: Target) -> ImageDone:
        """Segment an image and write its results; the first call loads the engines."""
        (done,) = self.run_together([target])
        return done

    def run_together(
        self, targets: Sequence[Target], *, large: Callable[[Target, tuple[int, int], bool], None] | None = None
    ) -> list[ImageDone]:
        """Segment several images and write their results; small ones share engine calls. A failure affects one image.

        Args:
            targets: the images.
            large: called for each large image, with its size, before (False) and after (True) it is segmented.
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
                    report = large or (lambda *_: None)
                    report(target, _size_hw(one), False)
                    done += self._segmented([one], one.config)
                    report(target, _size_hw(one), True)
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
            provenance=distinct([result.provenance]),
            seconds=one.seconds + time.perf_counter() - start,
        )

    def failed(self, target: Target, error: BaseException) -> ImageDone:
        """Return the outcome of an image that failed on a cluster."""
        return ImageDone(target=target, failure=Failure.of(error, message=f"{type(error).__name__}: {error}"))


def _size_hw(one: _Waiting) -> tuple[int, int]:
    height, width = one.image.pixels.shape[:2]
    return height, width
