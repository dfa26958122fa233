"""Files and directories are written atomically, and what they replace is never lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import SegmenterError
from runtime.files.image_results import remove_leftovers_of
from runtime.files.placing import held, is_abandoned, move_into_place, remove_leftovers, staged, write_whole


def made_directory(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "content").write_text(content)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return made_directory(tmp_path / "a.zarr", "old")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return made_directory(tmp_path / "new", "new")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def failing_rename(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, fail_at: set[int]) -> None:
    """Make the numbered calls of ``Path.rename`` raise."""
    original, calls = Path.rename, iter(range(99))

    def rename(self: Path, target: Any) -> Any:
        if next(calls) in fail_at:
            raise error
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_a_directory_is_replaced_and_a_free_place_filled(old: Path, new: Path, tmp_path: Path) -> None:
    move_into_place(new, old)
    assert (old / "content").read_text() == "new"
    move_into_place(old, tmp_path / "b.zarr")
    assert names(tmp_path) == ["b.zarr"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [0, 1])
def test_a_failed_move_keeps_the_old_directory(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    failing_rename(monkeypatch, error, fail_at={step})
    with pytest.raises(type(error)):
        move_into_place(new, old)
    assert (old / "content").read_text() == "old"
    assert names(old.parent) == ["a.zarr", "new"]


def test_where_it_is_kept_when_it_cannot_be_put_back(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_rename(monkeypatch, OSError("disk gone"), fail_at={1, 2})
    with pytest.raises(SegmenterError, match="its earlier content is in") as error:
        move_into_place(new, old)
    kept = old.with_name(f".a.zarr.{os.getpid()}.old.partial")
    assert str(kept) in str(error.value)
    assert (kept / "content").read_text() == "old"


def test_a_link_to_a_directory_is_replaced_and_its_target_kept(old: Path, new: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(old, target_is_directory=True)
    move_into_place(new, link)
    assert not link.is_symlink()
    assert (link / "content").read_text() == "new"
    assert (old / "content").read_text() == "old"
    assert names(tmp_path) == ["a.zarr", "link.zarr"]


def test_a_file_never_replaces_a_directory(old: Path) -> None:
    with pytest.raises(OSError, match=r"a\.zarr"):
        write_whole(old, lambda temporary: temporary.write_text("a file"))
    assert (old / "content").read_text() == "old"
    assert names(old.parent) == ["a.zarr"]


def test_a_failed_write_leaves_nothing_behind(old: Path) -> None:
    def fail(temporary: Path) -> None:
        made_directory(temporary, "half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(old, fail)
    assert (old / "content").read_text() == "old"
    assert names(old.parent) == ["a.zarr"]


HOLD = """
import sys, time
from pathlib import Path
from runtime.files.placing import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="directories are not locked there")
def test_what_a_live_process_works_on_stays(tmp_path: Path) -> None:
    """A directory in use stays, whatever its age and process number; it is removed once its process is killed."""
    directory = tmp_path / ".a.4194303.partial"  # a number that no process of this machine has
    directory.mkdir()
    os.utime(directory, (0, 0))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        remove_leftovers_of([tmp_path / "a"])
        assert directory.is_dir()
    finally:
        holder.kill()
        holder.wait()
    remove_leftovers_of([tmp_path / "b"])
    assert directory.is_dir()
    remove_leftovers_of([tmp_path / "a"])
    assert not directory.exists()


@pytest.mark.skipif(os.name == "nt", reason="directories are not locked there")
def test_a_directory_that_was_just_made_may_not_be_locked_yet(tmp_path: Path) -> None:
    assert not is_abandoned(tmp_path, os.getpid())
    assert is_abandoned(tmp_path, 4194303)
    with held(tmp_path):
        assert not is_abandoned(tmp_path, 4194303)
    os.utime(tmp_path, (0, 0))
    assert is_abandoned(tmp_path, os.getpid()), "an earlier process with this number"


def test_what_a_killed_process_left_goes_and_what_it_had_set_aside_comes_back(tmp_path: Path) -> None:
    """Files, directories, and a directory that was to be replaced; other names and other files stay."""
    gone = 4194303
    made_directory(tmp_path / f".a.zarr.{gone}.partial", "half")
    made_directory(tmp_path / f".a.zarr.{gone}.old.partial", "old")
    made_directory(tmp_path / "b.zarr", "new")
    made_directory(tmp_path / f".b.zarr.{gone}.old.partial", "old")
    (tmp_path / f".c.csv.{gone}.partial").write_text("half")
    (tmp_path / f".c.csv.{os.getpid()}.partial").write_text("being written")
    (tmp_path / ".last.ckpt.partial").write_text("of another kind")
    remove_leftovers(tmp_path, {"b.zarr"})
    assert len(names(tmp_path)) == 6
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [f".c.csv.{os.getpid()}.partial", ".last.ckpt.partial", "a.zarr", "b.zarr"]
    assert (tmp_path / "a.zarr" / "content").read_text() == "old"
    assert (tmp_path / "b.zarr" / "content").read_text() == "new"
    remove_leftovers(tmp_path / "not there")


def test_a_staged_directory_is_private_and_does_not_outlive_its_use(tmp_path: Path) -> None:
    with staged(tmp_path / "deep" / "engines") as directory:
        assert directory.parent == tmp_path / "deep"
        assert os.name == "nt" or directory.stat().st_mode & 0o077 == 0
        remove_leftovers(directory.parent)
        (directory / "content").write_text("whole")
        directory.rename(tmp_path / "deep" / "engines")
    assert names(tmp_path / "deep") == ["engines"]
    with pytest.raises(KeyError), staged(tmp_path / "other", tmp_path / "deep"):
        raise KeyError
    assert names(tmp_path / "deep") == ["engines"]
