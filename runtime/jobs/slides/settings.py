"""Settings of one slide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from runtime.config import check_whole
from runtime.errors import ConfigError
from runtime.files.outputs.formats import DEFAULT_FORMATS, check_measure, parse_formats

_OF_RESULTS = ("retries", "formats", "overlay", "measure", "max_tiles")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideSettings:
    """How a slide is cut, and what becomes of its tiles.

    Raises:
        ConfigError: a value outside its range.
    """

    tile_px: int | None = None
    """Side of the tiles, slide pixels; None takes it from the diameter of the cells, or shows the slide to the model
    pixel by pixel where the engines name no ``view_diameter_px``."""

    overlap_px: int | None = None
    """Least overlap of neighbouring tiles, slide pixels; None: 2.5 cell diameters, or a quarter of the tile where no
    diameter is known."""

    min_contrast: float = 2 / 256
    """Tiles whose channels all vary by less than this share of the slide's range are taken to be empty; 0 skips only
    those that are constant. The default is two of the gray levels that the equalisation tells apart."""

    tiles_together: int = 8
    """Tiles that share decoder calls; the piece of work that is repeated after an interruption."""

    max_tiles: int = 1_000_000
    """A slide of more tiles is refused: more likely, its file claims a size that it does not have."""

    retries: int = 2
    """Times that a tile which failed is tried again."""

    formats: tuple[str, ...] = DEFAULT_FORMATS
    """What is written: names of ``outputs.formats.OUTPUT_FORMATS``."""

    overlay: bool = False
    """Also a picture of the slide with outlined cells, shrunk to at most 4096 pixels a side."""

    measure: bool = False
    """Also perimeter, eccentricity and the intensities of each channel, in the tables."""

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
                f"overlap_px is {self.overlap_px} and tile_px {self.tile_px}; expected an overlap of half a tile at "
                "most.",
                kind="conflict",
                field="overlap_px",
            )
        if not 0.0 <= self.min_contrast < 1.0:
            raise ConfigError(
                f"min_contrast is {self.min_contrast}; expected a value from 0 to below 1.", field="min_contrast"
            )

    def of_tiles(self) -> dict[str, Any]:
        """The settings that tiles depend on."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_RESULTS}
