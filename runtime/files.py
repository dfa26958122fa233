"""Image files in, label files out."""

from __future__ import annotations

import csv
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.results import Segmentation

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

PARTIAL = ".partial"
"""Suffix of files that are being written; one that is left over belongs to a killed process."""

TABLE_COLUMNS = ("label", "x0", "y0", "x1", "y1", "score", "iou_prediction", "mask_area_px", "label_area_px")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = 26
"""Bytes up to and with the colour type."""
_GRAY = 0
_PALETTE = 3
_PNG_ALPHA = (4, 6)
"""Colour types of PNG (ISO 15948, table 11.1): gray; a palette; gray or colour with alpha."""

_FROM_8_BITS = 257
"""Scales 0..255 to 0..65535."""

_PILLOW_LIMIT = threading.Lock()
"""Held while Pillow's limit, a global of its module, is off."""


def read_image(path: str | Path) -> NDArray[np.generic]:
    """Read a PNG, JPEG, TIFF or npy file.

    Returns:
        (H, W), or (H, W, C) with the channels last, in the file's dtype and full depth. Palettes are resolved to
        colours; an opaque alpha channel is left out.

    Raises:
        InputError: no such file, another type, a file that is damaged or may not be read, or axes that are not one
            image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path.")
    readers: dict[str, Callable[[Path], NDArray[np.generic]]] = {
        ".npy": _read_npy,
        ".tif": _read_tiff,
        ".tiff": _read_tiff,
    }
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has type {path.suffix or 'none'!r}; expected one of {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again.")
    try:
        return readers.get(path.suffix.lower(), _read_picture)(path)
    except InputError:
        raise
    except Exception as error:  # each library raises its own kinds for damaged files
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Pillow's own have no number
            raise InputError(
                f"{path} cannot be read ({error.strerror}); check its permissions and its disk."
            ) from error
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or not what its name says."
        ) from error


def _read_npy(path: Path) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    return array


def _read_picture(path: Path) -> NDArray[np.generic]:
    """Read PNG and JPEG, told apart by content; names are wrong at times."""
    with path.open("rb") as file:
        head = file.read(_PNG_HEAD)
    # After the signature and the length and name of the first chunk: width, height, depth, colour type.
    depth, colours = head[24:26] if head.startswith(_PNG_SIGNATURE) and len(head) == _PNG_HEAD else (0, _PALETTE)
    return _read_pillow(path) if colours == _PALETTE else _read_png(path, depth, colours)


def _read_png(path: Path, depth: int, colours: int) -> NDArray[np.generic]:
    """Read a PNG without a palette; Pillow would cut 16-bit colours, and gray with alpha, to 8 bits."""
    import imagecodecs

    array: NDArray[np.generic] = imagecodecs.png_decode(path.read_bytes())
    if colours in _PNG_ALPHA:
        return _drop_opaque(array, array.shape[2] - 1, path)
    # One value may be declared transparent (tRNS), which is decoded as alpha. The image lies under it unharmed.
    array = array.reshape(*array.shape[:2], -1)[..., 0] if colours == _GRAY else array[..., :3]
    return array.astype(np.bool_) if depth == 1 else array


def _read_pillow(path: Path) -> NDArray[np.generic]:
    with _open_pillow(path) as picture:
        # A palette's indices are not intensities, and inks are not light.
        resolved = {"P": "RGBA", "PA": "RGBA", "CMYK": "RGB"}.get(picture.mode, picture.mode)
        array = np.asarray(picture.convert(resolved) if resolved != picture.mode else picture)
    return _drop_opaque(array, array.shape[2] - 1, path) if resolved in ("LA", "RGBA") else array


def _open_pillow(path: Path) -> Picture:
    from PIL import Image

    # Pillow takes more than 89 million pixels for an attack; these are the user's own files.
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _drop_opaque(array: NDArray[np.generic], alpha: int, path: Path) -> NDArray[np.generic]:
    """Leave out the channel ``alpha`` of (H, W, C) if it hides nothing; (H, W) where one channel stays.

    Raises:
        InputError: some pixels are transparent.
    """
    opaque = (1 << 8 * array.dtype.itemsize) - 1 if array.dtype.kind == "u" else 1
    if not np.all(array[..., alpha] == opaque):
        raise InputError(f"{path} has a transparent alpha channel; flatten it or save it without alpha.")
    rest = np.delete(array, alpha, axis=2)
    return rest[..., 0] if rest.shape[2] == 1 else rest


def _read_tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise InputError(f"{path} holds no image; it cannot be read as a TIFF. Copy it again.")
        if len(tiff.series) > 1:
            raise InputError(f"{path} holds {len(tiff.series)} series; expected one image. Save the one to segment.")
        series = tiff.series[0]
        array: NDArray[np.generic] = series.asarray()
        page = series.keyframe
        is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
        colour_map = page.colormap if is_palette else None
        extra = [int(kind) for kind in page.extrasamples]
    # Axes of length 1 (a single time point, plane or channel) are no choice to make.
    kept = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"]
    axes = "".join(axis for axis, _ in kept)
    array = array.reshape([size for _, size in kept])
    if axes == "YX":
        return array if colour_map is None else _resolve_palette(array, colour_map)
    if colour_map is None and axes in ("YXS", "SYX"):
        return _drop_tiff_alpha(array if axes == "YXS" else np.moveaxis(array, 0, -1), extra, path)
    # Channels are often stored as pages, which a plain TIFF calls a sequence (Q or I).
    if colour_map is None and axes in ("CYX", "QYX", "IYX") and array.shape[0] <= 3:
        if axes[0] in "QI":
            _log.warning(
                "%s does not say what its %d pages are; they are taken as channels. If they are time points or "
                "planes, save one of them.",
                path,
                array.shape[0],
            )
        return np.moveaxis(array, 0, -1)
    raise InputError(
        f"{path} has axes {series.axes} with shape {series.shape}; expected one plane of up to three channels. "
        "Save the plane and channels to segment."
    )


def _drop_tiff_alpha(array: NDArray[np.generic], extra: list[int], path: Path) -> NDArray[np.generic]:
    """Leave out the opaque alpha of (H, W, C), whose last ``len(extra)`` channels are of these kinds.

    Only 1 (associated) and 2 (unassociated) are alpha; 0 is any further channel (TIFF 6.0, ExtraSamples).
    """
    alphas = [array.shape[2] - len(extra) + place for place, kind in enumerate(extra) if kind in (1, 2)]
    return _drop_opaque(array, alphas[0], path) if len(alphas) == 1 else array


def _resolve_palette(indices: NDArray[Any], colour_map: NDArray[np.uint16]) -> NDArray[np.generic]:
    """(H, W) indices to (H, W, 3) colours, uint8 where the map (3, N) holds 8-bit colours scaled to 16, else uint16."""
    if not (colour_map % _FROM_8_BITS).any():
        colour_map = (colour_map // _FROM_8_BITS).astype(np.uint8)
    return np.ascontiguousarray(colour_map.T[indices])


def write_labels(path: Path, labels: NDArray[np.int32]) -> None:
    """Write a label map as a compressed TIFF, 16 bits where the labels fit, else 32; the file appears whole."""
    import tifffile

    dtype = np.uint16 if labels.max(initial=0) < 1 << 16 else np.uint32
    write_whole(
        path,
        lambda temporary: tifffile.imwrite(
            temporary,
            labels.astype(dtype),
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": "YX"},
        ),
    )


def write_table(path: Path, result: Segmentation) -> None:
    """Write one row per instance as CSV; boxes in image pixels. The file appears whole.

    ``label`` is 0 for an instance of which the label map kept no pixel.
    """
    areas = np.bincount(result.labels.ravel(), minlength=1)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(TABLE_COLUMNS)
            rows = zip(result.ids, result.boxes, result.scores, result.iou_predictions, result.masks, strict=True)
            for label, box, score, iou, mask in rows:
                label_area = int(areas[label]) if label else 0
                writer.writerow(table_row(int(label), box, (score, iou), (mask.area_px, label_area)))

    write_whole(path, write)


def table_row(
    label: int, box: Iterable[float], scores: tuple[float, float], areas_px: tuple[int, int]
) -> list[int | str]:
    """One row of the table, in the order of ``TABLE_COLUMNS``."""
    return [label, *(f"{value:.2f}" for value in box), *(f"{value:.5f}" for value in scores), *areas_px]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that it appears whole or not at all.

    Args:
        path: the file.
        write: writes to the path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
