"""What a class of inputs is, and when one of its inputs failed."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from runtime.errors import OutOfMemoryError, SegmenterError

Case = dict[str, Any]
"""One input, as JSON holds it; bytes in hex."""


@dataclass(frozen=True)
class InputClass:
    """Inputs of one kind, and the calls that take them."""

    name: str
    cases: Callable[[], SearchStrategy[Case]]
    check: Callable[[Case], None]
    """Makes the input and calls what takes it. Raises an ``AssertionError`` for a wrong result."""
    pinned: Callable[[Case], Case] = dict
    """The case with everything that other versions of libraries might make otherwise; what is kept of a failure."""


def problem_of(one: InputClass, case: Case) -> str | None:
    """What is wrong with the answer to an input: None, or an error's traceback, whose last line names the error."""
    try:
        one.check(case)
    except OutOfMemoryError:
        return traceback.format_exc()
    except SegmenterError as error:
        return None if str(error).strip() else f"{type(error).__name__} without a message"
    except Exception:
        return traceback.format_exc()
    return None


def signature(problem: str) -> str:
    """The same for failures at the same place: the last place in the traceback, and the error's type."""
    lines = problem.strip().splitlines()
    places = [line.strip() for line in lines if line.startswith('  File "')]
    return f"{places[-1] if places else ''} {lines[-1].partition(':')[0]}"
