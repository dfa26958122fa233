"""Reader of COCO annotations: polygons, and run lengths in both forms.

Sources: cocodataset.org, "Data format"; for compressed run lengths pycocotools ``common/maskApi.c`` (``rleFrString``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import damage_named
from runtime.files.label_files.painting import FoundCell, paint_cells
from runtime.ops.drawing import fill_rings
from runtime.ops.masks import MaskCrop, cut_to_pixels, join_masks
from runtime.types import I32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a COCO file with its annotations."""

    file_name: str
    size_hw: tuple[int, int]
    """Height and width, pixels."""
    annotations: tuple[dict[str, Any], ...]
    path: Path
    """The COCO file."""

    def labels(self, size_hw: tuple[int, int]) -> I32:
        """Return the annotations as labels.

        A cell has the number ``attributes.label``, if all cells have different ones; otherwise, cells are numbered in
        the order of the file.

        Args:
            size_hw: size of the image file.

        Raises:
            InputError: the image has another size, or an annotation is damaged.
        """
        if self.size_hw != size_hw:
            raise InputError(
                f"{self.path}: {self.file_name} has {self.size_hw[0]} x {self.size_hw[1]} pixels; expected "
                f"{size_hw[0]} x {size_hw[1]}, the size of the image. Export the annotations of this image.",
                kind="mismatch",
            )
        cells = []
        with damage_named(self.path):
            for one in self.annotations:
                crop = _crop(one["segmentation"], size_hw)
                cells.append(FoundCell(crop, (one.get("attributes") or {}).get("label")))
        return paint_cells(cells, size_hw, f"{self.path}, {self.file_name}")


def read_coco(path: str | Path) -> tuple[CocoImage, ...]:
    """Read the images of a COCO file, in its order. Crowds, which are groups of cells, are left out.

    Raises:
        InputError: the file cannot be read, or is not COCO.
    """
    path = Path(path)
    with damage_named(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
            raise InputError(
                f"{path} has no images and annotations; expected a COCO file. Export the annotations again.",
                kind="wrong_type",
            )
        annotations: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        crowds = 0
        for one in content["annotations"]:
            if one.get("iscrowd") or not one.get("segmentation"):
                crowds += 1
            else:
                annotations[one["image_id"]].append(one)
        if crowds:
            _log.warning("%s: %d annotations of crowds, or without a mask, are left out", path, crowds)
        return tuple(
            CocoImage(
                str(image["file_name"]),
                (int(image["height"]), int(image["width"])),
                tuple(annotations[image["id"]]),
                path,
            )
            for image in content["images"]
        )


def _crop(segmentation: Any, size_hw: tuple[int, int]) -> MaskCrop:
    if isinstance(segmentation, list):  # polygons, whose union is the cell
        flat = [np.asarray(one, np.float64) for one in segmentation]
        return join_masks([fill_rings([one.reshape(-1, 2)], size_hw) for one in flat])
    if tuple(segmentation["size"]) != size_hw:
        raise ValueError(f"run lengths have the size {segmentation['size']}, not that of the image")
    counts = segmentation["counts"]
    return decode_runs(expand_counts(counts) if isinstance(counts, str) else counts, size_hw)


def decode_runs(counts: Sequence[int], size_hw: tuple[int, int]) -> MaskCrop:
    """Decode run lengths in column order, starting with zeros, as from ``runtime.files.outputs.coco.run_lengths``.

    Args:
        counts: the lengths.
        size_hw: size of the image.

    Raises:
        ValueError: a length is negative, or the lengths exceed the image.
    """
    lengths: NDArray[np.int64] = np.asarray(counts, np.int64)
    height, width = size_hw
    edges = np.cumsum(lengths)
    if (lengths < 0).any() or (len(edges) and edges[-1] > height * width):
        raise ValueError("run lengths exceed the image")
    starts, stops = edges[:-1:2], edges[1::2]
    filled = starts < stops
    if not filled.any():
        return MaskCrop(np.zeros((0, 0), np.bool_), (0, 0))
    # Only the columns that the cell touches are filled, since an image has thousands of cells.
    left, right = int(starts[filled][0]) // height, -(-int(stops[filled][-1]) // height)
    flat = np.zeros((right - left) * height, np.bool_)
    for start, stop in zip((starts - left * height).tolist(), (stops - left * height).tolist(), strict=True):
        flat[max(0, start) : max(0, stop)] = True
    return cut_to_pixels(np.ascontiguousarray(flat.reshape(right - left, height).T), (0, left))


def expand_counts(text: str) -> list[int]:
    """Decode COCO's printable form of run lengths; the inverse of ``runtime.files.outputs.coco.compress_counts``."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
