"""Shapes that TensorRT engines are made for: what the runtime sends to them, and no more."""

from __future__ import annotations

from runtime.engines.backends.plan_record import Ranges, Shape
from runtime.engines.manifest import Dim, EngineFile, takes_boxes
from runtime.errors import EngineError
from runtime.ops.boxes import token_window_sides

IMAGES_ON_GPU, BOXES_ON_GPU = 4, 64
"""Images and boxes of one engine call there, unless the caller says otherwise."""

DECODER_IMAGES = 8
"""Images whose boxes the runtime decodes together; the mask decoder takes as many however small ``max_batch`` is."""


def profile_ranges(
    spec: EngineFile, grid_size: int, *, max_batch: int = IMAGES_ON_GPU, max_boxes: int = BOXES_ON_GPU
) -> Ranges:
    """Least, best and greatest shape of every input of an engine.

    Best is what the runtime sends unless told otherwise, as far as the engine takes it: full calls, small windows.

    Args:
        spec: the engine.
        grid_size: image tokens per side.
        max_batch: images that the encoder and the detector take at once.
        max_boxes: boxes that the mask decoder takes at once.

    Raises:
        EngineError: a dimension of a name that the export does not write.
    """
    sides = token_window_sides(grid_size)
    window = (sides[0], sides[min(1, len(sides) - 1)], sides[-1])
    images = max(max_batch, DECODER_IMAGES) if takes_boxes(spec.inputs) else max_batch
    by_name = {
        "batch": (1, min(IMAGES_ON_GPU, max_batch), images),
        "boxes": (1, min(BOXES_ON_GPU, max_boxes), max_boxes),
        "window_height": window,
        "window_width": window,
    }

    def size(dim: Dim, place: int) -> int:
        if isinstance(dim, int):
            return dim
        if dim not in by_name:
            raise EngineError(
                f"{spec.file} has a dimension {dim!r}; expected one of {', '.join(by_name)}. Export again.",
                kind="mismatch",
            )
        return by_name[dim][place]

    def shape(dims: tuple[Dim, ...], place: int) -> Shape:
        return tuple(size(dim, place) for dim in dims)

    return {t.name: (shape(t.shape, 0), shape(t.shape, 1), shape(t.shape, 2)) for t in spec.inputs}


def within(shape: Shape, bounds: tuple[Shape, Shape, Shape]) -> bool:
    """Whether an input of this shape may be sent. Args: bounds: its entry in the ranges."""
    least, _, most = bounds
    return len(shape) == len(least) and all(
        low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True)
    )
