"""TissueNet: fluorescence and mass cytometry of tissue, nuclear and membrane channel, whole-cell labels.

Layout (Greenwald et al. 2022, Nat Biotechnol 40:555; datasets.deepcell.org):

    tissuenet_v1.<minor>_{train,val,test}.npz
        X  (N, H, W, 2) float32: nuclear, membrane or cytoplasm; 512 px in train, 256 px in val and test
        y  (N, H, W, 2) int32: whole-cell labels, nuclear labels
        tissue_list, platform_list (v1.0) or meta (v1.1): not read

Order of the channels and labels as in torch-em ``torch_em/data/datasets/light_microscopy/tissuenet.py``.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from training.data.builders.npz import NpzRows
from training.data.builders.pairs import relative
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset, Split

NAME = "tissuenet"
CITATION = "TissueNet, Greenwald et al. 2022, doi:10.1038/s41587-021-01094-0"
LICENCE = "Modified Apache 2.0: non-commercial, academic use only (DeepCell)"

_FILE = re.compile(r"tissuenet_(v[\d.]+)_(train|val|test)\.npz")


def find(source: Path) -> list[SourceDataset]:
    """Find the npz files below a directory.

    Raises:
        DataError: there are none, or they have several versions.
    """
    files = [(path, match) for path in sorted(source.rglob("*.npz")) if (match := _FILE.fullmatch(path.name))]
    if not files:
        raise DataError(
            f"{source} contains no tissuenet_v1.*_train.npz; expected the unpacked TissueNet archive.",
            kind="not_found",
            field="source",
        )
    versions = sorted({match[1] for _, match in files})
    if len(versions) > 1:
        raise DataError(
            f"{source} contains TissueNet {' and '.join(versions)}; expected one version. Move one away.",
            kind="conflict",
            field="source",
        )
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for path, match in files:
        file = relative(path, source)
        try:
            fields += _fields(path, _split(match[2]), file)
        except DataError as error:
            skipped.append(Skipped(file, str(error)))
    return [
        SourceDataset(
            name=NAME,
            group="Tissue",
            citation=CITATION,
            licence=LICENCE,
            fields=tuple(fields),
            skipped=tuple(skipped),
        )
    ]


def _fields(path: Path, split: Split, file: str) -> list[Field]:
    images, labels = NpzRows(path, "X"), NpzRows(path, "y")
    if images.shape[:3] != labels.shape[:3] or images.shape[3:] != (2,) or labels.shape[3:] != (2,):
        raise DataError(
            f"{path.name} contains X {images.shape} and y {labels.shape}; expected (N, H, W, 2) of equal size. "
            "Download the file again.",
            kind="wrong_shape",
        )
    return [
        Field(
            image_id=f"{split}/{row:05d}",
            file=file,
            read_channels=partial(images.read, row),
            read_labels=partial(labels.read, row, last=0),
            split=split,
        )
        for row in range(images.shape[0])
    ]


def _split(name: str) -> Split:
    return "train" if name == "train" else "val" if name == "val" else "test"
