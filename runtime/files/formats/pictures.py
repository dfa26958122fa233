"""Reader of PNG, JPEG and npy files."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import RGB, FileReader, ImageInfo, channel_names, check_opaque, damage_named

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = NDArray[np.generic]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = 26
"""Number of bytes up to and including the colour type."""
_GRAY = 0
_PALETTE = 3
_PNG_ALPHA = (4, 6)
"""Colour types of PNG (ISO 15948, table 11.1): gray; a palette; gray or colour with alpha."""

_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}
"""Samples of a pixel by colour type; 1 for other types."""
_DEFLATE_MOST = 1032
"""Maximum number of bytes encoded by one byte of a deflate stream (RFC 1951: 258 bytes in two bits)."""

LARGEST_PICTURE_PX = 1_000_000_000
"""Maximum number of pixels of a picture to decode; in colour they take 3 GB."""

_PILLOW_LIMIT = threading.Lock()
"""Lock to hold while Pillow's size limit, a module global, is off."""


class PictureReader(FileReader):
    """Reader of a picture, which is decoded as a whole, or of an npy file, which is read in parts."""

    def __init__(self, path: Path) -> None:
        """Open the file; see ``runtime.files.formats.open_image``."""
        with damage_named(path):
            is_npy = path.suffix.lower() == ".npy"
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False) if is_npy else read_picture(path)
        in_colour = not is_npy and array.ndim == 3 and array.shape[2] == len(RGB)
        array = _channels_last(array, path)
        count = array.shape[2]
        names = RGB if in_colour else channel_names(count, ())
        kind = array.dtype.newbyteorder("=")
        super().__init__(path, ImageInfo(size_hw=array.shape[:2], dtype=kind, channels=names))
        self._array = array

    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        top, left, height, width = part
        found: Array = np.array(self._array[top : top + height, left : left + width][..., list(channels)])
        return found.astype(self.dtype, copy=False)


def _channels_last(array: Array, path: Path) -> Array:
    """Return an (H, W) or (H, W, C) array as (H, W, C)."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(
            f"{path} has shape {array.shape}; expected (H, W) or (H, W, C) with at least one pixel. Save one plane.",
            kind="wrong_shape",
        )
    if array.ndim == 3 and array.shape[0] < min(array.shape[1:]) and array.shape[2] > len(RGB):
        raise InputError(
            f"{path} has shape {array.shape}; expected (H, W) or (H, W, C). Move the channel axis last: "
            "np.moveaxis(image, 0, -1).",
            kind="wrong_shape",
        )
    return array if array.ndim == 3 else array[..., None]


def read_picture(path: Path) -> Array:
    """Read a PNG or JPEG file, recognised by content since suffixes can be wrong.

    Returns:
        (H, W) or (H, W, 3). Palettes are resolved to colours; an opaque alpha channel is removed.

    Raises:
        InputError: the picture has more pixels than can be decoded at once, or declares more than the file can contain.
            Nothing is decoded in these cases.
    """
    with path.open("rb") as file:
        head = file.read(_PNG_HEAD)
    _check_claim(path, head)
    # After the signature and the length and name of the first chunk: width, height, depth, colour type.
    depth, colours = head[24:26] if head.startswith(_PNG_SIGNATURE) and len(head) == _PNG_HEAD else (0, _PALETTE)
    return _read_pillow(path) if colours == _PALETTE else _read_png(path, depth, colours)


def picture_size(path: Path) -> tuple[int, int]:
    """Read the size (height, width) that a PNG or JPEG file declares, in pixels, without decoding it.

    Raises:
        InputError: the file is not a picture, or it declares more than it can contain.
    """
    with damage_named(path), path.open("rb") as file:
        head = file.read(_PNG_HEAD)
        return _declared_size(path, head)


def _check_claim(path: Path, head: bytes) -> None:
    """Check the size that a picture declares."""
    height, width = _declared_size(path, head)
    if width * height > LARGEST_PICTURE_PX:
        raise InputError(
            f"{path} has {width} x {height} pixels; expected at most {LARGEST_PICTURE_PX / 1e6:g} million, as PNG and "
            "JPEG are decoded as a whole. Save it as a tiled TIFF, which is read in parts.",
            kind="too_large",
        )


def _declared_size(path: Path, head: bytes) -> tuple[int, int]:
    if not (head.startswith(_PNG_SIGNATURE) and len(head) == _PNG_HEAD):
        with _open_pillow(path) as picture:  # reads only the header
            return picture.height, picture.width
    width, height, depth, colours = struct.unpack(">IIBB", head[16:26])
    stored = width * height * depth * _PNG_SAMPLES.get(colours, 1) // 8
    if stored > _DEFLATE_MOST * path.stat().st_size:
        raise InputError(
            f"{path} declares {width} x {height} pixels, more than a PNG of {path.stat().st_size} bytes can "
            "contain; it is damaged. Copy it again.",
            kind="damaged",
        )
    return height, width


def _read_png(path: Path, depth: int, colours: int) -> Array:
    """Read a PNG without a palette; Pillow would cut 16-bit colours, and gray with alpha, to 8 bits."""
    import imagecodecs

    array: Array = imagecodecs.png_decode(path.read_bytes())
    if colours in _PNG_ALPHA:
        return _without_alpha(array, path)
    # A PNG may declare one value transparent (tRNS), which is decoded as alpha. Dropping it restores the image.
    array = array.reshape(*array.shape[:2], -1)[..., 0] if colours == _GRAY else array[..., :3]
    return array.astype(np.bool_) if depth == 1 else array


def _read_pillow(path: Path) -> Array:
    with _open_pillow(path) as picture:
        # Palette indices are not intensities, and inks do not add like light.
        resolved = {"P": "RGBA", "PA": "RGBA", "CMYK": "RGB"}.get(picture.mode, picture.mode)
        array = np.asarray(picture.convert(resolved) if resolved != picture.mode else picture)
    return _without_alpha(array, path) if resolved in ("LA", "RGBA") else array


def _open_pillow(path: Path) -> Picture:
    from PIL import Image

    # Pillow treats more than 89 million pixels as an attack, but these are the user's own files.
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _without_alpha(array: Array, path: Path) -> Array:
    """Remove the last channel of (H, W, C), which must be opaque; return (H, W) if one channel remains."""
    check_opaque(array[..., -1], path)
    rest = array[..., :-1]
    return rest[..., 0] if rest.shape[2] == 1 else rest
