"""Loops over pixels, compiled on first use.

The compiled code is kept beside the source or in the user's cache directory, so that later processes load it. It runs
without the interpreter's lock: threads overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers.

    Floating-point results are those of the operations as written: nothing is reordered or contracted.
    """
    try:
        loop = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep it: compiled once per process
        loop = njit(nogil=True)(function)
    return cast(Function, loop)
