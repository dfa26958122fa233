"""Tests of the build: interruptions, broken files, duplicates, other settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.data import sources
from training.data import DataError, FolderOptions, build_dataset, find_datasets
from training.data import build as build_module
from training.data import format as format_module
from training.data import journal as journal_module
from training.data.build import BuildReport

OPTIONS = FolderOptions(groups={"": "Nuclear"})


class Killed(BaseException):
    """Simulated end of the process."""


def build(source: Path, out: Path, **options: Any) -> BuildReport:
    (dataset,) = find_datasets("folder", source, OPTIONS)
    return build_dataset(dataset, out, **options)


def content(directory: Path) -> dict[str, str]:
    """Return the hash of every file below a directory, by relative path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sources.folder(tmp_path, count=4)
    return tmp_path / "nuclei"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """End the process at a write; the only element of the list has its number."""
    real = format_module.write_whole
    state = [-1, 0]

    def write_whole(path: Path, write: Any) -> None:
        state[1] += 1
        if state[1] == state[0]:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")  # as SIGKILL leaves it
            raise Killed
        real(path, write)

    monkeypatch.setattr(format_module, "write_whole", write_whole)
    monkeypatch.setattr(journal_module, "write_whole", write_whole)
    return state


def test_a_build_killed_at_any_write_goes_on_and_ends_byte_equal(
    source: Path, tmp_path: Path, writes: list[int]
) -> None:
    for path in source.glob("03_*"):
        path.unlink()
    build(source, tmp_path / "whole")
    total, expected = writes[1], content(tmp_path / "whole")
    assert total == 3 * 2 + 2 + 6 + 1  # tiles, journal, indices, summary
    for number in range(1, total + 1):
        out = tmp_path / f"killed{number}"
        writes[:] = [number, 0]
        with pytest.raises(Killed):
            build(source, out)
        writes[:] = [-1, 0]
        report = build(source, out)
        assert report.reused == min(max(0, number - 2) // 2, 3)
        assert content(out) == expected


def test_a_journal_line_cut_off_by_a_crash_is_dropped(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    expected = content(tmp_path / "out")
    journal = tmp_path / "out" / "build.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert build(source, tmp_path / "out").reused == 3
    assert content(tmp_path / "out") == expected


def test_a_finished_build_is_not_done_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(source, tmp_path / "out")
    expected = content(tmp_path / "out")
    monkeypatch.setattr(build_module, "cut_field", None)
    assert build(source, tmp_path / "out").reused == 4
    assert content(tmp_path / "out") == expected


def test_a_lost_tile_is_written_again(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    expected = content(tmp_path / "out")
    next((tmp_path / "out" / "train" / "labels").iterdir()).unlink()
    assert build(source, tmp_path / "out").reused == 3
    assert content(tmp_path / "out") == expected


def test_a_changed_image_is_built_again_and_a_removed_one_goes(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    image, labels = sources.scene(77)
    sources.save(source / "01_img.png", image)
    sources.save(source / "01_mask.png", labels)
    for name in ("02_img.png", "02_mask.png"):
        (source / name).unlink()
    build(source, tmp_path / "out")
    build(source, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("01_img.png", b"", "empty"),
        ("01_img.png", b"\x89PNG\r\n\x1a\n broken", "cannot be read"),
        ("01_mask.png", b"\x89PNG\r\n\x1a\n broken", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_built(
    source: Path, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    good = (source / name).read_bytes()
    (source / name).write_bytes(data)
    report = build(source, tmp_path / "out")
    (problem,) = report.skipped
    assert problem.file == "01_img.png"
    assert reason in problem.reason
    assert sum(report.images.values()) == 3
    summary = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert summary["skipped"] == [{"file": problem.file, "reason": problem.reason}]
    # After the repair, the same command completes the dataset.
    (source / name).write_bytes(good)
    assert build(source, tmp_path / "out").skipped == ()
    build(source, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_mask_of_another_size_is_named(source: Path, tmp_path: Path) -> None:
    sources.save(source / "03_mask.png", sources.scene(3, (60, 70))[1])
    (problem,) = build(source, tmp_path / "out").skipped
    assert "(60, 72) and labels (60, 70)" in problem.reason


def test_a_field_that_breaks_later_leaves_the_index(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    (source / "02_img.png").write_bytes(b"")
    report = build(source, tmp_path / "out")
    build(source, tmp_path / "fresh")
    assert len(report.skipped) == 1
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_all_files_broken_is_an_error(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*_img.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 4 images could be used; the first problem: 00_img.png: .*empty"):
        build(source, tmp_path / "out")


def test_other_settings_and_foreign_directories_are_refused(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    with pytest.raises(DataError, match="seed = 0; expected 1"):
        build(source, tmp_path / "out", seed=1)
    with pytest.raises(DataError, match=r"no build\.jsonl"):
        build(source, source)
    assert len(list(source.iterdir())) == 8


def test_duplicates_across_published_splits_go_to_train(tmp_path: Path) -> None:
    source = tmp_path / "source"
    sources.folder(source, count=2, split="train")
    image, labels = sources.scene(0)
    sources.save(source / "test" / "nuclei" / "copy_img.png", image)
    sources.save(source / "test" / "nuclei" / "copy_mask.png", labels)
    sources.folder(source / "test", count=5, dataset="more")
    for name in ("00", "01"):
        for kind in ("img", "mask"):
            (source / "test" / "more" / f"{name}_{kind}.png").unlink()
    reports = {
        dataset.name: build_dataset(dataset, tmp_path / "out" / dataset.name)
        for dataset in find_datasets("folder", source, OPTIONS)
    }
    assert reports["nuclei"].images == {"train": 3, "val": 0, "test": 0}
    assert reports["more"].images == {"train": 0, "val": 0, "test": 3}
    summary = json.loads((tmp_path / "out" / "nuclei" / "dataset.json").read_text())
    assert summary["duplicates"] == [["test/copy", "train/00"]]


def test_progress_reports_every_stage(source: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    build(source, tmp_path / "out", progress=lambda *values: told.append(values))
    assert [stage for stage, done, total, _ in told if done == total] == ["scanning", "cutting", "indexing"]
    assert [item for stage, _, _, item in told if stage == "cutting"] == ["00", "01", "02", "03", ""]
