"""Cells into SpatialData objects.

SpatialData counts pixels as this package does, from the corner of the first one.

Source: scverse/spatialdata ``src/spatialdata/models/models.py`` and ``src/spatialdata/transformations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig
from runtime.errors import ConfigError, InputError
from runtime.files.formats.channels import choose_channels
from runtime.files.outputs.polygons import mask_polygons
from runtime.ops.masks import label_crops
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.spatial.images import MICROMETRES, load_spatialdata, open_element
from runtime.spatial.tables import INSTANCE_KEY, REGION_KEY, cell_table

if TYPE_CHECKING:
    from spatialdata import SpatialData


@dataclass(frozen=True, kw_only=True, slots=True)
class CellNames:
    """Names of the elements that describe the cells of an image.

    Raises:
        ConfigError: two names are equal.
    """

    labels: str = "cell_labels"
    """Label image."""
    shapes: str = "cell_boundaries"
    """Outlines, with the label of each cell as index."""
    table: str = "cells"
    """Table, which annotates the label image."""

    def __post_init__(self) -> None:
        if len({self.labels, self.shapes, self.table}) < 3:
            raise ConfigError(
                f"names are {self.labels!r}, {self.shapes!r} and {self.table!r}; expected three different ones. "
                "Rename one.",
                kind="conflict",
                field="names",
            )


def segment_element(
    sdata: SpatialData,
    name: str,
    segmenter: Segmenter,
    *,
    nuclear: str | int | None = None,
    membrane: str | int | None = None,
    config: SegmentConfig | None = None,
    names: CellNames | None = None,
) -> Segmentation:
    """Segment an image of a SpatialData object as a whole, and add its cells to the object.

    A backed object is also written to its store. For images that do not fit into memory, segment the image's folder in
    the store as a slide.

    Args:
        sdata: the object.
        name: name of the image.
        segmenter: the engines.
        nuclear, membrane: names or numbers of the channels; see ``runtime.files.formats.choose_channels``.
        config: settings; a diameter in micrometres needs the coordinate system ``um``.
        names: names of the new elements.

    Raises:
        InputError: the image cannot be used, its channels are not chosen, or an element of these names exists.
    """
    names = names or CellNames()
    for new in (names.labels, names.shapes, names.table):
        if new in sdata:
            raise InputError(
                f"element {new!r} exists already; expected new names. Pass names=CellNames(...), or delete it.",
                kind="exists",
                field="names",
            )
    reader = choose_channels(open_element(sdata, name), nuclear=nuclear, membrane=membrane)
    image = reader.read(0, 0, *reader.size_hw)
    settings = (config or segmenter.config).at_pixel_size(reader.pixel_size_um, name)
    result = segmenter(image, config=settings)
    add_cells(sdata, result, name, image=image, channels=reader.channels, names=names)
    if sdata.is_backed():
        sdata.write_element([names.labels, names.shapes, names.table])
    return result


def to_spatialdata(
    result: Segmentation,
    image: NDArray[np.generic],
    *,
    name: str = "image",
    channels: tuple[str, ...] | None = None,
    pixel_size_um: float | None = None,
    names: CellNames | None = None,
) -> SpatialData:
    """Create a SpatialData object from an image and its cells.

    Args:
        result: the cells.
        image: (H, W) or (H, W, C), with any number of channels.
        name: name of the image.
        channels: names of its channels; default, numbers.
        pixel_size_um: side of a pixel; adds the coordinate system ``um`` beside ``global``, which is in pixels.
        names: names of the elements of the cells.
    """
    spatialdata = load_spatialdata()
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale

    planes = image[..., None] if image.ndim == 2 else image
    systems: dict[str, Any] = {"global": Identity()}
    if pixel_size_um is not None:
        systems[MICROMETRES] = Scale([pixel_size_um] * 2, axes=("x", "y"))
    listed = list(channels or (str(number) for number in range(planes.shape[2])))
    element = Image2DModel.parse(
        np.moveaxis(planes, -1, 0), dims=("c", "y", "x"), c_coords=listed, transformations=systems
    )
    sdata: SpatialData = spatialdata.SpatialData(images={name: element})
    add_cells(sdata, result, name, image=planes, channels=tuple(listed), names=names)
    return sdata


def add_cells(
    sdata: SpatialData,
    result: Segmentation,
    name: str,
    *,
    image: NDArray[np.generic] | None = None,
    channels: tuple[str, ...] | None = None,
    names: CellNames | None = None,
) -> None:
    """Add labels, outlines and a table of the cells of an image, in its coordinate systems.

    Args:
        sdata: the object.
        result: cells of the image at its largest scale.
        name: name of the image.
        image: (H, W, C) to measure intensities in.
        channels: names of its channels.
        names: names of the new elements.

    Raises:
        InputError: there is no such image, or it has another size than the labels.
    """
    load_spatialdata()
    from spatialdata.models import Labels2DModel, ShapesModel, TableModel
    from spatialdata.transformations import get_transformation

    names, reader = names or CellNames(), open_element(sdata, name)
    if reader.size_hw != result.labels.shape:
        raise InputError(
            f"image {name!r} has {reader.size_hw} pixels, but the labels have {result.labels.shape}; expected the "
            "same. Segment the largest scale of the image.",
            kind="mismatch",
            field="name",
        )
    systems = get_transformation(sdata.images[name], get_all=True)
    sdata.labels[names.labels] = Labels2DModel.parse(result.labels, dims=("y", "x"), transformations=dict(systems))
    if len(result):  # SpatialData has neither shapes nor tables without rows
        sdata.shapes[names.shapes] = ShapesModel.parse(_outlines(result), transformations=dict(systems))
    table = cell_table(result, image, channels=channels, region=names.labels, pixel_size_um=reader.pixel_size_um)
    regions = {"region": names.labels, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY} if len(result) else {}
    sdata.tables[names.table] = TableModel.parse(table, **regions)


def _outlines(result: Segmentation) -> Any:
    """Return a GeoDataFrame of the outlines along pixel edges; its index contains the labels."""
    import geopandas
    from shapely.geometry import MultiPolygon, Polygon

    shapes = []
    for crop in label_crops(result.labels):
        parts = [Polygon(outer, holes) for outer, *holes in mask_polygons(crop.mask, crop.offset_yx)]
        shapes.append(parts[0] if len(parts) == 1 else MultiPolygon(parts))
    index = np.arange(1, len(shapes) + 1)
    return geopandas.GeoDataFrame({"geometry": shapes, INSTANCE_KEY: index}, index=index)
