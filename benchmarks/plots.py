"""Plots of ``bench`` records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.evaluation.plots import COLOURS, require_matplotlib


def plot_latency(path: Path, latency: list[dict[str, Any]]) -> None:
    """Plot time against cells per image for every backend and size, and the steps of each case, as PNG.

    Args:
        path: file to write.
        latency: rows of ``benchmarks.commands.bench.measure_latency``.

    Raises:
        InputError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = sorted({(row["backend"], row["side_px"]) for row in latency})
    for number, (backend, side) in enumerate(kinds):
        rows = [row for row in latency if (row["backend"], row["side_px"]) == (backend, side)]
        left.plot(
            [row["cells"] for row in rows],
            [row["total_ms"]["p50"] for row in rows],
            "o-",
            color=COLOURS[number % len(COLOURS)],
            label=f"{backend}, {side} x {side}",
        )
    left.set(xlabel="cells per image", ylabel="median time of one image, ms", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    bottoms = [0.0] * len(latency)
    names = [f"{row['backend']}\n{row['side_px']} px\n{row['cells']} cells" for row in latency]
    for number, step in enumerate(latency[0]["steps_ms"]):
        heights = [row["steps_ms"][step]["p50"] for row in latency]
        right.bar(range(len(latency)), heights, bottom=bottoms, label=step, color=COLOURS[number % len(COLOURS)])
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    right.set_xticks(range(len(latency)), names, fontsize=6)
    right.set(ylabel="median time by step, ms")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
