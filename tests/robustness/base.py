"""Classes of inputs, and a check for whether an input fails."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from runtime.errors import OutOfMemoryError, SegmenterError

Case = dict[str, Any]
"""One input, ready for JSON; bytes in hex."""


@dataclass(frozen=True)
class InputClass:
    """Inputs of one kind, and the calls to test with them."""

    name: str
    cases: Callable[[], SearchStrategy[Case]]
    check: Callable[[Case], None]
    """Make the input and call the tested functions with it; raise ``AssertionError`` for a wrong result."""
    pinned: Callable[[Case], Case] = dict
    """Return the case in a form that does not depend on library versions, for the file of a failure."""


def problem_of(one: InputClass, case: Case) -> str | None:
    """Check an input; return None, or a description of the failure whose last line names the error."""
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
    """Return a key that is equal for failures at the same place: the last place in the traceback and the error type."""
    lines = problem.strip().splitlines()
    places = [line.strip() for line in lines if line.startswith('  File "')]
    return f"{places[-1] if places else ''} {lines[-1].partition(':')[0]}"
