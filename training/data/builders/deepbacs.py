"""DeepBacs: bacteria in brightfield and fluorescence.

Layout of the segmentation archives (Spahn et al. 2022, Commun Biol 5:688), unpacked below one directory:

    MIXED (Zenodo 5551009)         {training,test}/source/*.tif, {training,test}/target/*.tif
    E. coli (Zenodo 5550935)       {train,test}/brightfield, {train,test}/masks_RoiMap; masks_binary is not read
    B. subtilis (Zenodo 5550968)   <dataset>/{train,test}/fluorescence, <dataset>/{train,test}/masks
    S. aureus (Zenodo 5550933)     {brightfield,fluorescence}_dataset/train/full_images/<modality> and /masks,
                                   {brightfield,fluorescence}_dataset/test/<modality> and /masks; train/patches has
                                   crops of full_images and is not read

MIXED repeats images of the other archives: build either from MIXED or from the others. Layouts as listed in torch-em
``torch_em/data/datasets/light_microscopy/deepbacs.py`` and in the DeepBacs wiki (HenriquesLab, "Segmentation").
"""

from __future__ import annotations

from pathlib import Path

from training.data.builders.pairs import SPLIT_NAMES, Pattern, find_pairs, pair_fields, relative, skip_unpaired
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset, Split

NAME = "deepbacs"
CITATION = "DeepBacs, Spahn et al. 2022, doi:10.1038/s42003-022-03634-z"
LICENCE = "CC BY 4.0"

IMAGE_DIRECTORIES = ("source", "brightfield", "fluorescence")
MASK_DIRECTORIES = ("target", "masks_RoiMap", "masks")


def find(source: Path) -> list[SourceDataset]:
    """Find image directories with their mask directories below a source.

    Raises:
        DataError: there is none.
    """
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for images in sorted(path for name in IMAGE_DIRECTORIES for path in source.rglob(name) if path.is_dir()):
        masks = next((images.parent / name for name in MASK_DIRECTORIES if (images.parent / name).is_dir()), None)
        split = _split(images.relative_to(source))
        if masks is None or split is None or "patches" in images.relative_to(source).parts:
            continue
        pairs, alone = find_pairs(images.parent, Pattern(f"{images.name}/*.*", f"{masks.name}/*.*"))
        fields += pair_fields(pairs, source, prefix=f"{relative(images, source)}/", split=split)
        skipped += skip_unpaired(alone, source)
    if not fields:
        raise DataError(
            f"{source} contains no image directory ({', '.join(IMAGE_DIRECTORIES)}) beside a mask directory "
            f"({', '.join(MASK_DIRECTORIES)}); expected unpacked DeepBacs segmentation archives.",
            kind="not_found",
            field="source",
        )
    return [
        SourceDataset(
            name=NAME,
            group="Bacteria",
            citation=CITATION,
            licence=LICENCE,
            fields=tuple(fields),
            skipped=tuple(skipped),
        )
    ]


def _split(path: Path) -> Split | None:
    return next((SPLIT_NAMES[part.lower()] for part in path.parts if part.lower() in SPLIT_NAMES), None)
