"""Text that is safe to print to a terminal. Imports only the standard library."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories of control, format, surrogate, private-use, and line- or paragraph-separating characters."""


def printable(text: str) -> str:
    """Escape characters that move the cursor, change colours or reverse the writing direction.

    Names of files and channels, and error messages of libraries, may contain any character.
    """
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _NOT_SHOWN else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
