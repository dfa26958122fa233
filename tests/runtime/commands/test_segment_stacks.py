"""Tests of ``segment --planes``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from runtime.commands.app import app
from runtime.engines.builtin import sample_images
from runtime.files.made_by import read_provenance
from runtime.files.outputs.read_cellpose import read_masks
from runtime.files.plain import read_image

FRAMES = 3


@pytest.fixture(scope="module")
def movie() -> Any:
    """Make a movie: a picture of cells that drifts by three pixels a frame."""
    image = read_image(sample_images()[0])
    image = image if image.ndim == 2 else image[..., 0]
    return np.stack([image[20:148, 3 * t : 128 + 3 * t] for t in range(FRAMES)])


def segment(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["segment", *map(str, arguments), "--backend", "cpu"])
    return done.exit_code, done.output


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_movie_becomes_one_result(tmp_path: Path, movie: Any) -> None:
    path, out = tmp_path / "movie.ome.tif", tmp_path / "out"
    tifffile.imwrite(path, movie, metadata={"axes": "TYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    command = [path, "--planes", "all", "--out", out, "--format", "tiff,csv,ctc,cellpose", "--measure"]
    code, output = segment(*command)
    assert code == 0, output
    with tifffile.TiffFile(out / "movie_labels.tif") as tiff:
        assert (tiff.series[0].axes, tiff.series[0].shape) == ("TYX", movie.shape)
        labels = tiff.asarray()
    rows = rows_of(out / "movie_cells.csv")
    assert list(rows[0])[:2] == ["frame", "label"]
    assert {"intensity_mean_0", "parent"} <= rows[0].keys()
    for number, plane in enumerate(labels):
        of_frame = [row for row in rows if row["frame"] == str(number)]
        areas = {int(row["label"]): int(row["label_area_px"]) for row in of_frame}
        assert areas == dict(zip(*np.unique(plane[plane > 0], return_counts=True), strict=True))
    # The drift is known: most pixels of a cell keep its label along it.
    here, there = labels[0][:, 3:], labels[1][:, :-3]
    both = (here > 0) & (there > 0)
    assert (here == there)[both].mean() > 0.9
    lines = [tuple(map(int, line.split())) for line in (out / "movie_RES" / "res_track.txt").read_text().splitlines()]
    assert len(list((out / "movie_RES").glob("mask*.tif"))) == FRAMES
    assert {line[0] for line in lines} >= set(np.unique(labels[labels > 0]).tolist())
    np.testing.assert_array_equal(read_masks(out / "movie_seg.npy"), labels)
    (made_by,) = read_provenance(out / "movie_labels.tif")
    assert made_by.model == "nano"
    assert read_provenance(out / "movie_seg.npy") == (made_by,)
    code, output = segment(*command)
    assert (code, "1 of 1 images were already done" in output) == (0, True)
    code, output = segment(*command, "--no-link")
    assert (code, "has results from other settings (files.unlinked" in output.replace("\n", " ")) == (1, True)


def test_a_stack_is_linked_by_overlap(tmp_path: Path, movie: Any) -> None:
    path, out = tmp_path / "stack.tif", tmp_path / "out"
    tifffile.imwrite(path, np.stack([movie[0], movie[0], movie[2]]), imagej=True, metadata={"axes": "ZYX"})
    assert segment(path, "--planes", "0-1", "--out", out)[0] == 0
    labels = tifffile.imread(out / "stack_labels.tif")
    assert labels.shape[0] == 2
    np.testing.assert_array_equal(labels[0], labels[1])
    assert {row["plane"] for row in rows_of(out / "stack_cells.csv")} == {"0", "1"}
    assert segment(path, "--planes", "0-1", "--out", tmp_path / "apart", "--no-link")[0] == 0
    apart = tifffile.imread(tmp_path / "apart" / "stack_labels.tif")
    np.testing.assert_array_equal(apart[1][apart[1] > 0], apart[0][apart[0] > 0] + apart[0].max())
    assert segment(path, "--z", "0", "--out", tmp_path / "one")[0] == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "one" / "stack_labels.tif"), apart[0])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--planes", "some"], 2, "--planes is 'some'; expected all"),
        (["--planes", "all", "--format", "geojson"], 2, "--format has geojson together with planes"),
        (["--planes", "all", "--overlay"], 2, "--overlay was given with planes"),
        (["--planes", "all", "--dry-run"], 2, "--dry-run was given with planes"),
        (["--planes", "0-9"], 1, "the image has 3; expected numbers from 0 to 2"),
    ],
)
def test_wrong_options(tmp_path: Path, movie: Any, options: list[str], code: int, message: str) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", movie, metadata={"axes": "TYX"})
    returned, output = segment(tmp_path / "a.ome.tif", "--out", tmp_path / "out", *options)
    assert returned == code, output
    assert message in " ".join(output.split())


def test_a_movie_needs_laptrack(tmp_path: Path, movie: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laptrack", None)
    tifffile.imwrite(tmp_path / "a.ome.tif", movie[:2], metadata={"axes": "TYX"})
    code, output = segment(tmp_path / "a.ome.tif", "--planes", "all", "--out", tmp_path / "out")
    assert (code, "--no-link" in output, "[track]" in output) == (1, True, True)
    assert segment(tmp_path / "a.ome.tif", "--planes", "all", "--no-link", "--out", tmp_path / "out")[0] == 0
