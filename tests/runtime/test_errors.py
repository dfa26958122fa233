"""Errors carry a kind and a field across processes, and their messages do not name options of commands."""

from __future__ import annotations

import ast
import errno
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

import export.errors  # noqa: F401  # defines further error classes
import training.checkpoint
import training.data.errors
import training.recipe  # noqa: F401
from runtime.config import SegmentConfig
from runtime.errors import (
    BackendError,
    ConfigError,
    ErrorKind,
    ImageTooLargeError,
    InputError,
    OutOfMemoryError,
    SegmenterError,
    kind_of,
)
from runtime.jobs.failure import Failure

ROOT = Path(__file__).parents[2]


def classes(base: type[SegmenterError] = SegmenterError) -> Iterator[type[SegmenterError]]:
    yield base
    for below in base.__subclasses__():
        yield from classes(below)


def raise_error(kind: type[SegmenterError]) -> None:
    raise kind("image has shape (3,); expected (H, W).", kind="wrong_shape", field="image")


def as_seen(error: SegmenterError) -> tuple[object, ...]:
    return type(error), str(error), error.args, error.kind, error.field


@pytest.mark.parametrize("kind", sorted(set(classes()), key=lambda one: one.__name__))
def test_errors_cross_processes_whole(kind: type[SegmenterError]) -> None:
    usual = kind("message")
    assert (str(usual), usual.args, usual.field) == ("message", ("message",), None)
    assert usual.kind == kind.usual_kind
    assert kind.usual_kind in get_args(ErrorKind)
    given = kind("message", kind="exists", field="out")
    for error in (usual, given):
        assert as_seen(pickle.loads(pickle.dumps(error))) == as_seen(error)


def test_errors_of_workers_keep_their_data() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for kind in (InputError, OutOfMemoryError):
            error = pool.submit(raise_error, kind).exception()
            assert isinstance(error, kind)
            assert as_seen(error) == (kind, str(error), error.args, "wrong_shape", "image")


def test_kinds_of_classes_and_of_other_errors() -> None:
    assert (InputError("x").kind, ImageTooLargeError("x").kind) == ("invalid", "too_large")
    assert (BackendError("x").kind, OutOfMemoryError("x").kind) == ("failed", "out_of_memory")
    assert kind_of(ConfigError("x", kind="conflict")) == "conflict"
    assert kind_of(MemoryError()) == "out_of_memory"
    assert kind_of(FileNotFoundError(errno.ENOENT, "no such file")) == "not_found"
    for full in (errno.ENOSPC, errno.EDQUOT):
        assert kind_of(OSError(full, "in the user's language")) == "disk_full"
    assert kind_of(OSError("without a number")) == kind_of(RuntimeError("any")) == "failed"


def test_settings_at_fault_are_named() -> None:
    for given in ({"box_threshold": 7.0}, {"min_area_px": 1.5}, {"overlap": "first"}, {"mask_threshold": "half"}):
        with pytest.raises(ConfigError) as caught:
            SegmentConfig(**given)  # type: ignore[arg-type]
        assert caught.value.field == next(iter(given))


def test_failures_carry_what_is_wrong() -> None:
    image = Path("cells.tif")
    full = Failure.of(OSError(errno.ENOSPC, "No space left on device", "labels.tif"), image)
    assert (str(full), full.kind, full.field) == ("No space left on device: labels.tif", "disk_full", None)
    missing = Failure.of(InputError("two series.", kind="missing", field="series"), image)
    assert pickle.loads(pickle.dumps(missing)) == Failure("two series.", "missing", "series")
    assert Failure.of(RuntimeError("died"), message="Worker: died") == Failure("Worker: died", "failed")


COMMAND = re.compile(
    r"(cellsam-engine |python -m |\bpip |\{COMMAND\}|\{self\._build_command\}|\A--[a-z-]+\Z).*", re.DOTALL
)
"""Commands to type and single arguments of commands, in which options are allowed."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that may be messages, so not its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            plain |= {id(part) for part in node.values}
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"  # type: ignore[attr-defined]
                for part in node.values
            ]
            yield node.lineno, "".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
            yield node.lineno, node.value


@pytest.mark.parametrize("package", ["runtime", "export", "training"])
def test_messages_of_the_library_name_no_flags(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if not {"commands", "cellpose"} & {*path.parts} and path.name not in ("__main__.py", "environment.py")
        for line, text in texts(path)
        if re.search(r"(?<![\w-])--[a-z]", COMMAND.sub("", text))
    ]
    assert not wrong, "\n".join(wrong)
