"""Translation of library messages for the command line: option flags in place of setting names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from runtime.commands.options import FLAGS

_SETTING = re.compile(r"(?<![\w./-])([a-z]+(?:_[a-z]+)*)(?![\w/-]|\.\w)(=(?:'([^']*)'|(-?\w(?:[\w.-]*\w)?))?)?")
"""A name outside a path, with ``=`` and a value if they follow."""


def in_flags(message: str, flags: Mapping[str, str] = FLAGS, field: str | None = None) -> str:
    """Replace settings by flags in a message of the library: ``overwrite=True`` becomes ``--overwrite``.

    A name of several words (``box_threshold``) is always a setting, a name of one word only if ``=`` follows.

    Args:
        message: a message of the library.
        flags: flags by setting name; names that are not in it stay.
        field: the setting that the message is about; replaced at the start of the message even if it is one word.

    Returns:
        The message with flags.
    """

    def flag(found: re.Match[str]) -> str:
        name, assigned, quoted, plain = found.groups()
        if name not in flags or ("_" not in name and assigned is None and not (name == field and found.start() == 0)):
            return found[0]
        value = quoted or plain
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return _SETTING.sub(flag, message)


class FlagFormatter(logging.Formatter):
    """Formatter that replaces setting names by flags."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record with flags in place of setting names."""
        return in_flags(super().format(record))
