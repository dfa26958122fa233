"""Builders, one module per dataset, with one function: ``find(source)`` lists the files without reading pixels.

``find`` returns ``SourceDataset`` records, reports files without a partner, and raises ``DataError`` if the layout is
missing. The docstring of each module shows the layout and its source.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from training.data.builders.folder import FolderOptions
from training.data.errors import DataError
from training.data.records import SourceDataset

DatasetName = Literal[
    "tissuenet",
    "deepbacs",
    "brifiseg",
    "cellpose",
    "omnipose",
    "yeastnet",
    "yeaz",
    "dsb2018",
    "phase400",
    "livecell",
    "folder",
]
"""Every name is a module of this package."""
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)


def find_datasets(name: DatasetName, source: Path, folder: FolderOptions | None = None) -> list[SourceDataset]:
    """Find a dataset on disk.

    Args:
        name: name of the layout.
        source: the directory with the unpacked download.
        folder: options of 'folder'; other layouts take none.

    Raises:
        DataError: the directory does not exist or does not have the layout.
    """
    if name not in DATASETS:
        raise DataError(
            f"dataset is {name!r}; expected one of {', '.join(DATASETS)}.", kind="out_of_range", field="name"
        )
    if folder is not None and name != "folder":
        raise DataError(
            f"patterns, groups and object sets are for 'folder'; expected none for {name}. Leave them out.",
            kind="conflict",
        )
    if not source.is_dir():
        raise DataError(
            f"{source} is not a directory; expected the unpacked download of {name}.", kind="not_found", field="source"
        )
    module = import_module(f"training.data.builders.{name}")
    arguments = (source, folder or FolderOptions()) if name == "folder" else (source,)
    datasets: list[SourceDataset] = module.find(*arguments)
    return datasets


def layout_of(name: DatasetName) -> str:
    """Return the layout that a builder expects: the docstring of its module."""
    return import_module(f"training.data.builders.{name}").__doc__ or ""


__all__ = ["DATASETS", "DatasetName", "FolderOptions", "find_datasets", "layout_of"]
