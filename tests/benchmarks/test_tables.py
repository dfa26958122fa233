"""Figures in documents are those of the newest record."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tables import DOCUMENTS, rendered

CASES = {"README.md": ("latency", "bench", "slides", "seams", "quality"), "tensorrt.md": ("plans",)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_newest_records(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert all(f"<!-- {case} -->" in text for case in CASES[path.name])
    assert rendered(text) == text, "run: python -m benchmarks.tables"
