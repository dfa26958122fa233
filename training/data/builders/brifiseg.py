"""BriFiSeg: nuclei in brightfield images of four cell lines.

Layout (Mathieu Gendarme et al. 2022, arXiv:2211.03072; Zenodo 7195636, ``1channel.tar`` with its zips unpacked), in
nnU-Net's layout:

    Task<number>_<cell line>/{imagesTr,imagesTs}/<cell line>_<number>_0000.nii.gz   (W, H, 1) float32
    Task<number>_<cell line>/{labelsTr,labelsTs}/<cell line>_<number>.nii.gz
        0 background, 1 centre of a nucleus, 2 its border, 3 border between touching nuclei (``dataset.json``);
        the full-nucleus variant has only 0 and 1

Checked against the example files in github.com/mgendarme/BriFiSeg (``Example/Data``). The image shows nuclei only, so
its only channel is blue.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.label_files.label_image import connected_parts
from training.data.builders.nifti import read_nifti_plane
from training.data.builders.pairs import Pattern, find_pairs, relative, skip_unpaired
from training.data.builders.reading import check_labels
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset, Split

NAME = "brifiseg"
CITATION = "BriFiSeg, Gendarme et al. 2022, arXiv:2211.03072, doi:10.5281/zenodo.7195636"

SPLITS: dict[str, Split] = {"Tr": "train", "Ts": "test"}
CENTRE = 1
HIGHEST_CLASS = 3


def find(source: Path) -> list[SourceDataset]:
    """Find the task directories below a source.

    Raises:
        DataError: there is none.
    """
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for images in sorted(path for part in SPLITS for path in source.rglob(f"images{part}") if path.is_dir()):
        part = images.name.removeprefix("images")
        pairs, alone = find_pairs(images.parent, Pattern(f"images{part}/*_0000.nii.gz", f"labels{part}/*.nii.gz"))
        fields += [
            Field(
                image_id=f"{relative(images.parent, source)}/{part}/{pair.key}".removeprefix("./"),
                file=relative(pair.image, source),
                read_channels=partial(read_nifti_plane, pair.image),
                read_labels=partial(_read_labels, pair.mask),
                split=SPLITS[part],
            )
            for pair in pairs
        ]
        skipped += skip_unpaired(alone, source)
    if not fields:
        raise DataError(
            f"{source} contains no imagesTr beside labelsTr; expected the unpacked BriFiSeg task directories.",
            kind="not_found",
            field="source",
        )
    return [
        SourceDataset(
            name=NAME,
            group="Cell Culture",
            citation=CITATION,
            licence=None,
            fields=tuple(fields),
            skipped=tuple(skipped),
        )
    ]


def _read_labels(path: Path) -> NDArray[Any]:
    classes = read_nifti_plane(path)
    if classes.max(initial=0) > HIGHEST_CLASS:  # instance ids, as in the instance-segmentation archive
        return check_labels(classes, path.name)
    return nuclei_of_classes(classes)


def nuclei_of_classes(classes: NDArray[Any]) -> NDArray[np.int32]:
    """Find nuclei from the classes centre and border; the border ring separates nuclei that touch.

    Args:
        classes: (H, W), 0 background, 1 centre, 2 and 3 border.

    Returns:
        (H, W) int32 labels. Border pixels go to the nearest centre of their connected region; a region without a
        centre is a separate nucleus.
    """
    from skimage.segmentation import watershed

    foreground = classes > 0
    seeds = connected_parts(classes == CENTRE)
    regions = connected_parts(foreground)
    with_centre = np.unique(regions[seeds > 0])
    lone = foreground & ~np.isin(regions, with_centre)
    seeds = np.where(lone, seeds.max() + regions, seeds)
    flat = np.zeros(classes.shape, np.uint8)
    labels: NDArray[np.int32] = watershed(  # type: ignore[no-untyped-call]
        flat, seeds, mask=foreground, connectivity=2
    )
    return labels
