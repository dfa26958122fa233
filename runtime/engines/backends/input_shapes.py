"""Input shapes that TensorRT engines are built for: exactly those the runtime sends."""

from __future__ import annotations

from runtime.engines.backends.plan_record import Ranges, Shape
from runtime.engines.manifest import Dim, EngineFile, takes_boxes
from runtime.errors import EngineError
from runtime.ops.boxes import token_window_sides

IMAGES_ON_GPU, BOXES_ON_GPU = 4, 64
"""Default number of images and of boxes per engine call on a GPU."""

DECODER_IMAGES = 8
"""Images whose boxes the runtime decodes together; the mask decoder accepts at least this many for any size limit."""


def profile_ranges(
    spec: EngineFile, grid_size: int, *, max_batch: int = IMAGES_ON_GPU, max_boxes: int = BOXES_ON_GPU
) -> Ranges:
    """Return the minimum, optimum and maximum shape of every input of an engine.

    The optimum is what the runtime sends by default, within the limits of the engine: full batches, small windows.

    Args:
        spec: the engine.
        grid_size: image tokens per side.
        max_batch: most images per call of the encoder and the detector.
        max_boxes: most boxes per call of the mask decoder.

    Raises:
        EngineError: a dimension has a name that the export does not write.
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
                f"{spec.file} has a dimension {dim!r}; expected one of {', '.join(by_name)}. Export the engines again.",
                kind="mismatch",
            )
        return by_name[dim][place]

    def shape(dims: tuple[Dim, ...], place: int) -> Shape:
        return tuple(size(dim, place) for dim in dims)

    return {t.name: (shape(t.shape, 0), shape(t.shape, 1), shape(t.shape, 2)) for t in spec.inputs}


def within(shape: Shape, bounds: tuple[Shape, Shape, Shape]) -> bool:
    """Return whether the engine accepts an input of this shape. Args: bounds: the input's entry in the ranges."""
    least, _, most = bounds
    return len(shape) == len(least) and all(
        low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True)
    )
