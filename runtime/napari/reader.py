"""Reader of results and projects for napari."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.correction.project import Project
from runtime.correction.project_file import PROJECT_NAME
from runtime.files.formats import open_image
from runtime.files.label_files.geojson import geojson_size, read_geojson
from runtime.files.label_files.label_image import check_label_image, read_label_image
from runtime.files.outputs.formats import OUTPUT_FORMATS
from runtime.files.outputs.label_images import LABEL_NAME, is_label_group
from runtime.napari.layer_data import CELLS, LayerData, cells_layer, image_layer
from runtime.types import I32

_TIFFS = tuple(OUTPUT_FORMATS[name].ending for name in ("tiff", "ome-tiff"))
_GEOJSON = OUTPUT_FORMATS["geojson"].ending
_TABLE = OUTPUT_FORMATS["csv"].ending


def find_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads these files; None if one of them is neither a result nor a project.

    Args:
        path: a path, or the paths of several files.
    """
    return read_layers if all(_reader_of(one) is not None for one in _paths(path)) else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Read results as Labels layers, and projects as the layers of their images and labels.

    Args:
        path: a path, or the paths of several files.

    Raises:
        InputError: a file cannot be read.
        ProjectError: a project is damaged.
    """
    layers = []
    for one in _paths(path):
        reader = _reader_of(one)
        assert reader is not None, "find_reader has accepted it"
        layers += reader(one)
    return layers


def _paths(path: str | Sequence[str]) -> list[Path]:
    return [Path(one) for one in ([path] if isinstance(path, str) else path)]


def _reader_of(path: Path) -> Callable[[Path], list[LayerData]] | None:
    if path.name == PROJECT_NAME or (path / PROJECT_NAME).is_file():
        return _read_project
    if path.is_dir():
        return _read_zarr if is_label_group(path) else None
    name = path.name.lower()
    if name.endswith(_TIFFS):
        return lambda one: _cells(one, read_label_image(one))
    return _read_outlines if name.endswith(_GEOJSON) else None


def _read_outlines(path: Path) -> list[LayerData]:
    return _cells(path, read_geojson(path, geojson_size(path)))


def _read_zarr(path: Path) -> list[LayerData]:
    with open_image(path / LABEL_NAME) as reader:
        labels = check_label_image(reader.read(0, 0, *reader.size_hw), path.name)
    return _cells(path, labels.astype(np.int32))


def _cells(path: Path, labels: I32) -> list[LayerData]:
    """Describe the layer of a result; the table beside it becomes the features of the cells."""
    endings = (*_TIFFS, _GEOJSON, OUTPUT_FORMATS["ome-zarr"].ending)
    name = next(path.name[: -len(ending)] for ending in endings if path.name.lower().endswith(ending))
    return [cells_layer(labels, CELLS.format(name), **_features(path.with_name(name + _TABLE)))]


def _features(table: Path) -> dict[str, Any]:
    """Read the features of the cells from a table, without hidden cells, whose label is 0."""
    if not table.is_file():
        return {}
    import pandas as pd  # napari needs it

    columns = pd.read_csv(table)
    if "label" not in columns:
        return {}
    return {"features": columns[columns["label"] > 0].rename(columns={"label": "index"}).reset_index(drop=True)}


def _read_project(path: Path) -> list[LayerData]:
    """Read the images and labels of a project; the first image is visible."""
    layers = []
    with Project.open(path.parent if path.name == PROJECT_NAME else path, read_only=True) as project:
        for place, name in enumerate(project.names):
            pixels = project.read(name).pixels
            layers.append(image_layer(pixels, name, project.path(name), visible=not place))
            layers.append(cells_layer(project.labels(name), CELLS.format(name), name, visible=not place))
    return layers
