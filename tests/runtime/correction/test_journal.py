"""Tests of journals and snapshots: torn, damaged and lost files."""

from __future__ import annotations

import errno
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.correction import history
from runtime.correction.edits.draw import Add
from runtime.correction.edits.shapes import Shape
from runtime.correction.history import JOURNAL_NAME, SNAPSHOT_NAME
from runtime.correction.journal import Entry, Journal, ProjectError
from runtime.correction.project import Project
from runtime.types import I32
from tests.runtime.correction.made import SIZE_HW, make_project, two_cells

NAME = "a.png"


def edited(folder: Path, count: int = 3) -> tuple[Path, list[I32]]:
    """Make a project, segment its image and add cells; return the directory of the labels and the labels over time."""
    states = [np.zeros(SIZE_HW, np.int32)]
    with make_project(folder) as project:
        project.store_segmentation(NAME, two_cells())
        states.append(project.labels(NAME))
        for number in range(count):
            project.apply(NAME, Add(shape=Shape.of_stroke([(number + 6.5, 1.5)], 0.5)), author=f"user {number}")
            states.append(project.labels(NAME))
    return folder / "project" / "labels" / NAME, states


def labels_of(place: Path) -> I32:
    with Project.open(place.parents[1]) as project:
        return project.labels(NAME)


def test_a_torn_last_line_costs_one_edit_at_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place, states = edited(tmp_path)
    journal = place / JOURNAL_NAME
    whole = journal.read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for length in range(last, len(whole)):
        journal.write_bytes(whole[:length])
        caplog.clear()
        np.testing.assert_array_equal(labels_of(place), states[-2])
        assert journal.read_bytes() == whole[:last]
        assert ("was not completely written" in caplog.text) == (length > last)
    journal.write_bytes(whole[:last] + bytes(len(whole) - last))  # pages that never reached the disk
    np.testing.assert_array_equal(labels_of(place), states[-2])
    journal.write_bytes(whole[: last + 9] + bytes(len(whole) - last - 10) + b"\n")
    np.testing.assert_array_equal(labels_of(place), states[-2])
    assert journal.read_bytes() == whole[:last]


def test_a_torn_first_line_is_an_empty_journal(tmp_path: Path) -> None:
    place, _ = edited(tmp_path)
    journal = place / JOURNAL_NAME
    whole = journal.read_bytes()
    for length in (0, 1, whole.index(b"\n"), whole.index(b"\n") + 1):
        journal.write_bytes(whole[:length])
        with Project.open(tmp_path / "project") as project:
            assert project.status(NAME).revision == 0
            assert not project.labels(NAME).any()
            project.store_segmentation(NAME, two_cells())
        np.testing.assert_array_equal(labels_of(place), two_cells())


def test_a_damaged_line_is_an_error_that_names_file_and_place(tmp_path: Path) -> None:
    place, _ = edited(tmp_path)
    journal = place / JOURNAL_NAME
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for number in range(len(lines)):
        start = len(b"".join(lines[:number]))
        wrong = bytearray(whole)
        wrong[start + 20] ^= 1
        journal.write_bytes(wrong)
        with pytest.raises(ProjectError, match=rf"journal.jsonl is damaged: line {number + 1}, at byte {start},.*copy"):
            labels_of(place)
        assert journal.read_bytes() == wrong, "nothing is cut off"
    journal.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(ProjectError, match="it has revision 3 after 1"):
        labels_of(place)
    journal.write_bytes(whole)
    labels_of(place)


def test_journals_of_other_versions_and_sizes_are_named(tmp_path: Path) -> None:
    place, _ = edited(tmp_path)
    journal = place / JOURNAL_NAME
    rest = journal.read_bytes().partition(b"\n")[2]
    for header, message in (
        ({"size_hw": SIZE_HW, "schema": 2}, "schema 2; expected 1"),
        ({"size_hw": [3, 4]}, "labels of 3 x 4 pixels; expected 12 x 15"),
        ({"size": 3}, "missing required field `size_hw`"),
    ):
        text = msgspec.json.encode(header)
        journal.write_bytes(b"%08x %b\n" % (zlib.crc32(text), text) + rest)
        with pytest.raises(ProjectError, match=message):
            labels_of(place)


def test_an_entry_that_cannot_be_written_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, states = edited(tmp_path)
    journal = place / JOURNAL_NAME
    before = journal.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    edit = Add(shape=Shape.of_stroke([(2.5, 11.5)], 0.5))
    with Project.open(tmp_path / "project") as project:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="No space left"):
                project.apply(NAME, edit)
        assert journal.read_bytes() == before
        np.testing.assert_array_equal(project.labels(NAME), states[-1])
        assert project.apply(NAME, edit).revision == len(states)
    assert journal.read_bytes().startswith(before)


def with_snapshots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[I32]]:
    """Make a project whose last snapshot lies two entries before the end of the journal."""
    monkeypatch.setattr(history, "SNAPSHOT_ENTRIES", 4)
    place, states = edited(folder, 5)
    assert (place / SNAPSHOT_NAME).exists()
    return place, states


def test_snapshots_and_the_entries_since_give_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, states = with_snapshots(tmp_path, monkeypatch)
    np.testing.assert_array_equal(labels_of(place), states[-1])
    with Project.open(tmp_path / "project") as project:
        for before in reversed(states[:-1]):
            project.undo(NAME)
            np.testing.assert_array_equal(project.labels(NAME), before)
        for later in states[1:]:
            project.redo(NAME)
            np.testing.assert_array_equal(project.labels(NAME), later)


def test_a_damaged_snapshot_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place, states = with_snapshots(tmp_path, monkeypatch)
    snapshot = place / SNAPSHOT_NAME
    whole = snapshot.read_bytes()
    for content in (whole[:100], b"", whole[:-8] + bytes(8)):
        snapshot.write_bytes(content)
        np.testing.assert_array_equal(labels_of(place), states[-1])
    assert "made again from the journal" in caplog.text
    snapshot.unlink()
    np.testing.assert_array_equal(labels_of(place), states[-1])


def test_a_lost_journal_continues_from_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place, states = with_snapshots(tmp_path, monkeypatch)
    (place / JOURNAL_NAME).rename(place / "aside")
    np.testing.assert_array_equal(labels_of(place), states[4])
    assert "continues from the labels of revision 4" in caplog.text
    with Project.open(tmp_path / "project") as project:
        status = project.status(NAME)
        assert (status.revision, status.cells, status.undo_steps, status.state) == (4, 5, 0, "corrected")
        project.apply(NAME, Add(shape=Shape.of_stroke([(2.5, 11.5)], 0.5)))
        assert project.undo(NAME).revision == 6
    np.testing.assert_array_equal(labels_of(place), states[4])
    with Project.open(tmp_path / "project") as project:
        assert project.redo(NAME).revision == 7
        assert [entry.revision for entry in project.history(NAME)] == [5, 6, 7]
    (place / SNAPSHOT_NAME).unlink()
    with pytest.raises(ProjectError, match=r"begins at revision 4; expected .*labels.tif with the labels before it"):
        labels_of(place)


def test_a_journal_that_lost_entries_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = with_snapshots(tmp_path, monkeypatch)
    journal = place / JOURNAL_NAME
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(ProjectError, match=r"has revisions 1 to 2, but .*labels.tif is of revision 4"):
        labels_of(place)


def test_entries_that_do_not_fit_the_labels_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, states = edited(tmp_path)
    from runtime.correction.journal import Base
    from runtime.correction.snapshot import write_snapshot

    write_snapshot(place / SNAPSHOT_NAME, states[-1], Base(revision=2))
    with pytest.raises(ProjectError, match="revision 3 does not fit the labels before it"):
        labels_of(place)


def test_an_undo_out_of_order_is_an_error(tmp_path: Path) -> None:
    place, _ = edited(tmp_path)
    journal = Journal(place / JOURNAL_NAME, SIZE_HW)
    journal.append(Entry(revision=5, kind="undo", of=1))
    journal.close()
    with pytest.raises(ProjectError, match="revision 5 is the undo of revision 1; expected that of the last edit"):
        labels_of(place)


def test_reading_alone_changes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, states = with_snapshots(tmp_path, monkeypatch)
    journal = place / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-3])
    before = {path: path.read_bytes() for path in (tmp_path / "project").rglob("*") if path.is_file()}
    with Project.open(tmp_path / "project", read_only=True) as project:
        np.testing.assert_array_equal(project.labels(NAME), states[-2])
        assert project.status(NAME).cells == 6
        for change in (project.undo, lambda name: project.mark(name, "done"), project.accept):
            with pytest.raises(ProjectError, match="is open for reading"):
                change(NAME)
    assert {path: path.read_bytes() for path in (tmp_path / "project").rglob("*") if path.is_file()} == before


def test_a_snapshot_that_cannot_be_written_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(history, "write_snapshot", fail)
    monkeypatch.setattr(history, "SNAPSHOT_ENTRIES", 2)
    with caplog.at_level(logging.WARNING):
        place, states = edited(tmp_path)
    assert "the snapshot cannot be written" in caplog.text
    np.testing.assert_array_equal(labels_of(place), states[-1])
