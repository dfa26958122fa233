"""Tests of the commands, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from runtime import InputError, SegmentConfig, Segmenter
from runtime.files.plain import read_image
from runtime.ops.preprocess import normalize_contrast
from tests.training.evaluation.made import bright_image, discs, write_pair, write_tile
from training.commands.evaluate import evaluate_app
from training.evaluation import tuning
from training.evaluation.report import read_report


def call(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate_app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, names in (("train", "abc"), ("test", "de")):
        for name in names:
            write_pair(tmp_path / "data" / split / "made", name, discs())
    return tmp_path / "data"


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuning.BaselineGrid(
        channel=("intensity",), smoothing_px=(1.0,), threshold=("otsu",), min_area_px=(20,), seed_smoothing_px=(1.0,)
    )
    monkeypatch.setattr(tuning, "BaselineGrid", lambda: small)


@pytest.mark.parametrize("command", ["run", "tune"])
def test_an_unknown_backend_is_wrong_usage(command: str, tmp_path: Path) -> None:
    result = call(command, "--model", "e", "--data", "d", "--out", tmp_path / "out", "--backend", "gpu")
    assert (result.exit_code, "'gpu' is not one of" in result.output) == (2, True), result.output


@pytest.mark.usefixtures("small_grid")
def test_baseline_then_engines_beside_it(data: Path, small_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "baseline"
    result = call("baseline", "--train", data / "train", "--test", data / "test", "--out", out)
    assert result.exit_code == 0, result.output
    tuned = read_report(out / "evaluation.json")
    assert tuned.evaluation.rows[0].counts["0.6"].f1 == 1.0
    about = tuned.method["subsets"]["made"]
    assert about["train"]["images"] == 3
    assert about["config"]["dark"] is False
    assert str(tmp_path) not in (out / "evaluation.json").read_text()
    assert {p.name for p in out.iterdir()} == {
        "evaluation.json",
        "evaluation.md",
        "f1_bars.png",
        "f1_against_iou.png",
    }

    ours = tmp_path / "ours"
    result = call(
        *("run", "--model", small_engines, "--data", data / "test", "--out", ours, "--name", "small"),
        *("--baseline", out / "evaluation.json", "--held-out", "made"),
    )
    assert result.exit_code == 0, result.output
    report = read_report(ours / "evaluation.json")
    assert report.method["manifest"]["profile"] == "paper"
    assert {row.level for row in report.evaluation.rows} == {"subset", "dataset", "group"}
    assert "F1@0.6, classical baseline" in (ours / "evaluation.md").read_text()
    assert "| Zero-shot |" in result.stdout

    both = tmp_path / "both"
    result = call("compare", f"first={out}/evaluation.json", ours / "evaluation.json", "--out", both, "--iou", "0.7")
    assert result.exit_code == 0, result.output
    assert json.loads((both / "comparison.json").read_text())["sources"].keys() == {"first", "small"}
    assert "first F1@0.7" in result.stdout


def test_label_maps_of_another_tool_in_the_same_tables(data: Path, small_engines: Path, tmp_path: Path) -> None:
    """Score label files with images without cells, in which the other tool found two, and the engines' report."""
    empty, found = tmp_path / "empty", tmp_path / "found"
    done = call("no-cells", "--out", empty)
    assert done.exit_code == 0, done.output
    for path in sorted((empty / "no_cells").glob("*_img.png"))[2:]:
        path.unlink()
    truth = discs()
    for name, labels in (("d", truth), ("e", np.where(truth == 1, 0, truth))):
        tifffile.imwrite(ensured(found / "made") / f"{name}_img_cp_masks.tif", labels.astype(np.uint16))
    first, second = sorted((empty / "no_cells").glob("*_img.png"))
    for path, cells in ((first, 2), (second, 0)):
        labels = np.zeros(read_image(path).shape[:2], np.uint16)
        labels[:, :9], labels[:, 20:29] = (1, 2) if cells else (0, 0)
        tifffile.imwrite(ensured(found / "no_cells") / f"{path.stem}_cp_masks.tif", labels)
    out = tmp_path / "out"
    sources = ("--data", data / "test", "--data", empty)
    result = call("labels", found, *sources, "--out", out, "--name", "Cellpose")
    assert result.exit_code == 0, result.output
    report = read_report(out / "evaluation.json")
    assert (report.name, report.method["files"]) == ("Cellpose", {".tif": 4})
    rows = {(row.level, row.name): row for row in report.evaluation.rows}
    assert rows["all", "all"].truth == rows["subset", "made"].truth == 10, "images without cells stand apart"
    assert rows["subset", "no_cells"].false_cells_per_image == 1.0
    assert "| no_cells | 2 | 0 | 2 |" in result.stdout

    (found / "made" / "e_img_cp_masks.tif").unlink()
    result = call("labels", found, *sources, "--out", out, "--name", "Cellpose")
    assert result.exit_code == 1
    assert "made/e: has no label map; expected a file such as e_img_cp_masks.tif" in result.stderr


def ensured(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_tiles_and_plain_images_are_not_mixed(data: Path, small_engines: Path, tmp_path: Path) -> None:
    write_tile(tmp_path / "built", "t", bright_image(discs()), discs())
    sources = ("--data", data / "test", "--data", tmp_path / "built")
    result = call("run", "--model", small_engines, *sources, "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "tiles of 'data build'" in result.stderr


def test_a_damaged_image_makes_the_command_fail_after_the_others(
    data: Path, small_engines: Path, tmp_path: Path
) -> None:
    (data / "test" / "made" / "d_img.png").write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    result = call("run", "--model", small_engines, "--data", data / "test", "--out", out, "--iou", "0.5")
    assert result.exit_code == 1
    assert "1 of 2 images failed" in result.stderr
    assert "made/d: d_img.png cannot be read" in result.stderr
    assert [image.error is None for image in read_report(out / "evaluation.json").evaluation.images] == [False, True]


def test_prompts_of_three_kinds(data: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts"
    result = call("prompts", "--checkpoint", small_checkpoint, "--data", data / "test", "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.stem for p in out.glob("*.json")} == {"box", "point", "point_best_of_3", "comparison"}
    assert "point_best_of_3 mean IoU of prompts" in result.stdout
    assert read_report(out / "point.json").method["prompt"] == "point"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--model", "{tmp}", "--data", "{data}/test", "--out", "{tmp}/o"), "has no manifest.json"),
        (("run", "--model", "{tmp}", "--data", "{tmp}/none", "--out", "{tmp}/o"), "is not a directory"),
        (
            ("run", "--model", "{tmp}", "--data", "{data}/test", "--out", "{tmp}/o", "--held-out", "livecell"),
            "no image belongs to livecell",
        ),
        (("prompts", "--checkpoint", "{tmp}/no.pt", "--data", "{data}/test", "--out", "{tmp}/o"), "is not a file"),
        (("compare", "{tmp}/no.json", "--out", "{tmp}/o"), "cannot be read as a report"),
        (
            ("baseline", "--train", "{tmp}/other", "--test", "{data}/test", "--out", "{tmp}/o"),
            "no training image belongs to 'made'",
        ),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str, data: Path, tmp_path: Path) -> None:
    write_pair(tmp_path / "other" / "else", "x", discs())
    result = call(*(a.format(tmp=tmp_path, data=data) for a in arguments))
    assert result.exit_code == 1
    assert message in result.stderr


def test_tiles_are_segmented_as_they_are(small_engines: Path, tmp_path: Path) -> None:
    image, labels = bright_image(discs()), discs()
    write_tile(tmp_path / "built", "t", image, labels)
    result = call("run", "--model", small_engines, "--data", tmp_path / "built", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    (score,) = read_report(tmp_path / "o" / "evaluation.json").evaluation.images
    assert (score.group, score.truth, score.size_hw) == ("Yeast", 5, (64, 64))
    segmenter = Segmenter(small_engines)
    np.testing.assert_array_equal(segmenter(normalize_contrast(image), config=AS_IS).labels, segmenter(image).labels)
    with pytest.raises(InputError, match=r"expected \[0, 1\], because normalize=False"):
        segmenter(image, config=AS_IS)


AS_IS = SegmentConfig(normalize=False)
