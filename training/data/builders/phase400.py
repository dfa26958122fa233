"""Phase400: phase microscopy of eight mammalian cell lines, collected for CellSAM.

Layout: directories of image and label pairs, in any of the forms

    [<split>/][<cell line>/]<name>_img.<type>, <name>_masks.<type>    as the released evaluation code reads them
                                                                      (cellSAM ``paper_evaluation/mix_dataset.py``)
    [<split>/][<cell line>/]images/<name>.<type>, labels/<name>.<type>

Types: tif, tiff, png, npy. Split directories give published splits; without them, images are split 80-10-10.
"""

from __future__ import annotations

from pathlib import Path

from training.data.builders.pairs import SPLIT_NAMES, Pattern, find_pairs, pair_fields, skip_unpaired
from training.data.errors import DataError
from training.data.records import Field, SourceDataset, Split

NAME = "phase400"
CITATION = "Phase400, Israel et al. 2023 (CellSAM), doi:10.1101/2023.11.17.567630"
LICENCE = "non-commercial, academic use only (DeepCell)"

PATTERNS = (
    Pattern("**/*_img.*", "**/*_masks.*"),
    Pattern("**/*_img.*", "**/*_mask.*"),
    Pattern("**/images/*.*", "**/labels/*.*"),
    Pattern("**/images/*.*", "**/masks/*.*"),
)


def find(source: Path) -> list[SourceDataset]:
    """Find pairs below a source, in the first form that occurs in a split directory.

    Raises:
        DataError: there are none.
    """
    splits = {path: SPLIT_NAMES[path.name.lower()] for path in sorted(source.iterdir()) if _is_split(path)}
    roots: dict[Path, Split | None] = {**splits} or {source: None}
    for pattern in PATTERNS:
        found = {root: find_pairs(root, pattern) for root in roots}
        if any(pairs for pairs, _ in found.values()):
            break
    else:
        raise DataError(
            f"{source} contains no pairs such as a_img.tif with a_masks.tif, or images/a.tif with labels/a.tif; "
            "expected directories of image and label pairs.",
            kind="not_found",
            field="source",
        )
    fields: list[Field] = []
    for root, (pairs, _) in found.items():
        prefix = "" if root == source else f"{root.name}/"
        fields += pair_fields(pairs, source, prefix=prefix, split=roots[root])
    return [
        SourceDataset(
            name=NAME,
            group="Cell Culture",
            citation=CITATION,
            licence=LICENCE,
            fields=tuple(fields),
            skipped=tuple(skip for _, alone in found.values() for skip in skip_unpaired(alone, source)),
        )
    ]


def _is_split(path: Path) -> bool:
    return path.is_dir() and path.name.lower() in SPLIT_NAMES
