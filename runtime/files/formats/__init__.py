"""Readers of microscope image files in parts; see ``open_image``."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import InputError
from runtime.files.formats.axes import Plane
from runtime.files.formats.base import FileReader
from runtime.files.formats.channels import ChosenChannels, choose_channels, without_copies
from runtime.files.formats.choices import check_level
from runtime.files.formats.ngff import NgffReader, is_zarr
from runtime.files.formats.pictures import PictureReader
from runtime.files.formats.slides import SLIDE_SUFFIXES, SlideReader
from runtime.files.formats.tiff import TiffReader

__all__ = [
    "IMAGE_SUFFIXES",
    "ChosenChannels",
    "FileReader",
    "Plane",
    "choose_channels",
    "is_zarr",
    "open_image",
    "without_copies",
]

SMALL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
"""Suffixes of files that ``read_image`` also reads."""

IMAGE_SUFFIXES = (*SMALL_SUFFIXES, *SLIDE_SUFFIXES)
"""Suffixes of image files. OME-Zarr images are directories, recognised by the files inside."""


VENDOR_SUFFIXES = (
    *(".czi", ".dcm", ".dv", ".flex", ".ics", ".ids", ".ims", ".lif", ".lof", ".lsm", ".mrc", ".nd", ".nd2", ".oib"),
    *(".oif", ".oir", ".pic", ".qptiff", ".r3d", ".sld", ".sldy", ".stk", ".vsi", ".xlif", ".zvi"),
)
"""Suffixes of proprietary microscope formats, which cannot be read."""

VENDOR_HINT = "Convert proprietary microscope files to OME-TIFF, for example with Bio-Formats in Fiji."


def open_image(
    path: str | Path, *, series: int | str | None = None, plane: Plane | None = None, level: int = 0
) -> FileReader:
    """Open an image of any size, to read parts on demand.

    Args:
        path: a TIFF, OME-TIFF, PNG, JPEG or npy file, the directory of an OME-Zarr image, or a whole slide.
        series: number or name of the image in a file with several; for OME-Zarr, also the path of an image inside.
        plane: the plane of a stack.
        level: level of a pyramid; 0 is the largest.

    Returns:
        An ``ImageReader``. Close it, or use it in a ``with`` statement.

    Raises:
        InputError: the file does not exist, is of another type or damaged, a package is not installed, or the choice of
            series, plane or level is missing or invalid. The message lists the choices.
    """
    path, plane = Path(path), plane or Plane()
    if is_zarr(path):
        return NgffReader(path, series=series, plane=plane, level=level)
    check_file(path, IMAGE_SUFFIXES)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return TiffReader(path, series=series, plane=plane, level=level)
    for name, value in (("series", series), ("time", plane.time), ("z", plane.z)):
        if value not in (None, 0, "0"):
            raise InputError(
                f"{path} has one plane, but {name}={value} was given. Leave it out.", kind="not_found", field=name
            )
    if suffix in SLIDE_SUFFIXES:
        return SlideReader(path, level=level)
    check_level(path, level, 1)
    return PictureReader(path)


def check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise an ``InputError`` unless this is a file of one of these types that is not empty."""
    if path.is_dir():
        raise InputError(f"{path} is a directory, but not an OME-Zarr image; give image files.", kind="wrong_type")
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path.", kind="not_found")
    if path.suffix.lower() not in suffixes:
        hint = f" {VENDOR_HINT}" if path.suffix.lower() in VENDOR_SUFFIXES else ""
        raise InputError(
            f"{path} has type {path.suffix or 'none'!r}; expected one of {', '.join(suffixes)}.{hint}",
            kind="unsupported",
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again.", kind="damaged")
