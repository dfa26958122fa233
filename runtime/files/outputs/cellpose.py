"""Cellpose's result files: ``NAME_seg.npy``, ``NAME_cp_masks.png`` and ``NAME_cp_outlines.txt``.

``NAME_cp_masks.tif`` is the label image of ``runtime.files.plain.write_labels``, and ``NAME_rois.zip`` that of
``runtime.files.outputs.imagej``.

Source: MouseLand/cellpose, ``cellpose/io.py`` (``masks_flows_to_seg``, ``save_masks``, ``outlines_to_text``) for the
files, ``cellpose/utils.py`` for outlines, ``cellpose/gui/io.py`` (``_load_seg``) for what the GUI reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.errors import InputError
from runtime.files.placing import write_whole
from runtime.files.plain import png_text
from runtime.ops.masks import MaskCrop, label_crops
from runtime.provenance import METADATA_KEY, Provenance, to_json
from runtime.types import I32, Bool

MOST_IN_16_BITS = (1 << 16) - 1

SHORTEST_OUTLINE = 5
"""Cellpose leaves the line of a cell empty if its outline has fewer pixels."""

_NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
"""The eight neighbours of a pixel, yx, clockwise from the left one."""


def seg_content(
    labels: I32, image: str, diameter_px: float | None = None, provenance: Sequence[Provenance] = ()
) -> dict[str, Any]:
    """Build the dictionary of a ``_seg.npy`` file.

    Args:
        labels: (H, W) or (Z, H, W), 0 background, 1..n cells.
        image: path of the image, from which Cellpose's GUI loads it.
        diameter_px: median cell diameter, pixels; NaN in the file if it is unknown.
        provenance: what made the labels; Cellpose ignores this entry, and drops it when it writes the file again.

    Returns:
        ``masks`` and ``outlines`` (uint16, or uint32 if there are more cells), ``filename``, ``ismanual`` (n,),
        ``chan_choose``, ``est_diam``, ``diameter``, and ``flows``: empty as in a GUI that has not run a network, since
        there are no flow fields.
    """
    dtype = np.uint16 if labels.max(initial=0) < MOST_IN_16_BITS else np.uint32
    diameter = math.nan if diameter_px is None else float(diameter_px)
    return {
        "outlines": outline_labels(labels).astype(dtype),
        "masks": labels.astype(dtype),
        "chan_choose": [0, 0],
        "ismanual": np.zeros(int(labels.max(initial=0)), np.bool_),
        "filename": image,
        "flows": [[], [], [], [], [[]]],
        "est_diam": diameter,
        "diameter": diameter,
        **({METADATA_KEY: to_json(provenance)} if provenance else {}),
    }


def write_seg(
    path: Path, labels: I32, image: str, diameter_px: float | None = None, provenance: Sequence[Provenance] = ()
) -> None:
    """Write ``seg_content`` as a ``_seg.npy`` file, atomically."""
    content = np.array(seg_content(labels, image, diameter_px, provenance), dtype=object)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would add a suffix
            np.save(file, content)

    write_whole(path, write)


def write_masks_png(path: Path, labels: I32, provenance: Sequence[Provenance] = ()) -> None:
    """Write a label map as a PNG of 16 bits, atomically.

    Args:
        path: the file.
        labels: (H, W), 0 background.
        provenance: what made the labels.

    Raises:
        InputError: there are more than 65535 cells.
    """
    if labels.max(initial=0) > MOST_IN_16_BITS:
        raise InputError(
            f"there are {labels.max()} cells; expected at most {MOST_IN_16_BITS} in a PNG. Write a TIFF instead.",
            kind="too_large",
            field="formats",
        )
    write_whole(path, lambda temporary: encode_png(temporary, labels, provenance))


def encode_png(target: Path | BinaryIO, labels: I32, provenance: Sequence[Provenance] = ()) -> None:
    """Encode a label map (H, W) of at most ``MOST_IN_16_BITS`` labels as a PNG of 16 bits.

    Args:
        target: a file, written in place, or a binary stream.
        labels: (H, W), 0 background.
        provenance: what made the labels.
    """
    from PIL import Image

    Image.fromarray(labels.astype(np.uint16)).save(target, format="PNG", pnginfo=png_text(provenance))


def write_outlines(path: Path, labels: I32) -> None:
    """Write the outlines of all cells as text, atomically: a line ``x,y,x,y,...`` for each cell."""
    write_whole(path, lambda temporary: write_outline_lines(temporary, label_crops(labels)))


def write_outline_lines(path: Path, cells: Iterable[MaskCrop]) -> None:
    """Write the lines of ``write_outlines`` one at a time."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for cell in cells:
            outline = cell_outline(cell)
            points = outline[:, ::-1].ravel().tolist() if len(outline) >= SHORTEST_OUTLINE else []
            file.write(",".join(map(str, points)) + "\n")


def outline_labels(labels: I32) -> I32:
    """Keep the labels of the outermost pixels of each cell; all other pixels become 0.

    Args:
        labels: (H, W) or (Z, H, W), 0 background. Planes are outlined one by one.
    """
    if labels.ndim == 3:
        return np.stack([outline_labels(plane) for plane in labels]) if len(labels) else labels.copy()
    outlined = np.zeros_like(labels)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            outlined[box][_border(labels[box] == number)] = number
    return outlined


def _border(mask: Bool) -> Bool:
    """Return the pixels of a mask beside the background around it; holes do not count."""
    filled = ndimage.binary_fill_holes(mask)
    border: Bool = filled & ~ndimage.binary_erosion(filled)
    return border


def cell_outline(cell: MaskCrop) -> NDArray[np.int64]:
    """Trace the outermost pixels of a cell, in order, against the clock.

    Args:
        cell: the pixels of the cell. Of several parts, the one with the longest outline is traced.

    Returns:
        (n, 2) yx, image pixels, from the leftmost pixel of the topmost row; pixels of thin parts occur twice.

    Source: Suzuki and Abe 1985, border following, for outer borders of 8-connected pixels.
    """
    parts, count = ndimage.label(cell.mask, np.ones((3, 3)))
    traced = [list(_trace(parts == number)) for number in range(1, count + 1)]
    outline: NDArray[np.int64] = np.array(max(traced, key=len, default=[]), np.int64).reshape(-1, 2)
    return outline + np.array(cell.offset_yx, np.int64)


def _trace(part: Bool) -> Iterator[tuple[int, int]]:
    """Yield the border pixels of connected pixels."""
    framed = np.pad(part, 1)
    rows, columns = np.nonzero(framed)
    start = int(rows[0]), int(columns[0])
    last = next((place for place in range(8) if framed[_step(start, place)]), None)
    yield start[0] - 1, start[1] - 1
    if last is None:
        return
    end, here, towards = _step(start, last), start, last
    while True:
        # Counter-clockwise, from the pixel after the one that the path came from.
        place = next(turn % 8 for turn in range(towards - 1, towards - 9, -1) if framed[_step(here, turn % 8)])
        following = _step(here, place)
        if following == start and here == end:
            return
        here, towards = following, (place + 4) % 8
        yield here[0] - 1, here[1] - 1


def _step(pixel: tuple[int, int], place: int) -> tuple[int, int]:
    dy, dx = _NEIGHBOURS[place]
    return pixel[0] + dy, pixel[1] + dx
