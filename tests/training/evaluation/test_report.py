"""Tests of reports, tables, comparisons and plots."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from runtime.errors import InputError
from training.evaluation.compare import comparison_markdown, make_column, same_images, write_comparison
from training.evaluation.dataset import NO_CELLS
from training.evaluation.environment import describe_environment, portable_command
from training.evaluation.evaluate import Evaluation
from training.evaluation.matching import MatchedCells
from training.evaluation.plots import plot_bars, plot_curves
from training.evaluation.report import Report, markdown, read_report, write_report
from training.evaluation.summary import ImageScore, summarize

IOUS = (0.5, 0.6)


def image(name: str, dataset: str = "dsb2018", *, tp: int = 3, group: str = "Nuclear") -> ImageScore:
    """Return a score of four true and four predicted cells, ``tp`` correct at IoU 0.6 and one more at 0.5."""
    return ImageScore(
        id=name,
        dataset=dataset,
        subset=dataset,
        group=group,
        size_hw=(8, 9),
        truth=4,
        predicted=4,
        tp={"0.5": min(tp + 1, 4), "0.6": tp},
        matched=MatchedCells(pairs=4, iou_sum=3.077, log_area_ratio_sum=4 * math.log(0.9)),
        seconds=0.25,
    )


def report(name: str, *images: ImageScore) -> Report:
    evaluation = Evaluation(IOUS, images, tuple(summarize(images, IOUS)))
    return Report(name=name, evaluation=evaluation, method={"kind": "made"}, command="c", environment={"cpu": "X"})


FAILED = ImageScore(id="z", dataset="dsb2018", subset="dsb2018", group="Nuclear", error="no memory")


def test_reports_round_trip(tmp_path: Path) -> None:
    written = report("ours", image("a"), image("b", "yeaz", tp=0, group="Yeast"), FAILED)
    write_report(tmp_path / "r.json", written)
    read = read_report(tmp_path / "r.json")
    # NaN is not equal to itself, but its text is.
    assert repr(read) == repr(written)
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["schema"], content["kind"]) == (1, "evaluation")
    assert content["images"][2]["error"] == "no memory"
    by_name = {(row["level"], row["name"]): row for row in content["rows"]}
    assert by_name["dataset", "dsb2018"]["at"]["0.6"]["f1"] == 0.75
    assert by_name["dataset", "dsb2018"]["mean_prompt_iou"] is None


def test_the_table_shows_figures_failures_and_the_baseline() -> None:
    text = markdown(report("ours", image("a"), FAILED), report("classical", image("a", tp=1)))
    figures = "0.750 | 0.750 | 0.750 | 0.250 | - | 0.769 | 0.600 | - | - | 0.000 | 0.900 | 0.250 |"
    assert f"| dsb2018 | 1 (+1 failed) | 4 | 4 | {figures}" in text
    assert "F1@0.6, classical" in text
    assert "**1 of 2 images failed**" in text
    assert "- dsb2018/z: no memory" in text


def test_false_cells_are_shown_beside_and_count_in_no_sum() -> None:
    empty = replace(image("n", "no_cells", group=NO_CELLS), truth=0, predicted=3, tp={"0.5": 0, "0.6": 0})
    text = markdown(report("ours", image("a"), empty, replace(empty, id="m", predicted=0)))
    assert "| no_cells | 2 | 0 | 3 | 0.000 | - | 0.000 |" in text
    assert "| 1.500 | 0.250 |" in text
    assert "| all | 1 | 4 | 4 |" in text


def test_records_without_sums_over_matched_cells_are_read(tmp_path: Path) -> None:
    """Sum all other figures from the images; figures that images lack are unknown, not 0."""
    write_report(tmp_path / "r.json", report("ours", image("a")))
    content = json.loads((tmp_path / "r.json").read_text())
    del content["images"][0]["matched"]
    content["rows"] = [{"level": "all", "name": "all", "coco": {"map": 0.5, "ap50": 0.75, "ap75": None}}]
    (tmp_path / "r.json").write_text(json.dumps(content))
    (row,) = [row for row in read_report(tmp_path / "r.json").evaluation.rows if row.level == "all"]
    assert (row.images, row.counts["0.6"].f1, row.count_error) == (1, 0.75, 0.0)
    assert row.matched is None
    assert math.isnan(row.panoptic_quality)
    assert math.isnan(row.area_ratio)
    assert row.coco is not None
    assert (row.coco.map, math.isnan(row.coco.ap75)) == (0.5, True)


def test_specialists_are_one_column(tmp_path: Path) -> None:
    yeast = image("y", "yeaz", tp=2, group="Yeast")
    specialists = make_column("specialist", [report("s1", image("a", tp=4)), report("s2", yeast)])
    generalist = make_column("generalist", [report("g", image("a", tp=2), replace(yeast, tp={"0.5": 4, "0.6": 4}))])
    assert specialists.rows["all", "all"].counts["0.6"].tp == 6
    text = comparison_markdown([specialists, generalist])
    assert "| dsb2018 | 1.000 | - | - | 0.500 | - | - |" in text
    assert "| yeaz | 0.500 | - | - | 1.000 | - | - |" in text
    assert "†" not in text
    write_comparison(tmp_path / "c.json", [specialists, generalist], iou=0.6)
    content = json.loads((tmp_path / "c.json").read_text())
    assert [s["name"] for s in content["sources"]["specialist"]] == ["s1", "s2"]
    assert all(row["same_images"] for row in content["rows"])


def test_rows_of_different_images_are_marked() -> None:
    columns = [make_column("one", [report("r", image("a"))]), make_column("two", [report("r", image("b"))])]
    assert not same_images(columns, ("subset", "dsb2018"))
    assert "| dsb2018 † |" in comparison_markdown(columns)
    fewer = make_column("three", [report("r", image("a"), FAILED)])
    assert same_images([columns[0], fewer], ("subset", "dsb2018"))


def test_an_image_counts_once_per_column() -> None:
    with pytest.raises(InputError, match="image dsb2018/a is in several of the reports named 'x'"):
        make_column("x", [report("r", image("a")), report("s", image("a"))])


def test_figures_that_were_not_evaluated_are_refused() -> None:
    with pytest.raises(InputError, match=r"was not evaluated at IoU 0\.7; expected one of 0\.5, 0\.6"):
        make_column("x", [report("r", image("a"))], iou=0.7)
    with pytest.raises(InputError, match="was not evaluated"):
        markdown(report("r", image("a")), iou=0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a report"),
        ("[]", "is not an evaluation of schema 1"),
        ('{"schema": 2, "kind": "evaluation"}', "is not an evaluation of schema 1"),
        ('{"schema": 1, "kind": "evaluation"}', "is damaged"),
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_report(tmp_path / "r.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_plots_are_pictures(tmp_path: Path) -> None:
    columns = [
        make_column("one", [report("r", image("a"), image("y", "yeaz", group="Yeast"))]),
        make_column("two", [report("r", image("a", tp=0))]),
    ]
    plot_bars(tmp_path / "bars.png", columns, iou=0.6)
    plot_curves(tmp_path / "curves.png", columns)
    for name in ("bars.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300


def test_commands_hold_no_absolute_paths() -> None:
    arguments = ["/opt/venv/bin/cellsam-engine", "evaluate", "run", "--data", "/data/mine/test", "--out=/tmp/o", "a/b"]
    assert portable_command(["/x/runtime/__main__.py", "evaluate"]) == "cellsam-engine evaluate"
    assert portable_command([*arguments, "ours=/x/r.json", "two words", "C:\\d\\e"]) == (
        "cellsam-engine evaluate run --data test --out=o a/b ours=r.json 'two words' e"
    )


def test_the_environment_says_what_decides_results() -> None:
    about = describe_environment()
    assert about["cpu"]
    assert about["versions"].keys() >= {"python", "numpy", "scikit-image", "faster-coco-eval"}
