"""Tests of the import and export of a project's labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import ConfigError, InputError
from runtime.correction.export_labels import export_labels
from runtime.correction.import_labels import ImportOptions, import_file, import_folder
from runtime.correction.label_formats import LABEL_FORMATS
from runtime.correction.project import Project
from runtime.files.image_results import FileOptions
from runtime.files.plain import read_image, write_labels
from runtime.types import I32
from tests.runtime.correction.made import SIZE_HW, make_image, make_project, two_cells
from training.data.builders import FolderOptions, find_datasets

NAMES = ("a.png", "sub/b.png")


def other_cells() -> I32:
    labels = np.zeros(SIZE_HW, np.int32)
    labels[2:9, 3:9] = 40
    labels[4:6, 5:7] = 7
    return labels


def filled(folder: Path) -> Project:
    """Make a project of two images with labels that have gaps in their numbers."""
    project = make_project(folder, NAMES)
    project.store_segmentation("a.png", two_cells())
    project.store_segmentation("sub/b.png", other_cells())
    return project


@pytest.mark.parametrize("name", [*LABEL_FORMATS, "coco"])
def test_every_format_comes_back_with_its_numbers(tmp_path: Path, name: str) -> None:
    with filled(tmp_path) as project:
        written = list(export_labels(project, tmp_path / "out", [name]))
        assert len(written) == (1 if name == "coco" else 2)
        for image in NAMES:
            project.undo(image)
            assert not project.labels(image).any()
        source = written[0] if name == "coco" else tmp_path / "out"
        imported = list(import_folder(project, source, ImportOptions(state="corrected", author="ada")))
        assert [(one.name, one.cells, one.failure) for one in imported] == [("a.png", 2, None), ("sub/b.png", 2, None)]
        np.testing.assert_array_equal(project.labels("a.png"), two_cells())
        np.testing.assert_array_equal(project.labels("sub/b.png"), other_cells())
        status = project.status("a.png")
        assert (status.state, status.author, status.undo_steps) == ("corrected", "ada", 1)
        assert status.engine is not None
        assert status.engine.name.startswith("coco.json" if name == "coco" else "a_")


def test_files_are_recognised_by_content(tmp_path: Path) -> None:
    with filled(tmp_path) as project:
        for path in list(export_labels(project, tmp_path / "out", [*LABEL_FORMATS, "coco"], names=["a.png"])):
            project.undo("a.png")
            assert import_file(project, "a.png", path).cells == 2
            np.testing.assert_array_equal(project.labels("a.png"), two_cells())


def test_training_pairs_are_found_by_the_builder(tmp_path: Path) -> None:
    with filled(tmp_path) as project:
        project.mark("a.png", "done")
        written = list(export_labels(project, tmp_path / "pairs", ["training"]))
        assert [path.name for path in written] == ["a_img.png", "a_mask.tif", "sub__b_img.png", "sub__b_mask.tif"]
        (dataset,) = find_datasets("folder", tmp_path / "pairs", FolderOptions(groups={"": "Nuclear"}))
        assert len(dataset.fields) == 2
        np.testing.assert_array_equal(dataset.fields[0].read_labels(), two_cells())
        assert written[0].read_bytes() == project.path("a.png").read_bytes()
        done = list(export_labels(project, tmp_path / "done", ["training"], states=["done"]))
        assert [path.name for path in done] == ["a_img.png", "a_mask.tif"]
    with make_project(tmp_path / "more") as project:
        project.store_segmentation("a.png", two_cells())
        assert len(list(import_folder(project, tmp_path / "pairs"))) == 1, "masks of the training format are found, too"


def test_training_pairs_have_the_channels_of_the_project(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Project.create(tmp_path / "p", [tmp_path / "a.png"], files=FileOptions(nuclear="0", membrane="2")) as project:
        project.store_segmentation("a.png", two_cells())
        image, _ = export_labels(project, tmp_path / "out", ["training"])
        assert image.name == "a_img.npy"
        np.testing.assert_array_equal(read_image(image), project.read("a.png").pixels)


def test_wrong_files_do_not_stop_the_others(tmp_path: Path) -> None:
    with make_project(tmp_path, NAMES) as project:
        (tmp_path / "in" / "sub").mkdir(parents=True)
        write_labels(tmp_path / "in" / "a_labels.tif", np.zeros((3, 4), np.int32))
        write_labels(tmp_path / "in" / "sub" / "b_masks.tif", other_cells())
        first, second = import_folder(project, tmp_path / "in")
        assert first.failure is not None
        assert "has labels of 3 x 4 pixels; expected 12 x 15" in first.failure
        assert second.cells == 2
        assert project.status("a.png").revision == 0
        write_labels(tmp_path / "in" / "a_mask.tif", two_cells())
        with pytest.raises(InputError, match=r"several label files in .*: a_labels\.tif, a_mask\.tif"):
            list(import_folder(project, tmp_path / "in"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"has no labels of the 2 images.*such as a_labels\.tif"):
            list(import_folder(project, tmp_path / "empty"))
        with pytest.raises(ConfigError, match="format 'jpeg' is unknown"):
            import_file(project, "a.png", tmp_path / "in" / "a_mask.tif", ImportOptions(format_name="jpeg"))


def test_large_numbers_are_replaced(tmp_path: Path) -> None:
    with make_project(tmp_path) as project:
        np.save(tmp_path / "large.npy", two_cells() * 1_000_000)
        assert import_file(project, "a.png", tmp_path / "large.npy").cells == 2
        assert project.areas("a.png") == {1: 16, 2: 33}


def test_exports_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    with make_project(tmp_path, ("a.png", "b.png")) as project:
        with pytest.raises(InputError, match="none of 2 images is segmented or corrected or done"):
            list(export_labels(project, tmp_path / "out"))
        with pytest.raises(ConfigError, match="state is 'finished'"):
            list(export_labels(project, tmp_path / "out", states=["finished"]))
    make_image(tmp_path / "twice" / "a.png")
    make_image(tmp_path / "twice" / "a.tif")
    images = [tmp_path / "twice" / name for name in ("a.png", "a.tif")]
    with Project.create(tmp_path / "second", images) as project:
        for name in project.names:
            project.store_segmentation(name, two_cells())
        with pytest.raises(InputError, match=r"a\.png and a\.tif would both write a\.\.\."):
            list(export_labels(project, tmp_path / "out"))


def test_labels_of_a_missing_image_are_exported(tmp_path: Path) -> None:
    with filled(tmp_path) as project:
        project.path("a.png").unlink()
        (path,) = export_labels(project, tmp_path / "out", ["geojson"], names=["a.png"])
        assert path.exists()
        with pytest.raises(InputError, match="does not exist"):
            list(export_labels(project, tmp_path / "out", ["training"]))
