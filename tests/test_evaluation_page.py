"""Every command in docs/evaluation.md runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile

from tests.test_readme import ROOT, run_blocks
from tests.training.evaluation.made import discs, write_pair
from training.evaluation.no_cells import images
from training.evaluation.report import read_report


def test_evaluation_page(tmp_path: Path) -> None:
    write_pair(tmp_path / "test" / "made", "a", discs())
    (tmp_path / "cellpose_results").mkdir()
    tifffile.imwrite(tmp_path / "cellpose_results" / "a_img_cp_masks.tif", discs().astype(np.uint16))
    assert run_blocks(ROOT / "docs" / "evaluation.md", tmp_path)["bash"] == 5
    (row, *_) = read_report(tmp_path / "scores_cellpose" / "evaluation.json").evaluation.rows
    assert (row.mean_segmentation_accuracy, row.panoptic_quality, row.area_ratio, row.count_error) == (1, 1, 1, 0)
    rows = json.loads((tmp_path / "compared" / "comparison.json").read_text())["rows"]
    assert rows[0]["columns"].keys() == {"nano", "Cellpose"}
    (empty,) = [r for r in read_report(tmp_path / "scores_all" / "evaluation.json").evaluation.rows if r.without_cells][
        :1
    ]
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert f"writes {empty.without_cells} images" in page
    assert empty.without_cells == len(list(images()))
