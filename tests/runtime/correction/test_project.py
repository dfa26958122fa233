"""Tests of projects: images, states, people who work at the same time, and files that move."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime import ConfigError, InputError
from runtime.correction.edits.base import Edit
from runtime.correction.edits.cells import Delete
from runtime.correction.edits.draw import Add
from runtime.correction.edits.shapes import Shape
from runtime.correction.engine_record import EngineRecord
from runtime.correction.journal import ProjectError
from runtime.correction.outcomes import ConflictError
from runtime.correction.project import OPEN_IMAGES, Project
from runtime.engines.builtin import builtin_engine
from runtime.engines.sums import sums_sha256
from runtime.files.image_results import FileOptions
from runtime.provenance import EngineRun, Provenance
from tests.runtime.correction.made import SIZE_HW, edits, make_image, make_project, two_cells
from tests.runtime.files.outputs.made import awkward_labels, made_result

NAME = "a.png"


def dot(x: float, y: float) -> Add:
    """Return an edit that adds a cell of one pixel."""
    return Add(shape=Shape.of_stroke([(x + 0.5, y + 0.5)], 0.5))


def test_states_counts_and_history(tmp_path: Path) -> None:
    with make_project(tmp_path) as project:
        assert project.names == (NAME,)
        assert project.status(NAME).state == "new"
        run = EngineRun(device="CPU", providers=("CPUExecutionProvider",), precision="fp32")
        made_by = Provenance(
            version="0.1.0", model="nano", model_sha256=None, backend="cpu", engines={"encoder": run}, libraries={}
        )
        record = EngineRecord.of(made_by=made_by)
        result = project.store_segmentation(NAME, two_cells(), engine=record, author="ada")
        assert (result.revision, result.state, result.box) == (1, "segmented", (1, 1, 10, 13))
        assert (result.cells, result.created, result.removed) == ((1, 5), (1, 5), ())
        edit = project.apply(NAME, dot(8, 2), author="ben")
        assert (edit.revision, edit.state, edit.box, edit.created) == (2, "corrected", (2, 8, 3, 9), (6,))
        assert project.areas(NAME) == {1: 16, 5: 33, 6: 1}
        assert project.label_at(NAME, 2, 8) == 6
        assert project.label_at(NAME, -1, 99) == 0
        assert project.cell(NAME, 1).offset_yx == (1, 1)
        np.testing.assert_array_equal(project.labels(NAME, (2, 8, 3, 9)), [[6]])
        unchanged = project.apply(NAME, dot(8, 2))
        assert (unchanged.revision, unchanged.box) == (2, (0, 0, 0, 0)), "an edit without effect is not recorded"
        assert project.mark(NAME, "done").revision == 3
        assert project.mark(NAME, "done").revision == 3
        assert project.undo(NAME, author="ada").state == "segmented"
        status = project.status(NAME)
        assert (status.cells, status.undo_steps, status.redo_steps, status.author) == (2, 1, 1, "ada")
        assert status.engine == record
        assert record.sha256 == sums_sha256(builtin_engine())
        assert record.name == "nano"
        kinds = [(entry.kind, entry.operation, entry.of) for entry in project.history(NAME)]
        expected = [("edit", "segmentation", None), ("edit", "add", None), ("mark", "", None), ("undo", "add", 2)]
        assert kinds == expected
        assert project.history(NAME)[1].parameters["shape"]["stroke"]["radius"] == 0.5
        assert project.changed(NAME, 2).box == (2, 8, 3, 9)
        with pytest.raises(InputError, match="revision 3 is not an edit"):
            project.changed(NAME, 3)
        assert project.undo(NAME).state == "new"
        with pytest.raises(InputError, match="nothing to undo"):
            project.undo(NAME)
        with pytest.raises(ConfigError, match="state is 'finished'"):
            project.mark(NAME, "finished")
        before = project.statuses()
    with Project.open(tmp_path / "project") as project:
        assert project.statuses() == before
        project.redo(NAME)
        project.redo(NAME)
        with pytest.raises(InputError, match="nothing to redo"):
            project.redo(NAME)
        project.undo(NAME)
        project.apply(NAME, dot(1, 11))
        assert project.status(NAME).redo_steps == 0, "an edit discards what was undone"


@settings(max_examples=15)
@given(st.lists(edits() | st.sampled_from(["undo", "redo", "open"]), max_size=12))
def test_undoing_everything_gives_the_original_bytes(
    tmp_path_factory: pytest.TempPathFactory, sequence: list[Edit | str]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    project = make_project(folder)
    project.store_segmentation(NAME, two_cells())
    for step in sequence:
        if step == "open":
            project.close()
            project = Project.open(folder / "project")
            continue
        with suppress(InputError):  # an edit that does not fit the labels
            if isinstance(step, str):
                (project.undo if step == "undo" else project.redo)(NAME)
            else:
                project.apply(NAME, step)
    last, steps = project.labels(NAME), project.status(NAME).undo_steps
    seen = [last]
    for _ in range(steps):
        project.undo(NAME)
        seen.append(project.labels(NAME))
    assert not seen[-1].any()
    project.close()
    project = Project.open(folder / "project")
    for labels in reversed(seen[:-1]):
        project.redo(NAME)
        assert project.labels(NAME).tobytes() == labels.tobytes()
    project.close()


def test_a_result_of_a_segmenter_is_stored(tmp_path: Path) -> None:
    found = made_result(awkward_labels(), lost=1)
    make_image(tmp_path / "b.png", found.labels.shape)
    with Project.create(tmp_path / "project", [tmp_path / "b.png"]) as project:
        project.store_segmentation("b.png", found, engine=EngineRecord.of())
        np.testing.assert_array_equal(project.labels("b.png"), found.labels)
        assert project.status("b.png").cells == len(found)


def test_conflicts_carry_the_revision(tmp_path: Path) -> None:
    with make_project(tmp_path) as project:
        project.store_segmentation(NAME, two_cells(), author="ada", expected_revision=0)
        for call in (
            lambda: project.apply(NAME, Delete(labels=(1,)), expected_revision=0),
            lambda: project.undo(NAME, expected_revision=2),
            lambda: project.mark(NAME, "done", expected_revision=0),
            lambda: project.store_segmentation(NAME, two_cells(), expected_revision=0),
        ):
            with pytest.raises(ConflictError, match="at revision 1, by ada; expected") as caught:
                call()
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (copy.revision, copy.author, copy.kind) == (1, "ada", "conflict")
        project.apply(NAME, Delete(labels=(1,)), expected_revision=1)


def test_threads_never_overwrite_each_other(tmp_path: Path) -> None:
    names = ("a.png", "b.png")
    with make_project(tmp_path, names) as project:
        conflicts = threading.Semaphore(0)

        def work(worker: int) -> None:
            for x in range(6):
                while True:
                    try:
                        revision = project.status(names[x % 2]).revision
                        project.apply(names[x % 2], dot(2 * x, 3 * worker), expected_revision=revision)
                        break
                    except ConflictError:
                        conflicts.release()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert [one.cells for one in project.statuses()] == [12, 12]
        assert [one.revision for one in project.statuses()] == [12, 12]


OPEN_IN_ANOTHER_PROCESS = """
import sys
from runtime.correction.project import Project
from runtime.correction.journal import ProjectError
try:
    Project.open(sys.argv[1]).mark("a.png", "done")
except ProjectError as error:
    print(error.kind, error)
else:
    print("opened")
print(Project.open(sys.argv[1], read_only=True).status("a.png").state)
"""


def in_another_process(directory: Path) -> str:
    command = [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_two_processes_are_told_of_each_other(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.mark(NAME, "corrected")
    answer = in_another_process(tmp_path / "project")
    assert answer.startswith("busy ")
    assert f"process {os.getpid()}, since" in answer
    assert answer.endswith("corrected\n"), "others may read"
    with pytest.raises(ProjectError, match="is open in another process"):
        Project.open(tmp_path / "project")
    project.close()
    assert in_another_process(tmp_path / "project") == "opened\ndone\n"


def test_moved_altered_and_resized_images(tmp_path: Path) -> None:
    with make_project(tmp_path, (NAME, "sub/b.png")) as project:
        assert project.names == (NAME, "sub/b.png")
        project.store_segmentation(NAME, two_cells())
        path = project.path(NAME)
        os.utime(path, ns=(1, 1))
        project.check(NAME)
        original = path.read_bytes()
        path.unlink()
        with pytest.raises(InputError, match=r"a\.png does not exist.*relocate"):
            project.apply(NAME, dot(0, 0))
        assert "does not exist" in str(project.status(NAME).problem)
        np.testing.assert_array_equal(project.labels(NAME), two_cells())
        make_image(path, (SIZE_HW[0] + 1, SIZE_HW[1]))
        for call in (project.read, project.undo, project.accept):
            with pytest.raises(InputError, match="has 13 x 15 pixels; expected 12 x 15, the size of its labels"):
                call(NAME)
        make_image(path, seed=9)
        with pytest.raises(InputError, match="has changed since it was added"):
            project.store_segmentation(NAME, two_cells())
        project.accept(NAME)
        project.apply(NAME, dot(0, 0))
        path.write_bytes(original)
        project.accept(NAME)
    with Project.open(tmp_path / "project") as project:
        assert project.status(NAME).problem is None
        assert project.status(NAME).cells == 3


def test_images_are_relocated_and_added(tmp_path: Path) -> None:
    make_project(tmp_path / "first", (NAME, "b.png")).close()
    (tmp_path / "first" / "project").rename(tmp_path / "moved")
    with Project.open(tmp_path / "moved") as project:
        with pytest.raises(InputError, match="does not exist"):
            project.check(NAME)
        with pytest.raises(InputError, match="does not exist"):
            project.relocate(tmp_path)
        project.relocate(tmp_path / "first")
        project.check(NAME)
        new = make_image(tmp_path / "first" / "c.png")
        assert project.add([new, tmp_path / "first" / NAME]) == ("c.png",)
        project.set_settings(engine="nano", gone=1)
        project.set_settings(gone=None)
        with pytest.raises(InputError, match="is not below"):
            project.add([make_image(tmp_path / "elsewhere.png")])
    with Project.open(tmp_path / "moved") as project:
        assert project.names == (NAME, "b.png", "c.png")
        assert project.settings == {"engine": "nano"}
        project.check("b.png")


def test_more_images_than_stay_open(tmp_path: Path) -> None:
    names = tuple(f"{number:02}.png" for number in range(OPEN_IMAGES + 3))
    with make_project(tmp_path, names) as project:
        for number, name in enumerate(names):
            project.apply(name, dot(number, 3))
        for number, name in enumerate(names):
            assert project.label_at(name, 3, number) == 1


def test_how_images_are_read_is_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / NAME)
    options = FileOptions(nuclear="2", pixel_size_um=0.5)
    Project.create(tmp_path / "project", [tmp_path / NAME], files=options).close()
    with Project.open(tmp_path / "project") as project:
        assert project.files == options
        read = project.read(NAME)
        assert read.pixel_size_um == project.pixel_size_um(NAME) == 0.5
        np.testing.assert_array_equal(read.pixels.reshape(*SIZE_HW, -1)[..., -1], pixels[..., 2])


def test_wrong_directories_and_images(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"has no project\.json; expected a project directory"):
        Project.open(tmp_path)
    assert not list(tmp_path.iterdir()), "no lock is left in other directories"
    with pytest.raises(InputError, match="a project has no images"):
        Project.create(tmp_path / "project", [])
    with make_project(tmp_path) as project:
        with pytest.raises(InputError, match=r"has no image 'b\.png'; expected one of 1, such as 'a\.png'"):
            project.labels("b.png")
        with pytest.raises(InputError, match=r"labels have shape \(3, 3\); expected \(12, 15\)"):
            project.store_segmentation(NAME, np.zeros((3, 3), np.int32))
    with pytest.raises(ProjectError, match="is a project already"):
        Project.create(tmp_path / "project", [tmp_path / NAME])
    file = tmp_path / "project" / "project.json"
    content = json.loads(file.read_text())
    for wrong, message in (
        ({**content, "schema": 9}, "schema 9; expected 1"),
        ({**content, "images": [{**content["images"][0], "name": "../../etc/passwd"}]}, "name is '../../etc/passwd'"),
        ({**content, "images": [{**content["images"][0], "size_hw": [0, 1]}]}, "is damaged"),
        ({**content, "files": {"nonsense": 1}}, "is damaged"),
        (["list"], "is damaged"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ProjectError, match=message):
            Project.open(tmp_path / "project")
