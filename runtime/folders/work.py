"""The piece of work of a folder job: one image file, read, segmented and written by any process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.config import SegmentConfig
from runtime.engine_spec import SegmenterSpec, loaded_segmenter
from runtime.errors import ImageTooLargeError, SegmenterError, reason_of
from runtime.results import Segmentation
from runtime.segment_files import FileOptions, ReadImage, read_file, write_results

Target = tuple[Path, Path]
"""An image, and the path its results begin with."""

SMALL_VALUES = 16_000_000
"""Images with more values than this are segmented one at a time: several copies of each are held."""

CAUGHT = (SegmenterError, OSError, MemoryError, RuntimeError, ValueError)
"""What a damaged file, a full memory or disk, or a backend raise."""

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
        waiting: list[tuple[Target, ReadImage]] = []
        for target in targets:
            image = self._read(target)
            if isinstance(image, ImageDone):
                done.append(image)
            elif image.pixels.size <= SMALL_VALUES:
                waiting.append((target, image))
            else:
                with _ONE_LARGE:
                    done += self._segmented([(target, image)])
        return done + self._segmented(waiting)

    def _read(self, target: Target) -> ReadImage | ImageDone:
        try:
            return read_file(target[0], self.files)
        except ImageTooLargeError:
            return ImageDone(target=target, too_large=True)
        except CAUGHT as error:
            return ImageDone(target=target, failure=reason_of(error, target[0]))

    def _segmented(self, images: Sequence[tuple[Target, ReadImage]]) -> list[ImageDone]:
        """Segment images together; where that fails, one by one."""
        try:
            segmenter = loaded_segmenter(self.engines)
            results = segmenter.batch([image.pixels for _, image in images], config=self.config)
        except CAUGHT as error:
            if len(images) > 1:
                return [done for one in images for done in self._segmented([one])]
            return [ImageDone(target=target, failure=reason_of(error, target[0])) for target, _ in images]
        return [self._written(*one, result) for one, result in zip(images, results, strict=True)]

    def _written(self, target: Target, image: ReadImage, result: Segmentation) -> ImageDone:
        try:
            write_results(result, image, target[1], self.files)
        except CAUGHT as error:
            return ImageDone(target=target, failure=reason_of(error, target[0]))
        return ImageDone(target=target, cells=result.count)

    def failed(self, target: Target, error: BaseException) -> ImageDone:
        """What became of an image that a cluster could not do."""
        return ImageDone(target=target, failure=f"{type(error).__name__}: {error}")
