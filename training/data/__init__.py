"""Published datasets in, tiles of one common format out; and the reader that training uses.

``read_split`` is all that training needs; ``find_datasets`` and ``build_dataset`` make what it reads.
"""

from training.data.build import BuildReport, build_dataset
from training.data.builders import DATASETS, FolderOptions, find_datasets
from training.data.errors import DataError
from training.data.format import Sample, TileSet, read_split
from training.data.records import GROUPS, SPLITS, Group, Split, TileRecord

__all__ = [
    "DATASETS",
    "GROUPS",
    "SPLITS",
    "BuildReport",
    "DataError",
    "FolderOptions",
    "Group",
    "Sample",
    "Split",
    "TileRecord",
    "TileSet",
    "build_dataset",
    "find_datasets",
    "read_split",
]
