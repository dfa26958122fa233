"""How weights are meant to be used: what a checkpoint carries beside them, from training to the engines' manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta

from runtime.config import SegmentConfig
from runtime.typed_json import convert, refuse_unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Settings and channels of weights, as far as they are known."""

    settings: SegmentConfig | None = None
    """Thresholds, and the diameter at which cells are shown; None if nobody chose any."""
    trained_channels: tuple[Annotated[int, Meta(ge=1, le=3)], ...] = ()
    """Numbers of channels of the images that the weights were trained on, ascending; empty if unknown."""

    def trained_on(self, channels: tuple[int, ...]) -> Usage:
        """The usage of weights that were trained further, on images with these numbers of channels."""
        return Usage(settings=self.settings, trained_channels=tuple(sorted({*self.trained_channels, *channels})))

    def to_json(self) -> dict[str, Any]:
        """Plain values, which ``torch.load`` reads without running anything."""
        settings = None if self.settings is None else asdict(self.settings)
        return {"settings": settings, "trained_channels": list(self.trained_channels)}


def usage_from_json(content: Mapping[str, Any]) -> Usage:
    """What ``Usage.to_json`` wrote; entries that are absent, as in earlier checkpoints, are unknown.

    Raises:
        FieldError: an entry of another type, or a setting that does not exist.
        ConfigError: a setting outside its range.
    """
    settings = convert(content.get("settings"), dict[str, Any] | None)  # type: ignore[arg-type]
    if settings is not None:
        refuse_unknown(settings, SegmentConfig, "settings")
    known = {"trained_channels": content.get("trained_channels", ())}
    channels = convert(known, Usage).trained_channels
    return Usage(settings=None if settings is None else SegmentConfig(**settings), trained_channels=channels)
