"""Text about the engines of a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.correction.engine_versions import EngineHistory, EngineVersion
from training.evaluation.metrics import PRIMARY_IOU
from training.evaluation.report import figure, markdown_table

_SETS = {"corrected": "corrected images", "samples": "sample set"}


def version_table(version: EngineVersion) -> str:
    """Render the scores of a version against the engine it was compared with, as a Markdown table."""
    head = [
        "Images",
        "number",
        "cells",
        f"F1@{PRIMARY_IOU:g} {version.compared_with}",
        version.version,
        "change",
        "better",
    ]
    rows = [_row(words, version.scores.get(name)) for name, words in _SETS.items()]
    lines = [
        *markdown_table(head, rows),
        "",
        "better: share of the resamples of images in which the new engine has the higher F1.",
    ]
    return "\n".join(lines)


def verdict_text(version: EngineVersion) -> str:
    """Return the state of a version and its reasons as a line."""
    return f"{version.version} is {version.state}. {' '.join(version.reasons)}"


def history_lines(history: EngineHistory) -> list[str]:
    """Return a line for each version: the name, its state, its score on corrected images, and the time."""
    lines = []
    for one in history.versions:
        found = one.scores.get("corrected")
        change = "-" if found is None else f"F1 {found['old_f1']:.3f} -> {found['new_f1']:.3f}"
        mark = "*" if one.version == history.current else " "
        lines.append(f"{mark} {one.version}\t{one.state}\t{len(one.images)} images\t{change}\t{one.time}")
    return lines


def _row(words: str, found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return [words, "0", "0", "-", "-", "-", "-"]
    gain = found["new_f1"] - found["old_f1"]
    figures = [figure(found["old_f1"]), figure(found["new_f1"]), f"{gain:+.3f}", f"{found['better']:.0%}"]
    return [words, str(found["images"]), str(found["cells"]), *figures]
