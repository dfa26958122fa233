"""Tests of Cellpose's command line: the options that each host sends, and the files that it reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from runtime.cellpose.images import images_of
from runtime.cellpose.main import main
from runtime.commands.app import app
from runtime.errors import InputError
from runtime.files.outputs.read_cellpose import read_masks, read_seg
from tests.runtime.files.outputs.test_imagej import read_rois

GRAY, TWO = "Temp_0_0_z0_t0", "Temp_160_0_z0_t0"


def segmented(images: list[Path], out: Path, *options: str) -> dict[str, Any]:
    """Segment images with ``segment``; return the labels by image name."""
    done = CliRunner().invoke(
        app, ["segment", *map(str, images), "--out", str(out), "--format", "tiff", "--backend", "cpu", *options]
    )
    assert done.exit_code == 0, done.output
    return {path.stem: tifffile.imread(out / f"{path.stem}_labels.tif") for path in images}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the backend that ``segmented`` uses."""
    from runtime.jobs.segmenter_spec import SegmenterSpec

    monkeypatch.setattr(
        "runtime.cellpose.settings.SegmenterSpec", lambda **given: SegmenterSpec(**given, backend="cpu")
    )


def test_qupath(folder: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The extension of BIOP, with all options that its builder adds."""
    expected = segmented(sorted(folder.iterdir()), tmp_path / "own", "--diameter", "20")
    vector = ["--dir", str(folder), "--pretrained_model", "cyto3", "--diameter", "20.0", "--cellprob_threshold", "0.0"]
    vector += ["--flow_threshold", "0.4", "--save_tif", "--no_npy", "--use_gpu", "--verbose"]
    assert main(vector) == 0
    for name, labels in expected.items():
        masks = tifffile.imread(folder / f"{name}_cp_masks.tif")
        np.testing.assert_array_equal(masks, labels)
        assert masks.max() > 3
    out, err = capsys.readouterr()
    assert sorted(path.suffix for path in folder.iterdir()) == [".tif"] * 4, "images and masks, no _seg.npy"
    assert "model cyto3 is not available here; the built-in model nano runs instead" in err
    assert "use_gpu is set, but the CPU is used" in err
    assert "no effect here: --flow_threshold" in err
    assert "only the nuclear channel is used" in err, "the model's own warning about the second image"
    assert len(err.splitlines()) == 4
    # TrackMate's pattern of a percentage, in the log that it follows.
    lines = (home / ".cellpose" / "run.log").read_text().splitlines()
    shares = [found[1] for line in lines if (found := re.fullmatch(r".+\s(\d*\.?\d*)%.+", line))]
    assert shares == ["0", "50", "100"]
    assert "completed in" in out


def test_trackmate(folder: Path, tmp_path: Path) -> None:
    """Channel and diameter are always sent; 0 as a diameter measures it."""
    expected = segmented([folder / f"{TWO}.tif"], tmp_path / "own", "--nuclear", "0", "--membrane", "1")
    vector = ["--dir", str(folder), "--chan", "2", "--chan2", "1", "--diameter", "0", "--pretrained_model", "nuclei"]
    assert main([*vector, "--save_png", "--no_npy"]) == 0
    np.testing.assert_array_equal(read_masks(folder / f"{TWO}_cp_masks.png"), expected[TWO])
    assert read_masks(folder / f"{GRAY}_cp_masks.png").shape == (160, 160), "an image of one channel ignores --chan"


def test_nf_core(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """One image, linked into the working folder of a process; the version is read by awk."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "cells.tif").symlink_to(folder / f"{GRAY}.tif")
    expected = segmented([folder / f"{GRAY}.tif"], tmp_path / "own")
    monkeypatch.chdir(work)
    assert main(["--image_path", "cells.tif", "--save_tif", "--save_rois"]) == 0
    names = {"cells.tif", "cells_cp_masks.tif", "cells_rois.zip", "cells_seg.npy"}
    assert {path.name for path in work.iterdir()} == names
    np.testing.assert_array_equal(tifffile.imread("cells_cp_masks.tif"), expected[GRAY])
    assert len(read_rois(work / "cells_rois.zip")) == expected[GRAY].max()
    found = read_seg(work / "cells_seg.npy")
    np.testing.assert_array_equal(found.masks, expected[GRAY])
    assert found.image == "cells.tif"
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+.*", capsys.readouterr().out.splitlines()[1].split()[2])


def test_places_and_names_of_results(folder: Path, tmp_path: Path) -> None:
    (folder / f"{TWO}.tif").unlink()
    out = tmp_path / "out"
    out.mkdir()
    vector = ["--dir", str(folder), "--savedir", str(out), "--in_folders", "--no_npy", "--save_tif", "--save_txt"]
    assert main([*vector, "--save_outlines", "--output_name", "_found"]) == 0
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    masks, text = f"masks/{GRAY}_found.tif", f"txt_outlines/{GRAY}_cp_outlines.txt"
    assert written == {masks, text, f"outlines/{GRAY}_outlines_found.png"}
    assert [path.name for path in folder.iterdir()] == [f"{GRAY}.tif"]
    labels = tifffile.imread(out / masks)
    assert len((out / text).read_text().splitlines()) == labels.max()
    assert main(["--dir", str(folder), "--no_npy", "--save_png", "--output_name", "", "--dir_above"]) == 0
    assert (tmp_path / f"{GRAY}_cp_masks.png").is_file(), "masks beside the image keep their ending"


def test_thresholds_and_edges(folder: Path) -> None:
    vector = ["--image_path", str(folder / f"{GRAY}.tif"), "--save_tif", "--no_npy"]

    def masks(*options: str) -> Any:
        assert main([*vector, *options]) == 0
        return tifffile.imread(folder / f"{GRAY}_cp_masks.tif")

    plain = masks()
    assert (masks("--cellprob_threshold", "-2") > 0).sum() > (plain > 0).sum(), "lower thresholds make masks larger"
    inside = masks("--exclude_on_edges")
    edges = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    assert not edges.any()
    assert 0 < inside.max() < plain.max()
    areas = np.bincount(plain.ravel())[1:]
    least = int(np.median(areas)) + 1
    assert masks("--min_size", str(least)).max() < plain.max()


def test_images_of_a_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ["f10_img.tif", "f2_img.PNG", "a.tif", "a_cp_masks.tif", "a_seg.npy", "b_flows.png", "c_skip.tif", ".d.tif"]
    for name in names:
        (tmp_path / name).touch()
    (inner / "e.jpeg").touch()
    found = [path.name for path in images_of(tmp_path, "_skip")]
    assert found == ["a.tif", "f2_img.PNG", "f10_img.tif"]
    assert [path.name for path in images_of(tmp_path, "_masks", "_img")] == ["f2_img.PNG", "f10_img.tif"]
    assert "e.jpeg" in [path.name for path in images_of(tmp_path, "_masks", below=True)]
    with pytest.raises(InputError, match="contains no images"):
        images_of(tmp_path, "_masks", "_nothing")


def test_an_image_that_fails_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.tif").write_bytes(b"II*\0")
    assert main(["--dir", str(folder), "--save_tif", "--no_npy"]) == 1
    assert "broken.tif" in capsys.readouterr().err
    assert (folder / f"{GRAY}_cp_masks.tif").is_file()


@pytest.mark.parametrize(
    ("vector", "code", "message"),
    [
        ([], 2, "neither --dir nor --image_path is given"),
        (["--dir", "tiles", "--unknown"], 2, "unrecognized arguments: --unknown"),
        (["--dir", "tiles", "--train", "--n_epochs", "3"], 2, "--train is an option of training"),
        (["--dir", "nowhere"], 1, "nowhere is not a folder"),
        (["--dir", "tiles", "--savedir", "nowhere"], 1, "--savedir nowhere does not exist"),
        (["--dir", "tiles", "--pretrained_model", "my_model"], 1, "my_model does not exist; expected a directory"),
        (["--dir", "tiles", "--pretrained_model", "tiles"], 1, "tiles is not an engine directory"),
        (["--dir", "tiles", "--use_gpu", "--gpu_device", "mps"], 2, "--gpu_device is mps; expected the number"),
        (["--dir", "tiles", "--cellprob_threshold", "nan"], 2, "cellprob_threshold is nan"),
    ],
)
def test_wrong_usage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, vector: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    try:
        returned = main(vector)
    except SystemExit as error:
        returned = error.code  # type: ignore[assignment]
    assert returned == code
    assert message in capsys.readouterr().err
    assert not list(folder.glob("*_cp_masks*"))


def test_a_channel_that_does_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--image_path", str(folder / f"{TWO}.tif"), "--chan", "3"]) == 1
    assert "chan is 3; expected 0 to 2" in capsys.readouterr().err
