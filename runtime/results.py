"""Results of the pipeline and of ``Segmenter``: frozen dataclasses of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import check_pixel_size
from runtime.errors import InputError
from runtime.ops import measure
from runtime.ops.boxes import clip_boxes
from runtime.ops.compiled import looked_up
from runtime.ops.masks import MaskCrop
from runtime.provenance import Provenance
from runtime.types import F32, F64, I32, I64, Arrays

DETECTED = -1
"""Entry of ``Instances.prompts`` for a detected instance."""

SURE = 0.52
"""A measured diameter with at least this confidence needs no warning. On 53 training images of 9 datasets, all 38
diameters within a third of the true one exceeded it. Of the other 15, 11 did not (weights of 2026-11-25)."""

Rows = slice | ArrayLike
"""Selection of instances: a slice, a boolean mask with one entry per instance, or indices."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes of one view that passed the score cut, best first."""

    boxes: F64
    """(K, 4) float64 xyxy, pixels of the view. A box may extend beyond the view."""
    scores: F32
    """(K,) float32 in [0, 1], in descending order."""
    threshold: float
    """The score cut that was applied."""
    origin_yx: tuple[int, int] = (0, 0)
    """Image pixel of the view's first pixel."""

    @property
    def boxes_xyxy_image(self) -> F64:
        """(K, 4) float64 xyxy, image pixels."""
        y, x = self.origin_yx
        return self.boxes + np.array([x, y, x, y], np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """How the model saw an image: the assumed size of its cells, its polarity and its channels."""

    diameter_px: float | None = None
    """Median cell diameter, image pixels; None if it was neither given nor measured."""
    diameter_confidence: float | None = None
    """Confidence in a measured diameter, in [0, 1]: the mean score of the measured cells times the agreement between
    scales. None if the diameter was given."""
    inverted: bool = False
    """Dark and bright were swapped."""
    invert_margin: float | None = None
    """With ``invert="auto"``: by how much the mean score of the cells exceeds that of the other polarity, which is
    chosen only if it is clearly better. None if the other polarity was not tried."""
    nuclear_alone: bool = False
    """Only the nuclear channel was used, because the weights were trained on single channels."""

    @property
    def doubtful(self) -> bool:
        """Whether the measured diameter is so uncertain that the caller should give it."""
        return self.diameter_confidence is not None and self.diameter_confidence < SURE


@dataclass(frozen=True, slots=True)
class MaskLogits:
    """Output of the decoder for one mask."""

    logits: F32
    """(4 R, 4 S) for a window of R x S tokens; (256, 256) for the whole image with the ViT-B."""
    origin_yx: tuple[int, int]
    """Position of its first logit in the map of the whole image."""
    iou_prediction: float
    """The decoder's own estimate of the mask's IoU, not clamped."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Instances:
    """N instances of one image. Row i of every array, and ``masks[i]``, belong to the same instance.

    ``len`` returns N. ``instances[rows]`` takes a slice, a boolean mask of length N or unique indices, and returns the
    chosen instances in that order. As with a pandas DataFrame, the truth value is ambiguous and raises an error.
    """

    boxes: F64
    """(N, 4) float64 xyxy, image pixels: the box prompt of each mask. A box may extend beyond the image. An instance
    joined across tiles has the bounding box of its parts' boxes."""
    scores: F32
    """(N,) float32 box scores in [0, 1]; NaN for boxes that the caller gave without scores."""
    iou_predictions: F32
    """(N,) float32: the mask decoder's own estimate of each mask's IoU, not clamped."""
    masks: tuple[MaskCrop, ...]
    """N masks before overlaps are resolved, each a crop and its offset in the image; they may overlap."""
    prompts: I64
    """(N,) int64: index of the caller's box that the instance was decoded from; -1 for a detected instance."""

    def __post_init__(self) -> None:
        count = len(self.masks)
        expected = {"boxes": (count, 4)} | dict.fromkeys(("scores", "iou_predictions", "prompts"), (count,))
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"{name} has shape {getattr(self, name).shape}; expected {shape} for {count} masks. Give one entry "
                    "per instance in every array."
                )

    @classmethod
    def empty(cls) -> Instances:
        """Return no instances: all arrays have length 0."""
        none = np.zeros(0, np.float32)
        return Instances(
            boxes=np.zeros((0, 4)), scores=none, iou_predictions=none, masks=(), prompts=np.zeros(0, np.int64)
        )

    @classmethod
    def joined(cls, parts: Sequence[Instances]) -> Instances:
        """Concatenate the instances of all parts, in order."""
        parts = [Instances.empty(), *parts]
        return Instances(
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            iou_predictions=np.concatenate([part.iou_predictions for part in parts]),
            masks=tuple(mask for part in parts for mask in part.masks),
            prompts=np.concatenate([part.prompts for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.masks)

    __iter__ = None  # an instance is a row of the arrays, not a separate object

    def __bool__(self) -> NoReturn:
        raise InputError(
            f"the truth value of a {type(self).__name__} is ambiguous; expected a comparison of its length. Write "
            "len(result) > 0 or result is not None."
        )

    def __getitem__(self, rows: Rows) -> Instances:
        chosen = checked_rows(rows, len(self))
        return Instances(
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            iou_predictions=self.iou_predictions[chosen],
            masks=tuple(self.masks[row] for row in chosen.tolist()),
            prompts=self.prompts[chosen],
        )

    def columns(self, size_hw: tuple[int, int]) -> Arrays:
        """Tabulate the instances as columns of length N.

        Args:
            size_hw: size of the image, to which the boxes are clipped.

        Returns:
            ``x0``, ``y0``, ``x1``, ``y1`` (float64 pixels), ``score``, ``iou_prediction`` (float32) and
            ``mask_area_px`` (int64 pixels).
        """
        boxes = dict(zip(("x0", "y0", "x1", "y1"), clip_boxes(self.boxes, size_hw).T, strict=True))
        areas = np.array([mask.area_px for mask in self.masks], np.int64)
        scores = {"score": self.scores.copy(), "iou_prediction": self.iou_predictions.copy()}
        return {**boxes, **scores, "mask_area_px": areas}

    def __repr__(self) -> str:
        return f"Instances({len(self)})"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Segmentation(Instances):
    """The cells of one image: n instances with a label map. Row i belongs to label ``i + 1``.

    ``result[rows]`` keeps the chosen cells and numbers them 1..m in the order of ``rows``; the pixels of all other
    cells become background.
    """

    labels: I32
    """(H, W) int32: 0 is background, 1..n are the cells, without gaps."""
    hidden: Instances = field(default_factory=Instances.empty)
    """Instances without a pixel in the label map: other cells own all their pixels, or too few were left. Duplicates
    and fragments that were dropped while stitching tiles are not listed here."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the model saw the image."""
    provenance: Provenance | None = None
    """Origin of the result: the engines, and the devices that ran them. None if no ``Segmenter`` made it."""

    @classmethod
    def of(cls, labels: I32, cells: Instances, hidden: Instances, appearance: Appearance | None = None) -> Segmentation:
        """Build a result from a label map and its cells, which are in the order of their labels."""
        arrays = {one.name: getattr(cells, one.name) for one in fields(Instances)}
        return cls(labels=labels, hidden=hidden, appearance=appearance or Appearance(), **arrays)

    def __getitem__(self, rows: Rows) -> Segmentation:
        chosen = checked_rows(rows, len(self))
        numbers = np.zeros(len(self) + 1, np.int32)
        numbers[chosen + 1] = np.arange(1, len(chosen) + 1)
        labels, cells = looked_up(self.labels, numbers), Instances.__getitem__(self, chosen)
        return replace(Segmentation.of(labels, cells, self.hidden, self.appearance), provenance=self.provenance)

    def table(
        self,
        image: ArrayLike | None = None,
        pixel_size_um: float | None = None,
        *,
        channels: Sequence[str] | None = None,
        shapes: bool = True,
    ) -> Arrays:
        """Measure the cells: a dict of columns, (n,) each, in the order of the labels.

        ``pandas.DataFrame(result.table())`` turns it into a data frame. All columns are measured in the label map,
        except ``mask_area_px``, which counts the pixels of the mask before overlaps are resolved.

        Args:
            image: (H, W) or (H, W, C), any real dtype and number of channels; adds the intensity columns.
            pixel_size_um: side of a pixel in micrometres; adds ``area_um2``.
            channels: names of the image's channels for the intensity columns; default, numbers from 0.
            shapes: measure ``perimeter_px`` and ``eccentricity``, which takes about half a millisecond per cell.

        Returns:
            - ``label``: int64, 1..n.
            - ``x0``, ``y0``, ``x1``, ``y1``: float64, the detector's box clipped to the image; pixels, edge to edge.
            - ``score``, ``iou_prediction``: float32; see ``scores`` and ``iou_predictions``.
            - ``mask_area_px``, ``label_area_px``: int64, pixels.
            - ``centroid_y``, ``centroid_x``: float64 pixels; 0 is the centre of the first pixel.
            - ``area_um2``: float64, ``label_area_px`` in square micrometres.
            - ``perimeter_px``, ``eccentricity``: float64; see ``runtime.ops.measure.shapes``.
            - ``intensity_mean``, ``intensity_median``, ``intensity_min``, ``intensity_max``: float64, in the units of
              the image; suffixed with ``_NAME`` for each channel of an (H, W, C) image or if ``channels`` is given.

        Raises:
            InputError: the image has another size or an unsupported dtype, or the number of names does not fit.
            ConfigError: the pixel size is not a positive number.

        Source: scikit-image, ``skimage.measure.regionprops_table``, for shapes and intensities.
        """
        check_pixel_size(pixel_size_um)
        if image is not None:
            image = measure.check_measured(image, self.labels.shape)
        height, width = self.labels.shape
        table: Arrays = {"label": np.arange(1, len(self) + 1), **self.columns((height, width))}
        table |= measure.areas(self.labels)
        if pixel_size_um is not None:
            table["area_um2"] = table["label_area_px"] * float(pixel_size_um) ** 2
        if shapes:
            table |= measure.shapes(self.labels)
        if image is not None:
            table |= measure.intensities(self.labels, image, channels)
        return table

    def __repr__(self) -> str:
        height, width = self.labels.shape
        cells = "1 cell" if len(self) == 1 else f"{len(self)} cells"
        return f"Segmentation({cells}, {height} x {width} pixels, {len(self.hidden)} hidden)"


def checked_rows(rows: Rows, count: int) -> I64:
    """Return the indices (M,) int64 in [0, count) of the rows that a slice, a boolean mask or indices select.

    Raises:
        InputError: a mask has another length, an index is out of range or repeated, or the selection is invalid.
    """
    if isinstance(rows, slice):
        return np.arange(count)[rows]
    try:
        given = np.asarray(rows)
    except ValueError as error:  # sequences of several lengths
        raise InputError(f"index cannot be read as an array ({error}); {_INDEX_HELP}") from error
    if given.ndim != 1 or (given.size and given.dtype.kind not in "biu"):
        raise InputError(f"index has shape {given.shape} and dtype {given.dtype}; {_INDEX_HELP}")
    if given.dtype.kind == "b":
        if len(given) != count:
            raise InputError(f"mask has {len(given)} entries; expected {count}, one per cell. {_MASK_HELP}")
        return np.flatnonzero(given)
    indices = given.astype(np.int64)
    if (wrong := indices[(indices < -count) | (indices >= count)]).size:
        raise InputError(
            f"index {wrong[0]} is out of range; expected {-count} to {count - 1} for {count} cells. The cell "
            "with label n has index n - 1."
        )
    indices[indices < 0] += count
    if len(np.unique(indices)) < len(indices):
        raise InputError("an index occurs twice; expected each cell once. Pass the indices through numpy.unique.")
    return indices


_INDEX_HELP = "expected a slice, a boolean mask or a list of indices. For cell i alone, write result[[i]]."
_MASK_HELP = "Build the mask from arrays of this result, such as result.scores > 0.5."
