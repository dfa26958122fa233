"""Timing of the host work of a call without its engines."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.host_work import Tree, compare
from benchmarks.host_work_parts import Recorded, sample, times
from runtime import Segmenter
from runtime.pipeline.pipeline import Pipeline


def tree(cpu_ms: list[float]) -> Tree:
    """Return a tree that was measured."""
    made = Tree.__new__(Tree)
    made.times = {"a step": {"cpu_ms": cpu_ms, "wall_ms": [2 * value for value in cpu_ms]}}
    return made


def test_ratios_are_of_the_same_step() -> None:
    (record,) = compare(tree([3.0, 1.0, 2.0]), tree([6.0, 4.0, 4.0]))
    assert record["now"] == {"cpu_min_ms": 1.0, "cpu_p50_ms": 2.0, "wall_min_ms": 2.0, "wall_p50_ms": 4.0}
    assert record["ratio_of_min_cpu"] == 0.25
    assert record["median_of_paired_cpu_ratios"] == 0.5
    (alone,) = compare(tree([3.0]), None)
    assert alone.keys() == {"step", "now"}


def test_a_tree_that_cannot_be_measured_is_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("tree")
    (root / "runtime").mkdir()
    (root / "runtime" / "__init__.py").write_text("")
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        Tree(root)


def test_recorded_engines_give_the_same_cells() -> None:
    base, image = Segmenter(backend="cpu"), sample()[:256, :256]
    engines = {name: Recorded(engine) for name, engine in base.pipeline.engines.items()}
    segmenter = Segmenter.from_pipeline(Pipeline(engines, base.manifest), base.config)
    expected = segmenter(image).labels
    assert expected.max() > 20
    for engine in engines.values():
        engine.replay()
    for _ in range(2):
        np.testing.assert_array_equal(segmenter(image).labels, expected)
    found = times(lambda: segmenter(image), 2)
    assert len(found["cpu_ms"]) == len(found["wall_ms"]) == 2
