"""Compiled loops without a cache directory, and with arrays that do not fit together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import SegmentConfig
from runtime.ops.masks import LabelCanvas, relabel, resize_axis, upsample_window

ROOT = Path(__file__).parents[3]


def test_loops_run_without_a_cache_directory(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(
        "import numba.core.caching as caching\n"
        "def nowhere(*_):\n"
        "    raise RuntimeError('cannot cache function: no locator available')\n"
        "caching.CacheImpl.__init__ = nowhere\n"
        "import numpy as np\n"
        "from runtime.ops.masks import relabel\n"
        "print(relabel(np.array([[0, 3, 7]], np.int32), 9)[0].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "frozen.py")],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "[[0, 1, 2]]", done.stderr


def test_labels_beyond_the_count_are_rejected() -> None:
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="below 0 or above"):
            relabel(np.array([[0, wrong]], np.int32), 4)


@pytest.mark.parametrize("offset", [(-1, 0), (0, -1), (5, 0), (0, 5)])
def test_a_mask_beyond_the_image_is_rejected(offset: tuple[int, int]) -> None:
    canvas = LabelCanvas((8, 8), SegmentConfig())
    with pytest.raises(ValueError, match="extends beyond the image"):
        canvas.add(0, np.ones((4, 4), np.float32), offset)
    assert not canvas.owner.any()


@pytest.mark.parametrize("origin", [(-1, 0), (0, -1), (7, 0), (0, 7)])
def test_a_window_beyond_the_map_is_rejected(origin: tuple[int, int]) -> None:
    axis = resize_axis(10, 40, 20)
    with pytest.raises(ValueError, match="beyond the whole map"):
        upsample_window(np.ones((4, 4), np.float32), origin, (axis, axis))
