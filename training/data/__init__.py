"""Conversion of published datasets to tiles of one common format, and the reader for training.

``find_datasets`` and ``build_dataset`` write the tiles; ``read_split`` reads them.
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
