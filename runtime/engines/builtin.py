"""What ships inside the package: a small model's engines and a few images to try them on."""

from __future__ import annotations

from pathlib import Path

BUILTIN_NAME = "nano"

_PACKAGE = Path(__file__).parents[1]


def builtin_engine() -> Path:
    """Directory of the built-in engines; the model card is the ``README.md`` in it."""
    return _PACKAGE / "models" / BUILTIN_NAME


def sample_images() -> list[Path]:
    """The images that ship with the package, sorted by name; their sources are in the ``README.md`` beside them."""
    return sorted((_PACKAGE / "samples").glob("*_img.png"))
