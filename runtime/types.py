"""Array and tensor types shared by all layers."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Bool = NDArray[np.bool_]

Arrays = dict[str, NDArray[Any]]
"""Arrays by tensor name."""


class DeviceTensor(Protocol):
    """An engine output that stayed on the device; engines of the same backend accept it as an input."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Copy to host memory."""
        ...


Tensor = NDArray[Any] | DeviceTensor
Tensors = dict[str, Tensor]
"""Tensors by name."""

Extent = tuple[int, int, int, int]
"""Top, left, bottom, right in image pixels; bottom and right are exclusive."""

Profile = Literal["paper", "cellsam-1.2"]
"""How an image is turned into model input; see ``runtime.ops.model_input``."""
