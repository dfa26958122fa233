"""The model in the form that sopa, Harpy and LazySlide call. Needs none of these packages.

Methods can be pickled, because sopa and Harpy may run them in other processes; each process loads the engines once.

Sources: gustaveroussy/sopa ``sopa/segmentation/methods/_custom.py`` and ``sopa/segmentation/stainings.py``;
saeyslab/harpy ``harpy/image/segmentation/_segmentation.py``; rendeirolab/LazySlide ``lazyslide_models/base.py``
(``SegmentationModelProtocol``) and ``lazyslide/segmentation/_seg_runner.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig, with_overrides
from runtime.errors import InputError
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.types import I32

Model = TypeVar("Model", bound="LazySlideModel")

_MAX_CHANNELS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatialMethod:
    """A segmenter by its specification."""

    spec: SegmenterSpec = field(default_factory=SegmenterSpec)
    """The engines; default, the built-in model."""
    config: SegmentConfig | None = None
    """Settings; default, those of the engines. Pixel sizes are unknown here, so give diameters in pixels."""

    def _labels(self, image: NDArray[np.generic], **settings: Any) -> I32:
        """Segment one image, (H, W, C), and return its labels, (H, W)."""
        segmenter = loaded_segmenter(self.spec)
        return segmenter(image, config=with_overrides(self.config or segmenter.config, settings)).labels


@dataclass(frozen=True, kw_only=True, slots=True)
class SopaMethod(SpatialMethod):
    """A method for ``sopa.segmentation.custom_staining_based(sdata, method, channels)``.

    Name the nuclear channel before the whole-cell channel. The model normalises the contrast itself, so pass
    ``gaussian_sigma=0`` and ``clip_limit=0`` to sopa.
    """

    def __call__(self, image: NDArray[np.generic]) -> I32:
        """Segment a patch.

        Args:
            image: (C, Y, X), C <= 3.

        Returns:
            Labels (Y, X) int32, 0 is background.

        Raises:
            InputError: the image cannot be used.
        """
        return self._labels(_channels_last(image))


@dataclass(frozen=True, kw_only=True, slots=True)
class HarpyModel(SpatialMethod):
    """A model for ``harpy.im.segment(sdata, image_name, model=...)``."""

    def __call__(self, img: NDArray[np.generic], **settings: Any) -> NDArray[np.uint32]:
        """Segment a block of an image with one plane.

        Args:
            img: (1, Y, X, C), C <= 3.
            settings: fields of ``SegmentConfig``, which Harpy passes on from its own keyword arguments.

        Returns:
            Labels (1, Y, X, 1) uint32, 0 is background.

        Raises:
            InputError: the image has several planes, or cannot be used.
            ConfigError: a setting is outside its range.
        """
        if img.ndim != 4 or img.shape[0] != 1:
            raise InputError(
                f"img has shape {img.shape}; expected (1, Y, X, C): one plane. Segment the planes one by one.",
                kind="wrong_shape",
                field="img",
            )
        return self._labels(img[0], **settings).astype(np.uint32)[None, ..., None]


class LazySlideModel:
    """A model for ``lazyslide.seg.cells(wsi, model=...)``: LazySlide's ``SegmentationModelProtocol``.

    LazySlide's tiles overlap only if it is asked for that (``overlap`` of its tiling), and it drops cells at the border
    of a tile.
    """

    name = "cellsam-engine"

    def __init__(self, method: SpatialMethod | None = None) -> None:
        """Store how to segment a tile; default, with the built-in model."""
        self.model = method or SpatialMethod()

    def get_transform(self) -> None:
        """Return None: tiles arrive as LazySlide reads them."""

    def to(self: Model, device: object) -> Model:
        """Ignore LazySlide's device: the backend decides where the engines run."""
        return self

    def try_compile(self, **settings: Any) -> None:
        """Do nothing: engines are compiled already."""

    def segment(self, image: Any, *args: Any, **settings: Any) -> Any:
        """Segment a batch of tiles.

        Args:
            image: (B, H, W, 3), or (B, 3, H, W) from a transform; an array or a tensor.
            args: ignored.
            settings: fields of ``SegmentConfig``.

        Returns:
            LazySlide's ``SegmentationOutput`` with ``instance_map`` (B, H, W) int32.

        Raises:
            InputError: the tiles cannot be used.
        """
        from lazyslide_models.base import SegmentationOutput

        tiles = np.asarray(image)
        if tiles.ndim != 4:
            raise InputError(
                f"image has shape {tiles.shape}; expected a batch of tiles (B, H, W, 3). Add an axis: image[None].",
                kind="wrong_shape",
                field="image",
            )
        last = tiles.shape[-1] <= _MAX_CHANNELS
        images = list(tiles) if last else [_channels_last(tile) for tile in tiles]
        labels = [self.model._labels(one, **settings) for one in images]
        return SegmentationOutput(instance_map=np.stack(labels))


def _channels_last(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Move the first axis last.

    Raises:
        InputError: there are not one to three channels in three axes.
    """
    if image.ndim != 3 or not 1 <= image.shape[0] <= _MAX_CHANNELS:
        raise InputError(
            f"image has shape {image.shape}; expected (C, Y, X) with C <= {_MAX_CHANNELS}. Choose the nuclear channel "
            "and the whole-cell channel.",
            kind="wrong_shape",
            field="image",
        )
    return np.ascontiguousarray(np.moveaxis(image, 0, -1))
