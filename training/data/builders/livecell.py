"""LIVECell: phase contrast of eight cell lines, which the paper holds out for zero-shot evaluation.

Layout (Edlund et al. 2021, Nat Methods 18:1038; github.com/sartorius-research/LIVECell, "File structure"):

    images/{livecell_train_val_images,livecell_test_images}/[<cell line>/]<name>.tif    (520, 704) 8-bit
    livecell_coco_{train,val,test}.json    COCO polygons; the directories differ between releases, so files are found
                                           by name

Some images are annotated twice under two image ids (LIVECell issue 14); the first counts, as in the function
that the paper used. ``annotations`` is a list, or in some releases an object by id. Images and labels are enlarged by
2.0 (paper, Appendix A).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.builders.overlaps import resolve_overlaps
from training.data.builders.pairs import relative
from training.data.builders.reading import read_gray
from training.data.errors import DataError
from training.data.records import SPLITS, Field, Skipped, SourceDataset, Split

NAME = "livecell"
CITATION = "LIVECell, Edlund et al. 2021, doi:10.1038/s41592-021-01249-6"
LICENCE = "CC BY-NC 4.0"

SCALE = 2.0  # paper, Appendix A: to the cell size of the phase images in the training set

Polygons = tuple[NDArray[np.float32], ...]
"""Outlines of one cell, (N, 2) xy pixels each."""


def find(source: Path) -> list[SourceDataset]:
    """Find the annotation files and their images.

    Raises:
        DataError: there is no readable annotation file.
    """
    images = {path.name: path for path in sorted(source.rglob("*.tif"), reverse=True)}
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for split in SPLITS:
        for path in sorted(source.rglob(f"livecell_coco_{split}.json"))[:1]:
            try:
                found, missing = _fields(path, split, images, source)
            except DataError as error:
                skipped.append(Skipped(relative(path, source), str(error)))
                continue
            fields += found
            skipped += missing
    if not fields:
        first = f" The first problem: {skipped[0].file}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{source} contains no livecell_coco_{{train,val,test}}.json with its images; expected the unpacked "
            f"LIVECell archive.{first}",
            kind="not_found",
            field="source",
        )
    return [
        SourceDataset(
            name=NAME,
            group="Cell Culture",
            citation=CITATION,
            licence=LICENCE,
            fields=tuple(fields),
            skipped=tuple(skipped),
        )
    ]


def _fields(path: Path, split: Split, images: dict[str, Path], source: Path) -> tuple[list[Field], list[Skipped]]:
    fields, missing = [], []
    for name, (size_hw, cells) in read_annotations(path).items():
        if name not in images:
            missing.append(Skipped(name, f"{path.name} names it, but it is missing; unpack images.zip."))
            continue
        fields.append(
            Field(
                image_id=f"{split}/{Path(name).stem}",
                file=relative(images[name], source),
                read_channels=partial(read_gray, images[name]),
                read_labels=partial(draw_cells, cells, size_hw),
                split=split,
                scale=SCALE,
            )
        )
    return fields, missing


def read_annotations(path: Path) -> dict[str, tuple[tuple[int, int], list[Polygons]]]:
    """Read a COCO file of polygons.

    Returns:
        Size (H, W) and outlines of the cells, by image file name.

    Raises:
        DataError: the file is damaged, or a cell has no polygons.
    """
    try:
        with path.open(encoding="utf-8") as file:
            coco = json.load(file, object_hook=_compact)
        annotations = coco["annotations"]
        if isinstance(annotations, dict):
            annotations = list(annotations.values())
        cells: dict[int, list[Polygons]] = defaultdict(list)
        for annotation in annotations:
            cells[annotation["image_id"]].append(annotation["segmentation"])
        out: dict[str, tuple[tuple[int, int], list[Polygons]]] = {}
        for image in coco["images"]:
            # If a file has several ids, the first counts.
            out.setdefault(image["file_name"], ((image["height"], image["width"]), cells[image["id"]]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name} is damaged ({error!r}); download the file again.", kind="damaged") from error
    return out


def _compact(values: dict[str, Any]) -> dict[str, Any]:
    """Convert an annotation's outlines to arrays while the file is read; lists take about ten times the memory."""
    outlines = values.get("segmentation")
    if outlines is None:
        return values
    if not isinstance(outlines, list):
        raise DataError(
            "a cell has run lengths; expected polygons, as in LIVECell's own annotations.", kind="unsupported"
        )
    polygons = tuple(np.asarray(outline, np.float32).reshape(-1, 2) for outline in outlines)
    return {"image_id": values["image_id"], "segmentation": polygons}


def draw_cells(cells: Sequence[Polygons], size_hw: tuple[int, int]) -> NDArray[np.int32]:
    """Draw outlines as a label map without overlaps (``resolve_overlaps``).

    Args:
        cells: outlines, xy pixels.
        size_hw: image size (height, width) in pixels.
    """
    from skimage.draw import polygon

    masks = []
    for outlines in cells:
        pixels = [
            polygon(outline[:, 1], outline[:, 0], size_hw)  # type: ignore[no-untyped-call]
            for outline in outlines
        ]
        flat = [np.ravel_multi_index(rows_columns, size_hw) for rows_columns in pixels]
        masks.append(np.unique(np.concatenate(flat)) if flat else np.zeros(0, np.intp))
    return resolve_overlaps(masks, size_hw)
