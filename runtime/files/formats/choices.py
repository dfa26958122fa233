"""Which image of a file that holds several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import InputError


def choose_series(path: Path, found: Sequence[tuple[str, str]], wanted: int | str | None) -> int:
    """The number of the series that is wanted.

    Args:
        path: for messages.
        found: name and description of each series.
        wanted: a name or number; None where there is one.

    Raises:
        InputError: there is none, none such, or several to choose from.
    """
    if not found:
        raise InputError(f"{path} holds no image; it cannot be read as its type. Copy it again.", kind="damaged")
    if wanted is None and len(found) == 1:
        return 0
    numbers = {str(number): number for number in range(len(found))}
    names = [name for name, _ in found]
    if wanted is not None and names.count(str(wanted)) == 1:
        return names.index(str(wanted))
    if str(wanted) in numbers:
        return numbers[str(wanted)]
    listed = "; ".join(f"{number}: {description}" for number, (_, description) in enumerate(found))
    came = f"holds {len(found)} series" if wanted is None else f"has no series {wanted!r}"
    raise InputError(
        f"{path} {came}; expected one image. Choose one with series= ({listed}).",
        kind="not_found" if wanted is not None else "missing",
        field="series",
    )


def check_level(path: Path, level: int, count: int) -> int:
    """Return the level of a pyramid if there is one such, else raise an ``InputError``."""
    if not 0 <= level < count:
        raise InputError(
            f"{path} has levels 0 to {count - 1}; level {level} was asked for.", kind="not_found", field="level"
        )
    return level
