"""The piece of work of a folder job: one image file, read, segmented and written by any process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runtime.config import SegmentConfig
from runtime.errors import CAUGHT, ImageTooLargeError, reason_of
from runtime.files.image_results import FileOptions, ReadImage, read_file, write_results
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.results import Segmentation

Target = tuple[Path, Path]
"""An image, and the path its results begin with."""

SMALL_VALUES = 16_000_000
"""Images with more values than this are segmented one at a time: several copies of each are held."""

_ONE_LARGE = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDone:
    """What became of one image."""

    target: Target
    cells: int = 0
    too_large: bool = False
    """It is not segmented yet: its pixels are those of a slide."""
    already: bool = False
    """An earlier run did it."""
    failure: str | None = None
    """Why it has no result."""


class _Waiting(NamedTuple):
    """An image that was read, and the settings for its pixel size."""

    target: Target
    image: ReadImage
    config: SegmentConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageWork:
    """Everything a process needs to segment images; can be pickled."""

    engines: SegmenterSpec
    config: SegmentConfig
    files: FileOptions

    def run(self, target: Target) -> ImageDone:
        """Segment an image and write its results; the engines are loaded at the first."""
        (done,) = self.run_together([target])
        return done

    def run_together(self, targets: Sequence[Target]) -> list[ImageDone]:
        """``run`` for several images, which share engine calls where they are small; one that fails harms no other."""
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
                    done += self._segmented([one], one.config)
        for config, images in waiting.items():
            done += self._segmented(images, config)
        return done

    def _read(self, target: Target) -> _Waiting | ImageDone:
        try:
            image = read_file(target[0], self.files)
            return _Waiting(target, image, self.config.at_pixel_size(image.pixel_size_um, str(target[0])))
        except ImageTooLargeError:
            return ImageDone(target=target, too_large=True)
        except CAUGHT as error:
            return ImageDone(target=target, failure=reason_of(error, target[0]))

    def _segmented(self, images: Sequence[_Waiting], config: SegmentConfig) -> list[ImageDone]:
        """Segment images together; where that fails, one by one."""
        try:
            segmenter = loaded_segmenter(self.engines)
            results = segmenter.batch([one.image.pixels for one in images], config=config)
        except CAUGHT as error:
            if len(images) > 1:
                return [done for one in images for done in self._segmented([one], config)]
            return [ImageDone(target=one.target, failure=reason_of(error, one.target[0])) for one in images]
        return [self._written(one, result) for one, result in zip(images, results, strict=True)]

    def _written(self, one: _Waiting, result: Segmentation) -> ImageDone:
        image, stem = one.target
        try:
            write_results(result, one.image, stem, self.files)
        except CAUGHT as error:
            return ImageDone(target=one.target, failure=reason_of(error, image))
        return ImageDone(target=one.target, cells=result.count)

    def failed(self, target: Target, error: BaseException) -> ImageDone:
        """What became of an image that a cluster could not do."""
        return ImageDone(target=target, failure=f"{type(error).__name__}: {error}")
