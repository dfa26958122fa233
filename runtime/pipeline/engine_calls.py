"""Batched calls of the three engines: images to features, features to boxes, boxes to mask logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.engines.backends.base import ON_GPU, Engine
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.manifest import EngineName, Manifest
from runtime.errors import BackendError, OutOfMemoryError
from runtime.ops.boxes import LOGITS_PER_TOKEN, scale_xyxy, token_windows
from runtime.ops.model_input import BranchInputs
from runtime.pipeline.encoded import Candidates, EncodedBatch, EncodedView
from runtime.types import F32, F64, I64, Tensor, Tensors

IMAGES_ON_CPU, BOXES_ON_CPU = 1, 16
"""Images and boxes per engine call on a CPU, unless the caller sets other numbers."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def per_call(backend: str, images: int | None, boxes: int | None) -> tuple[int, int]:
    """Return the most images and boxes per engine call; None selects the default of the backend."""
    default = (IMAGES_ON_GPU, BOXES_ON_GPU) if backend in ON_GPU else (IMAGES_ON_CPU, BOXES_ON_CPU)
    return images or default[0], boxes or default[1]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Boxes with the same window size, decoded in one call. Arrays have one entry for each of the K boxes."""

    view: I64
    """Index of each box's view among the views."""
    index: I64
    """Index of each box among the boxes of its view."""
    origin: I64
    """First token (row, column) of each window, (K, 2)."""
    side: int
    """Side of the windows, in tokens."""

    def part(self, members: slice) -> _Chunk:
        """Return some of the boxes."""
        return _Chunk(self.view[members], self.index[members], self.origin[members], self.side)


@dataclass(frozen=True, slots=True)
class DecodedMasks:
    """Output of the decoder for masks of one view. Arrays have one entry for each of the K boxes."""

    index: I64
    """Index of each box among the boxes of its view."""
    logits: F32
    """(K, h, w), one window per mask."""
    origins: I64
    """(K, 2), first logit (y, x) of each window in the map of the whole view."""
    iou_predictions: F32
    """The decoder's own estimates, not clamped."""

    def renumbered(self, index: I64) -> DecodedMasks:
        """Return the same masks with other indices of their boxes, (K,)."""
        return DecodedMasks(index, self.logits, self.origins, self.iou_predictions)

    def part(self, members: NDArray[np.bool_]) -> DecodedMasks:
        """Return some of the masks."""
        if members.all():
            return self
        return DecodedMasks(
            self.index[members], self.logits[members], self.origins[members], self.iou_predictions[members]
        )


class EngineCalls:
    """Runs the engines of one directory. Keeps no state between calls, so threads may share it.

    If a call runs out of memory, it is halved until it fits.
    """

    def __init__(
        self, engines: Mapping[EngineName, Engine], manifest: Manifest, *, images_per_call: int, boxes_per_call: int
    ) -> None:
        """Store loaded engines.

        Args:
            engines: engines by name.
            manifest: manifest of their directory.
            images_per_call, boxes_per_call: the most images and boxes per call; the engines may lower them.
        """
        self.engines, self._manifest = dict(engines), manifest
        encoders = [engine for name, engine in engines.items() if name.endswith("encoder")]
        limits = (engine.max_size("pixel_values") for engine in encoders)
        self.images_per_call = min([images_per_call, *(limit for limit in limits if limit is not None)])
        limit = engines["mask_decoder"].max_size("boxes_xyxy_model")
        self.boxes_per_call = boxes_per_call if limit is None else min(boxes_per_call, limit)
        self._closed = False

    def close(self) -> None:
        """Release the engines; later calls raise ``BackendError``. No call may be running."""
        self._closed = True
        for engine in self.engines.values():
            engine.close()

    def _engine(self, name: EngineName) -> Engine:
        self._check_open()
        return self.engines[name]

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the engines were released by close(); expected open ones. Create a new Segmenter.")

    def encode(
        self,
        inputs: BranchInputs,
        sizes_hw: Sequence[tuple[int, int]],
        frames_hw: Sequence[tuple[int, int]] | None = None,
    ) -> list[EncodedView]:
        """Encode views, several per call.

        Args:
            inputs: model inputs of B views, (B, 3, S, S) each.
            sizes_hw: sizes of the views.
            frames_hw: see ``EncodedView``; default, the sizes.
        """
        frames = frames_hw or sizes_hw

        def run(members: Sequence[int]) -> list[EncodedView]:
            batch = self._encode_together(inputs.part(slice(members[0], members[-1] + 1)))
            return [EncodedView(batch, index, sizes_hw[i], frames[i]) for index, i in enumerate(members)]

        step = self.images_per_call
        groups = [range(i, min(i + step, len(sizes_hw))) for i in range(0, len(sizes_hw), step)]
        return [encoded for group in groups for encoded in _halved(run, group)]

    def _encode_together(self, inputs: BranchInputs) -> EncodedBatch:
        outputs = self._engine("encoder").run({"pixel_values": inputs.mask}, keep=("image_embedding", "patch_features"))
        embedding = outputs["image_embedding"]
        if inputs.box is None:
            return EncodedBatch(embedding, None)
        name: EngineName = "detector_encoder" if self._manifest.trunk == "separate" else "encoder"
        if name == "detector_encoder" or inputs.box is not inputs.mask:
            outputs = self._engine(name).run({"pixel_values": inputs.box}, keep=("patch_features",))
        return EncodedBatch(embedding, outputs["patch_features"])

    def detect(self, views: Sequence[EncodedView]) -> list[Candidates]:
        """Run the detector on all views; views that were encoded together share a call."""
        done: dict[EncodedBatch, list[Candidates]] = {}
        for batch in (view.batch for view in views):
            assert batch.patch_features is not None, "the caller checks this"
            if batch not in done:
                run = partial(self._detect_part, batch.patch_features)
                done[batch] = _halved(run, range(batch.patch_features.shape[0]))
        return [done[view.batch][view.index] for view in views]

    def _detect_part(self, features: Tensor, members: Sequence[int]) -> list[Candidates]:
        """Detect candidates in some of the views that were encoded together."""
        if len(members) < features.shape[0]:  # a tensor on the device cannot be sliced there
            features = np.asarray(features)[members[0] : members[-1] + 1]
        outputs = self._engine("cellfinder")({"patch_features": features})
        return [Candidates(*both) for both in zip(outputs["boxes_cxcywh_norm"], outputs["logits"], strict=True)]

    def decode(
        self, views: Sequence[EncodedView], boxes: Sequence[F64], *, full: bool
    ) -> Iterator[tuple[int, DecodedMasks]]:
        """Yield the masks of all boxes with the index of their view, some at a time and in any order.

        Args:
            views: the views.
            boxes: boxes of each view, (K, 4) xyxy, pixels of the view.
            full: decode whole masks instead of windows around the boxes.
        """
        self._check_open()  # without boxes no engine is called, which would check it
        size, grid = self._manifest.image_size, self._manifest.grid_size
        in_model = [
            scale_xyxy(b, view.frame_hw, (size, size)).astype(np.float32) for b, view in zip(boxes, views, strict=True)
        ]
        windows = [token_windows(b, size, grid, full=full) for b in in_model]

        embeddings = _Embeddings(views)
        for chunk in self._chunks(windows, views):
            run = partial(self._decode_part, chunk, embeddings, in_model)
            yield from _halved(run, range(len(chunk.index)))

    def _decode_part(
        self, chunk: _Chunk, embeddings: _Embeddings, in_model: list[F32], members: Sequence[int]
    ) -> list[tuple[int, DecodedMasks]]:
        part = chunk.part(slice(members[0], members[-1] + 1))
        return list(self._decode_together(part, embeddings, in_model))

    def _chunks(self, windows: list[tuple[I64, I64]], views: Sequence[EncodedView]) -> Iterator[_Chunk]:
        """Group the boxes of all views by window size into calls of at most ``boxes_per_call``.

        Embeddings on a device cannot be concatenated, so there only views that were encoded together share calls.
        """
        if not windows:
            return
        view = np.concatenate([np.full(len(side), i, np.int64) for i, (_, side) in enumerate(windows)])
        index = np.concatenate([np.arange(len(side), dtype=np.int64) for _, side in windows])
        origin = np.concatenate([o for o, _ in windows])
        sides = np.concatenate([s for _, s in windows])
        batches = [None if isinstance(view.batch.image_embedding, np.ndarray) else view.batch for view in views]
        batch = np.array([batches.index(b) for b in batches], np.int64)[view]
        for side, first in sorted(set(zip(sides.tolist(), batch.tolist(), strict=True))):
            members = np.flatnonzero((sides == side) & (batch == first))
            for start in range(0, len(members), self.boxes_per_call):
                part = members[start : start + self.boxes_per_call]
                yield _Chunk(view[part], index[part], origin[part], side)

    def _decode_together(
        self, chunk: _Chunk, embeddings: _Embeddings, in_model: list[F32]
    ) -> Iterator[tuple[int, DecodedMasks]]:
        """Run the mask decoder once; each embedding it needs is sent once."""
        needed, place = np.unique(chunk.view, return_inverse=True)
        embedding, rows = embeddings.of(needed)
        tokens = np.arange(chunk.side)
        outputs = self._checked(
            {
                "image_embedding": embedding,
                "image_index": rows[place],
                "boxes_xyxy_model": np.stack([in_model[i][j] for i, j in zip(chunk.view, chunk.index, strict=True)]),
                "window_rows": chunk.origin[:, :1] + tokens,
                "window_cols": chunk.origin[:, 1:] + tokens,
            }
        )
        masks = DecodedMasks(
            chunk.index, outputs["mask_logits"], chunk.origin * LOGITS_PER_TOKEN, outputs["iou_predictions"]
        )
        for view in needed.tolist():
            yield view, masks.part(chunk.view == view)

    def _checked(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        outputs = self._engine("mask_decoder")(feeds)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise BackendError(
                "the mask decoder returned NaN or infinite values; expected finite ones. The engine's precision does "
                "not suit these weights: run 'cellsam-engine verify', or 'cellsam-engine export --precision fp32'."
            )
        return outputs


class _Embeddings:
    """The embeddings of several views, for calls of the mask decoder that need some of them."""

    def __init__(self, views: Sequence[EncodedView]) -> None:
        self._views = views
        self._stacked: NDArray[Any] | None = None

    def of(self, needed: I64) -> tuple[Tensor, I64]:
        """Return a tensor with the embeddings of some views, and the index of each in it.

        Args:
            needed: (V,) indices of views, in ascending order.
        """
        chosen = [self._views[i] for i in needed.tolist()]
        batches = {view.batch for view in chosen}
        if len(batches) == 1:  # encoded together, or one view
            return batches.pop().image_embedding, np.array([view.index for view in chosen], np.int64)
        if self._stacked is None:
            # Copied once for all calls, most of which need neighbouring views.
            self._stacked = np.concatenate(
                [np.asarray(view.batch.image_embedding)[view.index : view.index + 1] for view in self._views]
            )
        first, last = int(needed[0]), int(needed[-1])
        if last - first < len(needed):
            return self._stacked[first : last + 1], needed - first
        return self._stacked[needed], np.arange(len(needed))


def _halved(run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """Run on all items at once or, if memory runs out, on each half.

    Raises:
        OutOfMemoryError: a single item does not fit.
    """
    try:
        return run(items)
    except OutOfMemoryError:
        if len(items) == 1:
            raise
    half = len(items) // 2
    return _halved(run, items[:half]) + _halved(run, items[half:])
