"""Image files in, label files out."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.results import Segmentation

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

PARTIAL = ".partial"
"""Suffix of files that are being written; one that is left over belongs to a killed process."""

TABLE_COLUMNS = ("label", "x0", "y0", "x1", "y1", "score", "iou_prediction", "mask_area_px", "label_area_px")


def read_image(path: str | Path) -> NDArray[np.generic]:
    """Read a PNG, JPEG, TIFF or npy file.

    Returns:
        (H, W), or (H, W, C) with the channels last, in the file's dtype. An opaque alpha channel is left out.

    Raises:
        InputError: no such file, another type, a damaged file, or axes that are not one image.
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
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or not what its name says."
        ) from error


def _read_npy(path: Path) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    return array


def _read_picture(path: Path) -> NDArray[np.generic]:
    from PIL import Image

    with Image.open(path) as picture:
        # A palette's indices are not intensities.
        array = np.asarray(picture.convert("RGBA") if picture.mode in ("P", "PA") else picture)
    return _drop_opaque_alpha(array, path)


def _drop_opaque_alpha(array: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    if array.ndim != 3 or array.shape[2] not in (2, 4):
        return array
    opaque = (1 << 8 * array.dtype.itemsize) - 1 if array.dtype.kind == "u" else 1
    if not np.all(array[..., -1] == opaque):
        raise InputError(f"{path} has a transparent alpha channel; flatten it or save it without alpha.")
    return array[..., 0] if array.shape[2] == 2 else array[..., :3]


def _read_tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise InputError(f"{path} holds no image; it cannot be read as a TIFF. Copy it again.")
        if len(tiff.series) > 1:
            raise InputError(f"{path} holds {len(tiff.series)} series; expected one image. Save the one to segment.")
        series = tiff.series[0]
        array: NDArray[np.generic] = series.asarray()
        has_alpha = bool(series.keyframe.extrasamples)
    # Axes of length 1 (a single time point, plane or channel) are no choice to make.
    kept = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"]
    axes = "".join(axis for axis, _ in kept)
    array = array.reshape([size for _, size in kept])
    if axes in ("YX", "YXS"):
        return _drop_opaque_alpha(array, path) if has_alpha else array
    # Channels are often stored as pages, which a plain TIFF calls a sequence (Q or I).
    if len(axes) == 3 and axes[0] in "CSQI" and axes[1:] == "YX" and array.shape[0] <= 3:
        return np.moveaxis(array, 0, -1)
    raise InputError(
        f"{path} has axes {series.axes} with shape {series.shape}; expected one plane of up to three channels. "
        "Save the plane and channels to segment."
    )


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
                numbers = [*(f"{v:.2f}" for v in box), f"{score:.5f}", f"{iou:.5f}"]
                writer.writerow([int(label), *numbers, mask.area_px, int(areas[label]) if label else 0])

    write_whole(path, write)


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
