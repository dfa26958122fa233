"""Tests of the contact sheets: every group is on one sheet, and all sheets together stay small."""

from __future__ import annotations

from pathlib import Path

from benchmarks.synthetic import cpu_ms
from benchmarks.synthetic_sheets import FAMILIES, GAP_PX, PANEL_PX, SEEDS, sheet
from training.data.synthetic import SYNTHETIC_GROUPS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_group_is_on_one_sheet() -> None:
    shown = [name for beginnings in FAMILIES.values() for name in SYNTHETIC_GROUPS if name.startswith(beginnings)]
    assert sorted(shown) == sorted(SYNTHETIC_GROUPS)


def test_the_page_shows_every_sheet_and_they_are_small() -> None:
    page = (DOCS / "synthetic.md").read_text(encoding="utf-8")
    sheets = sorted((DOCS / "synthetic").glob("*.jpg"))
    assert [path.stem for path in sheets] == sorted(FAMILIES)
    assert all(f"(synthetic/{path.name})" in page for path in sheets)
    assert sum(path.stat().st_size for path in sheets) < 1.5 * 2**20


def test_a_sheet_has_a_row_per_group() -> None:
    one, two = sheet(["empty_phase"]), sheet(["empty_phase", "yeast_dic"])
    assert one.width == two.width == len(SEEDS) * (PANEL_PX + GAP_PX) - GAP_PX
    assert two.height == 2 * one.height


def test_the_time_of_an_image_is_measured() -> None:
    assert cpu_ms("empty_phase", 1) > 0
