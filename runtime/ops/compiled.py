"""Loops over pixels, compiled on first use.

The compiled code is cached beside the source or in the user's cache directory, so later processes load it. It releases
the interpreter's lock, so threads run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Entry = TypeVar("Entry", bound=np.generic)


_LOOPS: list[Any] = []
"""All compiled functions of the imported modules."""


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers.

    Floating-point operations run as written: they are neither reordered nor contracted.
    """
    try:
        loop = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no place for a cache: compile once per process
        loop = njit(nogil=True)(function)
    _LOOPS.append(loop)
    return cast(Function, loop)


def loops_to_compile() -> bool:
    """Return whether most loops of the imported modules are neither compiled nor cached by an earlier process."""
    return sum(map(_is_compiled, _LOOPS)) < len(_LOOPS) / 2


def _is_compiled(loop: Any) -> bool:
    if not hasattr(loop, "signatures"):  # numba is disabled
        return True
    kept = loop.stats.cache_path
    code, function = loop.py_func.__code__, loop.py_func
    # Numba's name for the index of a function's compiled forms; an index older than the source is invalid.
    source = Path(code.co_filename)
    indices = Path(kept).glob(f"{source.stem}.{function.__qualname__}-{code.co_firstlineno}.*.nbi") if kept else ()
    return bool(loop.signatures) or any(index.stat().st_mtime >= source.stat().st_mtime for index in indices)


@compiled
def looked_up(values: NDArray[Any], table: NDArray[Entry]) -> NDArray[Entry]:
    """Look up each value of an (H, W) array in a table; all values must be valid indices of the table."""
    out = np.empty(values.shape, table.dtype)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            out[y, x] = table[values[y, x]]
    return out
