"""Cellpose's interfaces on these engines: its command line, and ``CellposeModel``, for programs that call Cellpose."""

from runtime.cellpose.model import Cellpose, CellposeModel

__all__ = ["Cellpose", "CellposeModel"]
