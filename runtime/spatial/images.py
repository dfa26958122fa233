"""Images of SpatialData objects.

Elements lie in named coordinate systems; ``global`` of most readers is the image's own pixels.

Source: scverse/spatialdata ``src/spatialdata/models/models.py`` and ``src/spatialdata/transformations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import optional_package

if TYPE_CHECKING:
    from spatialdata import SpatialData

MICROMETRES = "um"
"""Coordinate system in micrometres that ``runtime.spatial.elements.to_spatialdata`` adds if the pixel size is known."""


@dataclass(frozen=True, slots=True, eq=False)
class ElementReader:
    """``ImageReader`` for an image of a SpatialData object; only the parts that are read are loaded."""

    name: str
    array: Any
    """(c, y, x) ``xarray.DataArray``, the largest scale of the image."""
    pixel_size_um: float | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return int(self.array.sizes["y"]), int(self.array.sizes["x"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixel values."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(str(name) for name in self.array.coords["c"].values)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Read a part, (height, width, C)."""
        part = self.array[:, top : top + height, left : left + width]
        return np.moveaxis(np.asarray(part.values), 0, -1)


def open_element(sdata: SpatialData, name: str, coordinate_system: str = MICROMETRES) -> ElementReader:
    """Open an image of a SpatialData object.

    Args:
        sdata: the object.
        name: name of the image.
        coordinate_system: a coordinate system in micrometres; the pixel size is unknown if the image is not in it.

    Raises:
        InputError: there is no such image, or it has three spatial axes.
    """
    if name not in sdata.images:
        raise InputError(
            f"image {name!r} is unknown; expected one of {', '.join(sdata.images) or 'none'}. Choose another.",
            kind="not_found",
            field="name",
        )
    element = sdata.images[name]
    array = element if hasattr(element, "dims") and "c" in element.dims else element["scale0"]["image"]
    if tuple(array.dims) != ("c", "y", "x"):
        raise InputError(
            f"image {name!r} has axes {', '.join(map(str, array.dims))}; expected c, y, x. Select one plane.",
            kind="wrong_shape",
            field="name",
        )
    return ElementReader(name, array, _pixel_size_um(element, coordinate_system))


def _pixel_size_um(element: Any, coordinate_system: str) -> float | None:
    """Return the geometric mean of the scales along x and y; None if the element is not in the coordinate system."""
    load_spatialdata()
    from spatialdata.transformations import get_transformation

    systems = get_transformation(element, get_all=True)
    if coordinate_system not in systems:
        return None
    matrix = systems[coordinate_system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def load_spatialdata() -> Any:
    """Import the package; raise an ``InputError`` with the install command if it is missing."""
    return optional_package("spatialdata", "spatialdata", "a SpatialData object", extra="spatialdata")
