"""YeastNet: budding yeast in brightfield time-lapse movies.

Layout (Salem et al. 2021, Appl Sci 11:2692; github.com/kaernlab/YeastNet, ``ynetmodel/YeastSegmentationDataset.py``
and ``Utils/generateLossWeight.py``):

    Datasets/<dataset>/Images/im<index, 3 digits>.tif    gray
    Datasets/<dataset>/Masks/mask<index, 3 digits>.npy   integers, one id per cell

DSDataset has 51 time points in each of three focal planes, one plane after the other (im000, im051 and im102 show the
same cells). DSDataset2 has 20 in three planes, YITDataset1 60 and YITDataset3 20 in one. There is no published split.
All planes of a time point, and nearby time points, stay together: a movie is divided into ten runs of time points, as
many as the folds of the authors' cross-validation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.data.builders.pairs import Pattern, find_pairs, relative, skip_unpaired
from training.data.builders.reading import read_gray, read_label_file
from training.data.errors import DataError
from training.data.records import Field, Skipped, SourceDataset

NAME = "yeastnet"
CITATION = "YeastNet, Salem et al. 2021, doi:10.3390/app11062692"

PATTERN = Pattern("Images/im*.tif", "Masks/mask*.npy")
TIME_POINTS = {"DSDataset": 51, "DSDataset2": 20}
"""Number of time points of the datasets with several focal planes."""
RUNS = 10


def find(source: Path) -> list[SourceDataset]:
    """Find the movies below a source.

    Raises:
        DataError: there is none.
    """
    fields: list[Field] = []
    skipped: list[Skipped] = []
    for images in sorted(path for path in source.rglob("Images") if path.is_dir()):
        movie = images.parent
        pairs, alone = find_pairs(movie, PATTERN)
        pairs = [pair for pair in pairs if pair.key.isdigit()]
        count = TIME_POINTS.get(movie.name, max((int(pair.key) + 1 for pair in pairs), default=1))
        fields += [
            Field(
                image_id=f"{movie.name}/{pair.key}",
                file=relative(pair.image, source),
                read_channels=partial(read_gray, pair.image),
                read_labels=partial(read_label_file, pair.mask),
                object_set=f"{movie.name}/run{int(pair.key) % count * RUNS // count}",
            )
            for pair in pairs
        ]
        skipped += skip_unpaired(alone, source)
    if not fields:
        raise DataError(
            f"{source} contains no Images/im*.tif beside Masks/mask*.npy; expected YeastNet's 'Datasets'.",
            kind="not_found",
            field="source",
        )
    return [
        SourceDataset(
            name=NAME, group="Yeast", citation=CITATION, licence=None, fields=tuple(fields), skipped=tuple(skipped)
        )
    ]
