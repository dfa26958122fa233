"""Comparison of the composed model with ``Segmenter`` on the sample images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.bioimageio.compose import IMAGE, LABELS, view_settings
from export.errors import VerificationError
from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from runtime.segmenter import Segmenter
from runtime.types import F32, I32
from training.evaluation.matching import find_overlaps, matched_cells

LEAST_IOU = 0.99
"""Least mean IoU of matched cells, and least share of cells with a match."""


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Labels of one sample image by the composed model, compared with those of ``Segmenter`` in one view."""

    name: str
    image: F32
    """(1, C, S, S)."""
    labels: I32
    """(1, 1, S, S), by the composed model."""
    cells: int
    """Cells that ``Segmenter`` found."""
    matched: int
    """Pairs of cells with an IoU of at least 0.5."""
    mean_iou: float
    """Mean IoU of these pairs; 1 without pairs."""
    differing_px: int
    """Pixels with another label."""

    @property
    def passed(self) -> bool:
        """Whether the differences are negligible."""
        found = max(self.cells, int(self.labels.max()))
        return self.mean_iou >= LEAST_IOU and self.matched >= LEAST_IOU * found

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.matched} of {self.cells} cells match, mean IoU {self.mean_iou:.4f}, "
            f"{self.differing_px} of {self.labels.size} pixels differ"
        )


def compare(model: onnx.ModelProto, directory: Path, names: Sequence[str] | None = None) -> list[Agreement]:
    """Segment sample images with the composed model and with ``Segmenter``.

    Args:
        model: the composed model.
        directory: the engines that it was composed of.
        names: names of the images; default, all.

    Raises:
        VerificationError: the results differ.
    """
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    _, channels, side, _ = session.get_inputs()[0].shape
    with Segmenter(directory, backend="cpu") as segmenter:
        found = [_compared(session, segmenter, *given) for given in _samples(channels, side, names)]
    if wrong := [str(one) for one in found if not one.passed]:
        raise VerificationError(
            f"the composed model and Segmenter disagree: {'; '.join(wrong)}. Expected a mean IoU of at least "
            f"{LEAST_IOU}. Please report this with the versions of onnx and onnxruntime."
        )
    return found


def _compared(session: onnxruntime.InferenceSession, segmenter: Segmenter, name: str, image: F32) -> Agreement:
    (labels,) = session.run([LABELS], {IMAGE: image})
    expected = segmenter(np.moveaxis(image[0], 0, -1), config=view_settings(segmenter.manifest))
    pairs = matched_cells(find_overlaps(expected.labels, labels[0, 0]))
    return Agreement(
        name,
        image,
        labels,
        cells=len(expected),
        matched=pairs.pairs,
        mean_iou=pairs.iou_sum / pairs.pairs if pairs.pairs else 1.0,
        differing_px=int(np.count_nonzero(labels[0, 0] != expected.labels)),
    )


def _samples(channels: int, side: int, names: Sequence[str] | None) -> Iterator[tuple[str, F32]]:
    """Yield the first channel of each sample image, cropped or reflected to the side; further channels are mirrored."""
    for path in sample_images():
        if names is not None and path.stem not in names:
            continue
        image = np.asarray(read_image(path))
        plane: NDArray[np.generic] = (image if image.ndim == 2 else image[..., 0])[:side, :side]
        plane = np.pad(plane, [(0, side - length) for length in plane.shape], mode="reflect")
        planes = (plane, plane[::-1], plane[:, ::-1])[:channels]
        yield path.stem, np.stack(planes)[None].astype(np.float32)
