"""Messages of the library in the words of the command line: options in place of settings."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from runtime.commands.options import FLAGS

_SETTING = re.compile(r"(?<![\w./-])([a-z]+(?:_[a-z]+)*)(?![\w/-]|\.\w)(=(?:'([^']*)'|(-?\w(?:[\w.-]*\w)?))?)?")
"""A name, with ``=`` and a value if one follows; not inside a path."""


def in_flags(message: str, flags: Mapping[str, str] = FLAGS, field: str | None = None) -> str:
    """A message of the library with flags in place of settings: ``overwrite=True`` becomes ``--overwrite``.

    Args:
        message: names of one word are settings only with ``=`` behind them, others (``box_threshold``) always.
        flags: by the names of settings; other names stay.
        field: the setting that the message is about; if the message begins with its name, that counts even as one word.
    """

    def flag(found: re.Match[str]) -> str:
        name, assigned, quoted, plain = found.groups()
        if name not in flags or ("_" not in name and assigned is None and not (name == field and found.start() == 0)):
            return found[0]
        value = quoted or plain
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return _SETTING.sub(flag, message)


class FlagFormatter(logging.Formatter):
    """Writes what the library logs with flags in place of settings."""

    def format(self, record: logging.LogRecord) -> str:
        return in_flags(super().format(record))
