"""Settings that accompany weights, from the checkpoint to the engines' manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta

from runtime.config import SegmentConfig
from runtime.typed_json import convert, refuse_unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Known settings and trained channels of weights."""

    settings: SegmentConfig | None = None
    """Thresholds, and the diameter at which cells are shown; None if they were never chosen."""
    trained_channels: tuple[Annotated[int, Meta(ge=1, le=3)], ...] = ()
    """Numbers of channels of the images that the weights were trained on, ascending; empty if unknown."""

    def trained_on(self, channels: tuple[int, ...]) -> Usage:
        """Return the usage after further training on images with these numbers of channels."""
        return Usage(settings=self.settings, trained_channels=tuple(sorted({*self.trained_channels, *channels})))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which ``torch.load`` reads without running code."""
        settings = None if self.settings is None else asdict(self.settings)
        return {"settings": settings, "trained_channels": list(self.trained_channels)}


def usage_from_json(content: Mapping[str, Any]) -> Usage:
    """Read the output of ``Usage.to_json``; entries that are missing, as in earlier checkpoints, are unknown.

    Raises:
        FieldError: an entry has the wrong type, or a setting does not exist.
        ConfigError: a setting is out of range.
    """
    settings = convert(content.get("settings"), dict[str, Any] | None)  # type: ignore[arg-type]
    if settings is not None:
        refuse_unknown(settings, SegmentConfig, "settings")
    known = {"trained_channels": content.get("trained_channels", ())}
    channels = convert(known, Usage).trained_channels
    return Usage(settings=None if settings is None else SegmentConfig(**settings), trained_channels=channels)
