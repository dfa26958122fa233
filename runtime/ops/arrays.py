"""Conversion of callers' arguments to arrays: the only place where an argument runs code of other libraries."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InputError, kind_of


def as_array(value: ArrayLike, name: str, expected: str) -> NDArray[np.generic]:
    """Call ``numpy.asarray`` and turn every failure into an error of this package.

    Args:
        value: any value; its own ``__array__`` may raise any error, as for tensors that require a gradient, are sparse
            or have no data.
        name: name of the value, for errors.
        expected: description of an expected value, for errors.

    Raises:
        InputError: the value cannot be read as an array, or some of its values are masked.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # from the value's own code
        kind = kind_of(error)
        raise InputError(
            f"{name} cannot be read as an array ({type(value).__name__}; {type(error).__name__}: {error}); expected "
            f"{expected}. Convert it first: numpy.asarray(...), or tensor.detach().float().cpu().numpy() for a tensor.",
            kind="wrong_type" if kind == "failed" else kind,
        ) from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(
            f"{name} has {np.count_nonzero(value.mask)} masked of {value.size} values; expected an array without "
            f"masked values. Fill them, for example with the background: {name}.filled(0).",
            kind="invalid",
        )
    return array


def as_numbers(value: ArrayLike, name: str, expected: str) -> NDArray[np.float64]:
    """Convert a value to real numbers as float64.

    Args:
        value, name, expected: as in ``as_array``.

    Raises:
        InputError: as in ``as_array``; also if values are not real numbers, or beyond float64.
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
    except Exception as error:  # the conversion of objects can raise anything
        raise InputError(
            f"{name} cannot be read as numbers ({type(error).__name__}: {error}); expected {expected}. Convert it to "
            "an array of real numbers first.",
            kind="wrong_type",
        ) from error
