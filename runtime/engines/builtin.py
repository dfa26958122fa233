"""Files that ship inside the package: the engines of a small model and a few images to try them on."""

from __future__ import annotations

from pathlib import Path

BUILTIN_NAME = "nano"

_PACKAGE = Path(__file__).parents[1]


def builtin_engine() -> Path:
    """Return the directory of the built-in engines, whose ``README.md`` is the model card."""
    return _PACKAGE / "models" / BUILTIN_NAME


def sample_images() -> list[Path]:
    """Return the sample images of the package, sorted by name; the ``README.md`` beside them lists their sources."""
    return sorted((_PACKAGE / "samples").glob("*_img.png"))
