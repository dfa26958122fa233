"""Tables of cells as AnnData objects.

Source: scverse/anndata, and the columns that scverse/spatialdata's ``TableModel`` requires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats.base import optional_package
from runtime.results import Segmentation

if TYPE_CHECKING:
    from anndata import AnnData

REGION_KEY, INSTANCE_KEY = "region", "label"
"""Columns with the name of the annotated element, and with the label of the cell in it."""

PIXEL_CENTRE = 0.5
"""Coordinate of the first pixel's centre, from its corner."""


def cell_table(
    result: Segmentation,
    image: NDArray[np.generic] | None = None,
    *,
    channels: tuple[str, ...] | None = None,
    region: str = "cell_labels",
    pixel_size_um: float | None = None,
) -> AnnData:
    """Tabulate the cells of one image.

    Args:
        result: the cells.
        image: (H, W) or (H, W, C) to measure; without it, the table has no variables.
        channels: names of its channels; default, numbers from 0.
        region: name of the label image that the table annotates.
        pixel_size_um: side of a pixel; adds the column ``area_um2``.

    Returns:
        A table with a row per cell. ``X`` (n, C) float32 has the mean intensity in each channel, ``obs`` the columns of
        ``Segmentation.table``, and ``obsm["spatial"]`` (n, 2) the centroids, xy in pixels from the image's corner.

    Raises:
        InputError: the image has another size, or anndata is not installed.
    """
    anndata = optional_package("anndata", "anndata", "a table of cells", extra="spatialdata")
    import pandas

    planes = None if image is None else (image[..., None] if image.ndim == 2 else image)
    count = 0 if planes is None else planes.shape[2]
    names = [str(number) for number in range(count)] if channels is None else list(channels)
    columns = result.table(planes, pixel_size_um, channels=names or None)
    means = [np.asarray(columns.pop(f"intensity_mean_{name}"), np.float32) for name in names]
    rows = pandas.Index([str(label) for label in columns[INSTANCE_KEY]], dtype=str)
    obs = pandas.DataFrame(columns, index=rows)
    obs[REGION_KEY] = pandas.Categorical([region] * len(obs))
    table: AnnData = anndata.AnnData(
        X=np.stack(means, 1) if means else np.zeros((len(obs), 0), np.float32),
        obs=obs,
        var=pandas.DataFrame(index=pandas.Index(names, dtype=str)),
    )
    table.obsm["spatial"] = np.stack([columns["centroid_x"], columns["centroid_y"]], 1) + PIXEL_CENTRE
    return table
