"""Cellpose: cells of many kinds, mostly fluorescence.

Layout (Stringer et al. 2021, Nat Methods 18:100; Pachitariu and Stringer 2022, Nat Methods 19:1634; cellpose.org):

    train/000_img.png, train/000_masks.png, test/..., and train_cyto2/ for the second release

Images are 8-bit RGB: red nuclei, green cells, blue empty (the authors train with ``--chan 2 --chan2 1``); gray images
contain the cells in all three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.plain import read_image
from training.data.builders.pairs import Pattern, find_pairs, pair_fields, skip_unpaired
from training.data.builders.reading import is_gray, to_gray
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset, Split

NAME = "cellpose"
CITATION = "Cellpose, Stringer et al. 2021, doi:10.1038/s41592-020-01018-x"
LICENCE = "non-commercial use only (cellpose.org)"

DIRECTORIES: dict[str, Split] = {"train": "train", "train_cyto2": "train", "test": "test"}
PATTERN = Pattern("*_img.png", "*_masks.png")


def find(source: Path) -> list[SourceDataset]:
    """Find the published directories below a source, at most one level down (``cyto/train``).

    Raises:
        DataError: there is none.
    """
    fields: list[Field] = []
    skipped: list[Skipped] = []
    directories = [path for path in (*source.glob("*"), *source.glob("*/*")) if path.is_dir()]
    for directory in sorted(path for path in directories if path.name in DIRECTORIES):
        pairs, alone = find_pairs(directory, PATTERN)
        fields += pair_fields(
            pairs,
            source,
            prefix=f"{directory.relative_to(source).as_posix()}/",
            split=DIRECTORIES[directory.name],
            read_channels=read_cellpose_image,
        )
        skipped += skip_unpaired(alone, source)
    if not fields:
        raise DataError(
            f"{source} contains no train/*_img.png; expected the unpacked Cellpose archives.",
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


def read_cellpose_image(path: Path) -> NDArray[Any]:
    """Read an image as (H, W) if it is gray, else as (H, W, 2): nuclear, whole-cell."""
    image = read_image(path)
    if image.ndim == 2 or image.shape[2] != 3 or is_gray(image):
        return to_gray(image, path.name)
    return np.stack((image[..., 0], image[..., 1]), axis=-1)
