"""Tests of finding the lowest versions; installing them needs the package index (``make test-min``)."""

from __future__ import annotations

import pytest

from tests.minimum import ROOT, lowest_versions


def test_every_dependency_has_one_lower_bound() -> None:
    pins = dict(pin.split("==") for pin in lowest_versions((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    assert {"numpy", "onnxruntime", "typer", "imagecodecs"} <= pins.keys()
    assert all(version[0].isdigit() for version in pins.values())


def test_bounds_of_other_pythons_are_left_out() -> None:
    listed = 'dependencies = [\n    # why\n    "a>=1.2",\n    "b>=2; python_version < \'3\'",\n    "c[x]>=3,<9",\n]\n'
    assert lowest_versions(f"[project]\n{listed}") == ["a==1.2", "c==3"]
    with pytest.raises(ValueError, match="d has 0 lower bounds"):
        lowest_versions('dependencies = [\n    "d",\n]\n')
    with pytest.raises(ValueError, match="no list of dependencies"):
        lowest_versions("")
