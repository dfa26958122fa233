"""What callers hand over, as arrays: the one place where other libraries' code runs on behalf of an argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InputError, kind_of


def as_array(value: ArrayLike, name: str, expected: str) -> NDArray[np.generic]:
    """``numpy.asarray``, with every failure an error of this package.

    Args:
        value: anything; its own ``__array__`` may raise what it likes, as tensors do that need a gradient, are sparse
            or have no data.
        name: what errors call it.
        expected: for errors.

    Raises:
        InputError: it cannot be read as an array, or some of its values are masked.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # of the value's own code
        kind = kind_of(error)
        raise InputError(
            f"{name} cannot be read as an array ({type(value).__name__}; {type(error).__name__}: {error}); expected "
            f"{expected}. Convert it first: numpy.asarray(...), for a tensor tensor.detach().float().cpu().numpy().",
            kind="wrong_type" if kind == "failed" else kind,
        ) from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(
            f"{name} has {np.count_nonzero(value.mask)} masked of {value.size} values; expected an array whose every "
            f"value counts. Give those a value, such as that of the background: {name}.filled(0).",
            kind="invalid",
        )
    return array


def as_numbers(value: ArrayLike, name: str, expected: str) -> NDArray[np.float64]:
    """Real numbers as float64.

    Args:
        value, name, expected: as for ``as_array``.

    Raises:
        InputError: as ``as_array``; also values that are no real numbers, or beyond float64.
    """
    array = as_array(value, name, expected)
    if array.dtype.kind not in "biufO":
        raise InputError(
            f"{name} cannot be read as numbers (dtype {array.dtype}); expected {expected}. Convert it to an "
            "array of real numbers first.",
            kind="wrong_type",
        )
    try:
        with np.errstate(over="ignore"):
            return array.astype(np.float64)
    except Exception as error:  # of objects: whatever their conversion raises
        raise InputError(
            f"{name} cannot be read as numbers ({type(error).__name__}: {error}); expected {expected}. Convert it to "
            "an array of real numbers first.",
            kind="wrong_type",
        ) from error
