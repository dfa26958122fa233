"""The three engines, called on batches: images into features, features into boxes, boxes into mask logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.engines.backends.base import Engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.errors import BackendError, OutOfMemoryError
from runtime.ops.boxes import LOGITS_PER_TOKEN, scale_xyxy, token_windows
from runtime.ops.preprocess import BranchInputs
from runtime.results import EncodedImage
from runtime.types import F32, F64, I64, Tensor, Tensors

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Boxes that share a window size, decoded in one call. Arrays run over the K boxes of the chunk."""

    image: I64
    """Place of each box's image in the batch."""
    index: I64
    """Place of each box among its image's boxes."""
    origin: I64
    """First token (row, column) of each window, (K, 2)."""
    side: int
    """Tokens per side of the windows."""

    def part(self, members: slice) -> _Chunk:
        """Some of its boxes."""
        return _Chunk(self.image[members], self.index[members], self.origin[members], self.side)


@dataclass(frozen=True, slots=True)
class DecodedMasks:
    """Masks of one image as the decoder gives them. Arrays run over K boxes."""

    index: I64
    """Place of each box among its image's boxes."""
    logits: F32
    """(K, h, w), a window each."""
    origins: I64
    """(K, 2), first logit (y, x) of each window in the map of the whole image."""
    iou_predictions: F32
    """The decoder's own estimates, not clamped."""

    def part(self, members: NDArray[np.bool_]) -> DecodedMasks:
        """Some of them."""
        if members.all():
            return self
        return DecodedMasks(
            self.index[members], self.logits[members], self.origins[members], self.iou_predictions[members]
        )


class Chain:
    """Runs the engines of one directory. Keeps no state between calls, so threads may share it.

    Where memory runs out, a call is halved until it fits.
    """

    def __init__(
        self, engines: Mapping[EngineName, Engine], manifest: Manifest, *, images_per_call: int, boxes_per_call: int
    ) -> None:
        """Args: images_per_call, boxes_per_call: most images and boxes of one engine call, where engines take them."""
        self.engines, self._manifest = engines, manifest
        encoders = [engine for name, engine in engines.items() if name.endswith("encoder")]
        self._most_images = min((most for engine in encoders if (most := engine.most("pixel_values"))), default=None)
        self.limit_images(images_per_call)
        self._boxes_per_call = min(boxes_per_call, engines["mask_decoder"].most("boxes_xyxy_model") or boxes_per_call)

    def limit_images(self, count: int) -> None:
        """Encode at most so many images in a call, or as many as the encoders take if those are fewer."""
        self.images_per_call = count if self._most_images is None else min(count, self._most_images)

    def encode(self, inputs: Sequence[BranchInputs], sizes_hw: Sequence[tuple[int, int]]) -> list[EncodedImage]:
        """Encode images, several in a call.

        Args:
            inputs: model inputs of the images; either all or none have one for the box branch.
            sizes_hw: sizes of the images.
        """
        pairs = list(zip(inputs, sizes_hw, strict=True))
        groups = [pairs[i : i + self.images_per_call] for i in range(0, len(pairs), self.images_per_call)]
        return [encoded for group in groups for encoded in _halved(self._encode_together, group)]

    def _encode_together(self, group: Sequence[tuple[BranchInputs, tuple[int, int]]]) -> list[EncodedImage]:
        mask = np.stack([inputs.mask for inputs, _ in group])
        outputs = self.engines["encoder"].run({"pixel_values": mask}, keep=("image_embedding", "patch_features"))
        features: Tensor | None = None
        if group[0][0].box is not None:
            name: EngineName = "detector_encoder" if self._manifest.trunk == "separate" else "encoder"
            if name == "encoder" and all(inputs.box is inputs.mask for inputs, _ in group):
                features = outputs["patch_features"]
            else:
                box = np.stack([inputs.box for inputs, _ in group])  # type: ignore[misc]
                features = self.engines[name].run({"pixel_values": box}, keep=("patch_features",))["patch_features"]
        return [
            EncodedImage(size_hw, outputs["image_embedding"], features, index)
            for index, (_, size_hw) in enumerate(group)
        ]

    def detect(self, encoded: Sequence[EncodedImage]) -> list[tuple[F32, F32]]:
        """All candidates of every image: boxes (A, 4) cxcywh, fractions of the sides, and logits (A, classes).

        Images that were encoded together are looked at together.
        """
        done: dict[int, list[tuple[F32, F32]]] = {}
        for image in encoded:
            assert image.patch_features is not None, "the caller checks it"
            if id(image.patch_features) not in done:
                run = partial(self._detect_part, image.patch_features)
                done[id(image.patch_features)] = _halved(run, range(image.patch_features.shape[0]))
        return [done[id(image.patch_features)][image.index] for image in encoded]

    def _detect_part(self, features: Tensor, members: Sequence[int]) -> list[tuple[F32, F32]]:
        """Candidates of some of the images that were encoded together."""
        if len(members) < features.shape[0]:  # part of a tensor on a device cannot be taken there
            features = np.asarray(features)[members[0] : members[-1] + 1]
        outputs = self.engines["cellfinder"]({"patch_features": features})
        return list(zip(outputs["boxes_cxcywh_norm"], outputs["logits"], strict=True))

    def decode(
        self, encoded: Sequence[EncodedImage], boxes: Sequence[F64], *, full: bool
    ) -> Iterator[tuple[int, DecodedMasks]]:
        """Yield the masks of every box, with the place of their image; in any order, some at a time.

        Args:
            encoded: the images.
            boxes: of each image, (K, 4) xyxy, image pixels.
            full: decode whole masks instead of windows around the boxes.
        """
        size, grid = self._manifest.image_size, self._manifest.grid_size
        in_model = [
            scale_xyxy(b, image.size_hw, (size, size)).astype(np.float32)
            for b, image in zip(boxes, encoded, strict=True)
        ]
        windows = [token_windows(b, size, grid, full=full) for b in in_model]

        for chunk in self._chunks(windows, encoded):
            run = partial(self._decode_part, chunk, encoded, in_model)
            yield from _halved(run, range(len(chunk.index)))

    def _decode_part(
        self, chunk: _Chunk, encoded: Sequence[EncodedImage], in_model: list[F32], members: Sequence[int]
    ) -> list[tuple[int, DecodedMasks]]:
        part = chunk.part(slice(members[0], members[-1] + 1))
        return list(self._decode_together(part, encoded, in_model))

    def _chunks(self, windows: list[tuple[I64, I64]], encoded: Sequence[EncodedImage]) -> Iterator[_Chunk]:
        """Group the boxes of all images by window size into calls of at most ``boxes_per_call``.

        Embeddings on a device cannot be put together, so there only images that were encoded together share calls.
        """
        if not windows:
            return
        image = np.concatenate([np.full(len(side), i, np.int64) for i, (_, side) in enumerate(windows)])
        index = np.concatenate([np.arange(len(side), dtype=np.int64) for _, side in windows])
        origin = np.concatenate([o for o, _ in windows])
        sides = np.concatenate([s for _, s in windows])
        batches = [0 if isinstance(e.image_embedding, np.ndarray) else id(e.image_embedding) for e in encoded]
        batch = np.array([batches.index(b) for b in batches], np.int64)[image]
        for side, first in sorted(set(zip(sides.tolist(), batch.tolist(), strict=True))):
            members = np.flatnonzero((sides == side) & (batch == first))
            for start in range(0, len(members), self._boxes_per_call):
                part = members[start : start + self._boxes_per_call]
                yield _Chunk(image[part], index[part], origin[part], side)

    def _decode_together(
        self, chunk: _Chunk, encoded: Sequence[EncodedImage], in_model: list[F32]
    ) -> Iterator[tuple[int, DecodedMasks]]:
        """One call of the mask decoder; the images it needs are sent once each."""
        images, place = np.unique(chunk.image, return_inverse=True)
        tensors = {id(encoded[i].image_embedding): encoded[i].image_embedding for i in images}
        if len(tensors) == 1:  # encoded together, or one image
            (embedding,) = tensors.values()
            place = np.array([encoded[i].index for i in images])[place]
        else:
            embedding = np.concatenate([np.asarray(encoded[i].image_embedding)[[encoded[i].index]] for i in images])
        tokens = np.arange(chunk.side)
        outputs = self._checked(
            {
                "image_embedding": embedding,
                "image_index": place.astype(np.int64),
                "boxes_xyxy_model": np.stack([in_model[i][j] for i, j in zip(chunk.image, chunk.index, strict=True)]),
                "window_rows": chunk.origin[:, :1] + tokens,
                "window_cols": chunk.origin[:, 1:] + tokens,
            }
        )
        masks = DecodedMasks(
            chunk.index, outputs["mask_logits"], chunk.origin * LOGITS_PER_TOKEN, outputs["iou_predictions"]
        )
        for image in images.tolist():
            yield image, masks.part(chunk.image == image)

    def _checked(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        outputs = self.engines["mask_decoder"](feeds)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise BackendError(
                "the mask decoder gave NaN or infinite values: the engine's precision does not suit these weights. "
                "Run 'cellsam-engine verify', or export with --precision fp32."
            )
        return outputs


def _halved(run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """Run on all items at once or, where memory runs out, on both halves.

    Raises:
        OutOfMemoryError: one item alone does not fit.
    """
    try:
        return run(items)
    except OutOfMemoryError:
        if len(items) == 1:
            raise
    half = len(items) // 2
    return _halved(run, items[:half]) + _halved(run, items[half:])
