"""GPU discovery, on machines without a GPU."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.backends import gpus
from runtime.engines.backends.gpus import VISIBLE, count_gpus, visible_gpus

NAMES = st.one_of(st.integers(0, 99).map(str), st.uuids().map("GPU-{}".format), st.uuids().map("MIG-{}".format))
NO_NAMES = st.sampled_from(["", "-1", "NoDevFiles", "all", "gpu-1", "GPU-", "0x1"])

WHOLE = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-af7a3c32-0b4a-7a3f-4a3a-2f5c0a1b9b9d)
"""
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)
  MIG 3g.20gb     Device  0: (UUID: MIG-GPU-a/1/0)
  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-a/2/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-c)
  MIG 7g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
"""


@given(
    names=st.lists(NAMES), ended=st.booleans(), none=NO_NAMES, behind=st.lists(NAMES), gap=st.sampled_from(["", " "])
)
def test_listed_gpus_end_at_what_names_none(
    names: list[str], ended: bool, none: str, behind: list[str], gap: str
) -> None:
    entries = [*names, none, *behind] if ended else names
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VISIBLE, f",{gap}".join(entries))
        assert visible_gpus() == names


@pytest.mark.skipif(os.name == "nt", reason="nvidia-smi is faked by a shell script")
@pytest.mark.parametrize(
    ("printed", "status", "found"),
    [
        (WHOLE, 0, ["GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-af7a3c32-0b4a-7a3f-4a3a-2f5c0a1b9b9d"]),
        (DIVIDED, 0, ["MIG-GPU-a/1/0", "MIG-GPU-a/2/0", "GPU-b", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"]),
        ("No devices were found\n", 0, ["0", "1", "2"]),
        ("Failed to initialize NVML: Driver/library version mismatch\n", 18, ["0", "1", "2"]),
    ],
)
def test_gpus_that_nvidia_smi_lists(
    printed: str, status: int, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_smi(tmp_path, monkeypatch, printed, status)
    monkeypatch.setattr(gpus, "count_gpus", lambda: 3)
    assert visible_gpus() == found


def fake_smi(directory: Path, monkeypatch: pytest.MonkeyPatch, printed: str, status: int = 0) -> None:
    """Put a fake ``nvidia-smi`` on the path that prints this for ``-L``, and unset the list of visible GPUs."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 2\nprintf '%s' '{printed}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.parametrize("count", [0, 2])
def test_without_nvidia_smi_the_driver_counts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gpus, "count_gpus", lambda: count)
    assert visible_gpus() == ["0", "1"][:count]


@pytest.mark.parametrize(("init", "found"), [(0, 3), (100, 0)])
def test_gpus_are_counted_by_the_driver(init: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(pointer: Any) -> int:
        pointer._obj.value = 3
        return 0

    driver = SimpleNamespace(cuInit=lambda flags: init, cuDeviceGetCount=count)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert count_gpus() == found


def test_no_driver_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert count_gpus() == 0
