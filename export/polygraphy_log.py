"""Polygraphy's messages through ``logging``: by default it prints them to stdout, which belongs to results."""

from __future__ import annotations

import logging

POLYGRAPHY_LOG = logging.getLogger("Polygraphy")


def quiet_polygraphy() -> None:
    """Make Polygraphy log to ``POLYGRAPHY_LOG``.

    Raises:
        ImportError: Polygraphy is not installed.
    """
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system, G_LOGGER.colors = True, False
    if not POLYGRAPHY_LOG.handlers:
        POLYGRAPHY_LOG.addHandler(logging.NullHandler())
