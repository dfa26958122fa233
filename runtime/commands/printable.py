"""Text as it may be sent to a terminal. Needs nothing but the standard library."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that control something, stand for nothing, or break lines."""


def printable(text: str) -> str:
    """Text with what would move the cursor, colour it or turn the direction of writing as escapes.

    Names of files and channels, and what libraries say of files, may hold anything.
    """
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _NOT_SHOWN else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
