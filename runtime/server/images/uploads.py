"""Images that requests bring or name: into a file of known type, checked before it is decoded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import ImageTooLargeError, InputError
from runtime.files.formats import IMAGE_SUFFIXES, is_zarr
from runtime.files.formats.pictures import picture_size
from runtime.files.image_results import FileOptions, ReadImage, opened, read_file

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"II+\x00", ".tif"),
    (b"MM\x00+", ".tif"),
    (b"\x93NUMPY", ".npy"),
)
"""First bytes of the types of files that may be uploaded, with their suffixes. ``+`` marks BigTIFF."""

_PICTURES = (".png", ".jpg", ".jpeg")


def suffix_of(head: bytes) -> str:
    """Recognise a file by its first bytes; return its suffix.

    Raises:
        InputError: it is of another type.
    """
    for signature, suffix in _SIGNATURES:
        if head.startswith(signature):
            return suffix
    came = "is empty" if not head else f"begins with {head[:8].hex()}"
    raise InputError(
        f"the file {came}; expected a PNG, JPEG, TIFF or npy file. Send the bytes of the file as the body.",
        kind="unsupported",
        field="image",
    )


@contextmanager
def stored(content: bytes) -> Iterator[Path]:
    """Write an image to a directory of its own for as long as it is read.

    Raises:
        InputError: the file is of another type.
    """
    suffix = suffix_of(content[:16])
    with tempfile.TemporaryDirectory(prefix="cellsam-engine-") as directory:
        path = Path(directory, f"image{suffix}")
        path.write_bytes(content)
        yield path


@contextmanager
def upload_file() -> Iterator[Path]:
    """Yield the path of a file to be written, in a directory of its own that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="cellsam-engine-") as directory:
        yield Path(directory, "image")


async def receive(chunks: AsyncIterator[bytes], path: Path) -> Path:
    """Write a body to a file as it arrives; return the file's path, with the suffix of its type.

    Raises:
        InputError: it is of another type.
    """
    with path.open("wb") as file:
        async for chunk in chunks:
            file.write(chunk)
    with path.open("rb") as file:
        suffix = suffix_of(file.read(16))
    return path.rename(path.with_suffix(suffix))


def below(root: Path | None, given: str) -> Path:
    """Return the path of an image file or OME-Zarr directory below a root.

    Args:
        root: the root; None if the server has none.
        given: relative path with ``/``, as in the request.

    Raises:
        InputError: there is no root, or the path leaves it, also through a symbolic link, or does not exist.
    """
    if root is None:
        raise InputError(
            "path is given, but this server reads no files; expected an image in the body. Start the server with "
            "a root, or upload the image.",
            kind="unsupported",
            field="path",
        )
    base = Path(os.path.realpath(root))
    try:
        path = Path(os.path.realpath(base / given, strict=True))
    except (OSError, ValueError) as error:
        raise _not_found(given) from error
    if not path.is_relative_to(base) or path == base:
        raise _not_found(given)  # whether a path outside exists is nobody's business
    if is_zarr(path):
        _check_links(path, base)
    return path


def _not_found(given: str) -> InputError:
    return InputError(
        f"path is {given[:200]!r}, which is not below the root of the server; expected the relative path of an image. "
        "Check the path.",
        kind="not_found",
        field="path",
    )


def _check_links(directory: Path, base: Path) -> None:
    """Check that no symbolic link inside an OME-Zarr directory leads out of the root."""
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(base):
                raise InputError(
                    f"{path.name} is a symbolic link that leads out of the root; expected only files below it. Copy "
                    "the image.",
                    kind="not_found",
                    field="path",
                )


def read_checked(path: Path, options: FileOptions, *, inside: Path) -> ReadImage:
    """Read the channels to segment from an image file, after its size is checked.

    Args:
        path: the file.
        options: the choice of plane and channels, and the largest number of pixels.
        inside: directory that the file and all files it refers to must lie in.

    Raises:
        ImageTooLargeError: it has more pixels than ``options`` allow.
        InputError: it cannot be read, or refers to other files.
    """
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        _check_pixels(picture_size(path), options.largest_px)  # the reader decodes pictures when it opens them
    elif suffix in (".tif", ".tiff"):
        _check_parts(path, inside)
    elif suffix not in IMAGE_SUFFIXES and not is_zarr(path):
        raise InputError(
            f"{path.name} has type {suffix or 'none'!r}; expected one of {', '.join(IMAGE_SUFFIXES)}.",
            kind="unsupported",
            field="path",
        )
    with opened(path, options) as chosen:
        _check_pixels(chosen.size_hw, options.largest_px)
    return read_file(path, options)


def _check_pixels(size_hw: tuple[int, int], most: int) -> None:
    if size_hw[0] * size_hw[1] > most:
        raise ImageTooLargeError(
            f"the image has {size_hw[1]} x {size_hw[0]} pixels; expected at most {most / 1e6:g} million. Segment it "
            "on the command line, or raise the limit of the server.",
            field="image",
        )


def _check_parts(path: Path, inside: Path) -> None:
    """Check that an OME-TIFF does not name files elsewhere, which the reader would open."""
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            metadata = tiff.ome_metadata or ""
    except Exception:  # damaged; the reader names the damage
        return
    if "FileName" not in metadata:
        return
    base, folder = os.path.realpath(inside), os.path.realpath(path.parent)
    for name in _file_names(metadata):
        named = os.path.realpath(Path(folder, name))
        if os.path.commonpath([base, named]) != base:
            raise InputError(
                f"{path.name} refers to the file {name[:200]!r}; expected files beside it. Save the image as one file.",
                kind="unsupported",
                field="image",
            )


def _file_names(metadata: str) -> Iterator[str]:
    """Yield the names of other files in OME-XML metadata, which tifffile looks up in UUID elements."""
    from xml.etree import ElementTree

    for element in ElementTree.fromstring(metadata).iter():
        if (name := element.attrib.get("FileName")) is not None:
            yield name
