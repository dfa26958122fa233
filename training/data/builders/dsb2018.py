"""2018 Data Science Bowl, stage 1 (BBBC038v1): nuclei in fluorescence and stained sections.

Layout (Caicedo et al. 2019, Nat Methods 16:1247; kaggle.com/c/data-science-bowl-2018):

    stage1_train/<image id>/images/<image id>.png    8-bit RGBA, opaque
    stage1_train/<image id>/masks/<mask id>.png      8-bit, 0 and 255, one nucleus each

Many images are neighbouring tiles of one field. The field is not named, so tiles are grouped by their borders
(``training.data.borders``). The images show nuclei only and give one channel, blue; colours become their luminance.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.builders.pairs import relative
from training.data.builders.reading import read_gray
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset

NAME = "dsb2018"
CITATION = "2018 Data Science Bowl, Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7; BBBC038v1"
LICENCE = "CC0"


def find(source: Path) -> list[SourceDataset]:
    """Find ``stage1_train``, which is the source or a directory in it.

    Raises:
        DataError: it is missing.
    """
    root = source / "stage1_train" if (source / "stage1_train").is_dir() else source
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for directory in sorted(path for path in root.iterdir() if (path / "images").is_dir()):
        images = sorted((directory / "images").glob("*.png"))
        masks = sorted((directory / "masks").glob("*.png"))
        if len(images) != 1 or not masks:
            reason = f"it contains {len(images)} images and {len(masks)} masks; expected one image and its masks."
            skipped.append(Skipped(relative(directory, source), reason))
            continue
        fields.append(
            Field(
                image_id=directory.name,
                file=relative(images[0], source),
                read_channels=partial(read_gray, images[0]),
                read_labels=partial(merge_masks, masks),
            )
        )
    if not fields:
        raise DataError(
            f"{source} contains no <image id>/images/*.png with masks; expected the unpacked stage1_train.",
            kind="not_found",
            field="source",
        )
    return [
        SourceDataset(
            name=NAME,
            group="Nuclear",
            citation=CITATION,
            licence=LICENCE,
            fields=tuple(fields),
            skipped=tuple(skipped),
        )
    ]


def merge_masks(paths: list[Path]) -> NDArray[np.int32]:
    """Merge one mask file per object into a label map; a pixel in several masks goes to the first.

    Raises:
        InputError: a mask cannot be read.
        DataError: masks have different sizes.
    """
    labels: NDArray[np.int32] | None = None
    for index, path in enumerate(paths, start=1):
        mask: NDArray[Any] = read_gray(path) > 0
        if labels is None:
            labels = np.zeros(mask.shape, np.int32)
        if mask.shape != labels.shape:
            raise DataError(
                f"mask {path.name} has size {mask.shape}, the others {labels.shape}; expected the same size.",
                kind="wrong_shape",
            )
        labels[mask & (labels == 0)] = index
    if labels is None:
        raise DataError("there is no mask file; expected one per object.", kind="not_found")
    return labels
