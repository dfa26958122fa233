"""Made label maps, edits and projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from runtime.correction.edits.base import Edit
from runtime.correction.edits.cells import Delete, Merge, Relabel, Renumber, Swap
from runtime.correction.edits.draw import Add, Erase
from runtime.correction.edits.form import FillHoles, Grow, KeepLargest, Shrink
from runtime.correction.edits.shapes import Shape
from runtime.correction.edits.split import SplitAlongLine, SplitAtSeeds
from runtime.correction.project import Project
from runtime.ops.masks import MaskCrop
from runtime.types import I32

SIZE_HW = (12, 15)

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4))

numbers = st.integers(1, 6)
coordinates = st.floats(-4.0, 20.0, allow_nan=False)
points = st.tuples(coordinates, coordinates)
overlaps: Any = st.sampled_from(["keep", "overwrite"])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw a polygon, a stroke or a mask, which may extend beyond the image."""
    kind = draw(st.sampled_from(["polygon", "stroke", "mask"]))
    if kind == "polygon":
        return Shape.of_polygon(draw(st.lists(points, min_size=3, max_size=6)))
    if kind == "stroke":
        return Shape.of_stroke(draw(st.lists(points, min_size=1, max_size=4)), draw(st.floats(0.1, 5.0)))
    mask = draw(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=6)))
    return Shape.of_mask(MaskCrop(mask, (draw(st.integers(-3, 14)), draw(st.integers(-3, 14)))))


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """Draw an edit, which may not fit the labels."""
    one, other, pixels = draw(numbers), draw(numbers), draw(st.integers(1, 3))
    other = other + 1 if other == one else other
    return draw(
        st.one_of(
            st.builds(Add, shape=shapes(), label=st.none() | numbers, overlap=overlaps),
            st.builds(Erase, shape=shapes(), label=st.none() | numbers),
            st.sampled_from(
                [
                    Delete(labels=(one, other)),
                    Merge(labels=(one, other)),
                    Swap(first=one, second=other),
                    Relabel(label=one, to=other),
                    Renumber(),
                    FillHoles(label=one, overlap=draw(overlaps)),
                    Grow(label=one, pixels=pixels),
                    Shrink(label=one, pixels=pixels),
                    KeepLargest(label=one),
                ]
            ),
            st.builds(SplitAtSeeds, label=numbers, seeds=st.lists(points, min_size=2, max_size=3).map(tuple)),
            st.builds(SplitAlongLine, label=numbers, points=st.lists(points, min_size=2, max_size=3).map(tuple)),
        )
    )


def two_cells() -> I32:
    """Return labels of a square, 1, and a bar, 5, with a gap in the numbers."""
    labels = np.zeros(SIZE_HW, np.int32)
    labels[1:5, 1:5] = 1
    labels[7:10, 2:13] = 5
    return labels


def make_image(path: Path, size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> Path:
    """Write a noisy image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, size_hw, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_project(folder: Path, names: tuple[str, ...] = ("a.png",)) -> Project:
    """Create the project ``folder/project`` with images in ``folder``, open."""
    images = [make_image(folder / name, seed=number) for number, name in enumerate(names)]
    return Project.create(folder / "project", images)
