"""Settings of a slide job."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from runtime.config import check_whole
from runtime.errors import ConfigError
from runtime.files.outputs.formats import DEFAULT_FORMATS, check_measure, parse_formats

_OF_RESULTS = ("retries", "formats", "overlay", "measure", "max_tiles")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideSettings:
    """Tiling of a slide, and its results.

    Raises:
        ConfigError: a value is outside its range.
    """

    tile_px: int | None = None
    """Side of the tiles, slide pixels. None derives it from the cell diameter; if the engines have no
    ``view_diameter_px``, tiles then have the size of the model input."""

    overlap_px: int | None = None
    """Minimum overlap of neighbouring tiles, slide pixels. None means 2.5 cell diameters, or a quarter of the tile if
    the diameter is unknown."""

    min_contrast: float = 2 / 256
    """Tiles whose channels all vary by less than this share of the slide's range are skipped as empty; 0 skips only
    constant tiles. The default corresponds to two of the 256 gray levels of the equalisation."""

    tiles_together: int = 8
    """Tiles in a batch, which share decoder calls; after an interruption, unfinished batches are repeated."""

    max_tiles: int = 1_000_000
    """Slides of more tiles are rejected: usually, their files declare a wrong size."""

    retries: int = 2
    """Number of retries of a failed tile."""

    formats: tuple[str, ...] = DEFAULT_FORMATS
    """Formats to write, named as in ``outputs.formats.OUTPUT_FORMATS``."""

    overlay: bool = False
    """Also write a picture of the slide with outlined cells, shrunk to at most 4096 pixels a side."""

    measure: bool = False
    """Also write perimeter, eccentricity and the intensities of each channel to the tables."""

    def __post_init__(self) -> None:
        check_measure(self.measure, parse_formats(self.formats))
        check_whole("tiles_together", self.tiles_together, least=1)
        check_whole("retries", self.retries, least=0)
        check_whole("max_tiles", self.max_tiles, least=1)
        if self.tile_px is not None:
            check_whole("tile_px", self.tile_px, least=16)
        if self.overlap_px is not None:
            check_whole("overlap_px", self.overlap_px, least=0)
        if self.tile_px is not None and self.overlap_px is not None and 2 * self.overlap_px > self.tile_px:
            raise ConfigError(
                f"overlap_px is {self.overlap_px} and tile_px {self.tile_px}; expected an overlap of at most half a "
                "tile.",
                kind="conflict",
                field="overlap_px",
            )
        if not 0.0 <= self.min_contrast < 1.0:
            raise ConfigError(
                f"min_contrast is {self.min_contrast}; expected a value from 0 to below 1.", field="min_contrast"
            )

    def of_tiles(self) -> dict[str, Any]:
        """Return the settings that tiles depend on."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_RESULTS}
