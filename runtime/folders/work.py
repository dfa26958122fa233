"""The piece of work of a folder job: one image file, read, segmented and written by any process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import SegmentConfig
from runtime.engine_spec import SegmenterSpec, loaded_segmenter
from runtime.errors import ImageTooLargeError, SegmenterError
from runtime.segment_files import FileOptions, segment_file

Target = tuple[Path, Path]
"""An image, and the path its results begin with."""

CAUGHT = (SegmenterError, OSError, MemoryError, RuntimeError, ValueError)
"""What a damaged file, a full memory or disk, or a backend raise."""


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
        try:
            segmenter = loaded_segmenter(self.engines)
            result = segment_file(lambda image: segmenter(image, config=self.config), *target, self.files)
        except ImageTooLargeError:
            return ImageDone(target=target, too_large=True)
        except CAUGHT as error:
            return ImageDone(target=target, failure=reason_of(error, target[0]))
        return ImageDone(target=target, cells=result.count)

    def failed(self, target: Target, error: BaseException) -> ImageDone:
        """What became of an image that a cluster could not do."""
        return ImageDone(target=target, failure=f"{type(error).__name__}: {error}")


def reason_of(error: Exception, image: Path) -> str:
    """What an error says, in one line for a list of images."""
    if isinstance(error, OSError) and error.strerror:
        of_image = error.filename is None or str(error.filename) == str(image)
        return error.strerror if of_image else f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__
