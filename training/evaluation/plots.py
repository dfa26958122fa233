"""Plots of evaluations: F1 per row as bars, and F1 against IoU; matplotlib is imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.extras import install_command
from training.evaluation.compare import Column, row_names
from training.evaluation.metrics import iou_key
from training.evaluation.summary import Level

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Colours that colour-blind readers can distinguish (Okabe and Ito 2008)."""


def require_matplotlib() -> None:
    """Raise InputError, with the install command, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"plots need matplotlib, which cannot be imported ({error}). Install it: {install_command('training')}.",
            kind="not_installed",
        ) from error


def plot_bars(path: Path, columns: Sequence[Column], *, iou: float, level: Level = "subset") -> None:
    """Plot F1 of every row of a level, one bar per column, as PNG.

    Raises:
        InputError: matplotlib is missing.
    """
    rows = [row for row in row_names(columns) if row[0] == level]
    figure, axes = _axes(max(5.0, 1.2 + 0.45 * len(rows) * (len(columns) + 0.6)))
    place, width = np.arange(len(rows)), 0.8 / len(columns)
    for index, column in enumerate(columns):
        heights = [column.rows[row].counts[iou_key(iou)].f1 if row in column.rows else np.nan for row in rows]
        offset = (index - (len(columns) - 1) / 2) * width
        bars = axes.bar(place + offset, heights, width, label=column.name, color=COLOURS[index % len(COLOURS)])
        axes.bar_label(bars, ["" if np.isnan(h) else f"{h:.2f}" for h in heights], fontsize=8, padding=2)
    axes.set_xticks(place, [name.replace(" ", "\n") for _, name in rows])
    axes.set(ylabel=f"F1 at IoU {iou:g}", ylim=(0, 1.08))
    _save(figure, axes, path)


def plot_curves(path: Path, columns: Sequence[Column], *, level: Level = "subset") -> None:
    """Plot F1 against the IoU of a match, one panel per row of a level and one line per column, as PNG.

    Raises:
        InputError: matplotlib is missing.
    """
    rows = [row for row in row_names(columns) if row[0] == level]
    figure, grid = _axes(3.2 * len(rows), panels=len(rows))
    for axes, row in zip(np.atleast_1d(grid), rows, strict=True):
        for index, column in enumerate(columns):
            if row not in column.rows:
                continue
            points = sorted((float(key), counts.f1) for key, counts in column.rows[row].counts.items())
            axes.plot(*zip(*points, strict=True), "o-", ms=3, label=column.name, color=COLOURS[index % len(COLOURS)])
        axes.set(title=row[1], xlabel="IoU of a match", ylim=(0, 1.02))
    first = np.atleast_1d(grid)[0]
    first.set_ylabel("F1")
    _save(figure, first, path)


def _axes(width: float, panels: int = 1) -> tuple[Any, Any]:
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(width, 3.4), layout="constrained")
    return figure, figure.subplots(1, panels, sharey=True)


def _save(figure: Any, legend_axes: Any, path: Path) -> None:
    legend_axes.legend(frameon=False, fontsize=8)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
