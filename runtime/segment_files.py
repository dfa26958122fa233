"""From an image file to the files of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.errors import ConfigError, InputError
from runtime.formats import Plane, choose_channels, open_image
from runtime.outputs.formats import DEFAULT_FORMATS, OUTPUT_FORMATS, output_path
from runtime.results import Segmentation

OVERLAY_ENDING = "_overlay.png"


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
    overwrite: bool = False
    """Replace results that exist."""

    def __post_init__(self) -> None:
        if self.rgb and (self.nuclear is not None or self.membrane is not None):
            raise ConfigError("rgb takes all three planes of an image; expected either it or nuclear and membrane.")
        if self.pixel_size_um is not None and not 0 < self.pixel_size_um < float("inf"):
            raise ConfigError(f"pixel_size_um is {self.pixel_size_um}; expected a positive number of micrometres.")

    @property
    def endings(self) -> tuple[str, ...]:
        """What follows an image's name in the names of its results."""
        overlay = (OVERLAY_ENDING,) if self.overlay else ()
        return (*(OUTPUT_FORMATS[name].ending for name in self.formats), *overlay)


def segment_file(
    segmenter: Callable[[NDArray[Any]], Segmentation], path: Path, stem: Path, options: FileOptions
) -> tuple[Segmentation, Path]:
    """Segment one image file and write its results.

    Args:
        segmenter: a ``Segmenter``.
        path: the image.
        stem: what the results' paths begin with; their directory is made if need be.
        options: what to read and write.

    Returns:
        The result, and the first file written.

    Raises:
        InputError: results that exist, or an image that cannot be read or segmented.
        BackendError: the backend failed.
    """
    from runtime.overlay import write_overlay

    existing = [f"{stem}{ending}" for ending in options.endings if Path(f"{stem}{ending}").exists()]
    if existing and not options.overwrite:
        raise InputError(f"{' and '.join(existing)} exist; pass --overwrite to replace them.")
    with open_image(path, series=options.series, plane=options.plane) as reader:
        chosen = choose_channels(reader, nuclear=options.nuclear, membrane=options.membrane, rgb=options.rgb)
        image = chosen.read(0, 0, *chosen.size_hw)
        pixel_size_um = options.pixel_size_um or chosen.pixel_size_um
    result = segmenter(image)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [output_path(stem, name) for name in options.formats]
    for name, target in zip(options.formats, written, strict=True):
        OUTPUT_FORMATS[name].write(target, result, pixel_size_um)
    if options.overlay:
        write_overlay(Path(f"{stem}{OVERLAY_ENDING}"), image, result.labels)
    return result, written[0]
