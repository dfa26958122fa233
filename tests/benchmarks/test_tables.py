"""Figures in the README are those of the newest record."""

from __future__ import annotations

from benchmarks.tables import README, rendered


def test_the_readme_shows_the_newest_records() -> None:
    text = README.read_text(encoding="utf-8")
    assert all(f"<!-- {case} -->" in text for case in ("latency", "bench", "slides", "seams", "quality"))
    assert rendered(text) == text, "run: python -m benchmarks.tables"
