"""Omnipose: bacteria in phase contrast and fluorescence.

Layout (Cutler et al. 2022, Nat Methods 19:1438; osf.io/xmury, ``datasets``):

    {bact_phase,bact_fluor}/{train_sorted,test_sorted}/<strain>/<name>.tif, <name>_masks.tif, <name>_flows.tif

The worm sets of the same archive are ignored. Layout as listed in torch-em
``torch_em/data/datasets/light_microscopy/omnipose.py``.
"""

from __future__ import annotations

from pathlib import Path

from training.data.builders.pairs import Pattern, find_pairs, pair_fields, relative, skip_unpaired
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset, Split

NAME = "omnipose"
CITATION = "Omnipose, Cutler et al. 2022, doi:10.1038/s41592-022-01639-4"
LICENCE = "CC BY-NC 3.0"

SETS = ("bact_phase", "bact_fluor")
DIRECTORIES: dict[str, Split] = {"train_sorted": "train", "test_sorted": "test"}
PATTERN = Pattern("**/*.tif", "**/*_masks.tif")
FLOWS = "_flows.tif"


def find(source: Path) -> list[SourceDataset]:
    """Find the bacterial sets below a source.

    Raises:
        DataError: there is none.
    """
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for directory in sorted(path for name in DIRECTORIES for path in source.rglob(name) if path.is_dir()):
        if directory.parent.name not in SETS:
            continue
        pairs, alone = find_pairs(directory, PATTERN)
        fields += pair_fields(
            pairs, source, prefix=f"{relative(directory, source)}/", split=DIRECTORIES[directory.name]
        )
        skipped += skip_unpaired([path for path in alone if not path.name.endswith(FLOWS)], source)
    if not fields:
        raise DataError(
            f"{source} contains no bact_phase/train_sorted with *_masks.tif; expected the unpacked Omnipose datasets.",
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
