"""``CellposeModel``: the class that scripts import from Cellpose, on these engines.

Source: MouseLand/cellpose, ``cellpose/models.py``, for parameters and return values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cellpose.settings import EvalSettings, chosen_channels, find_engines
from runtime.errors import ConfigError, InputError
from runtime.files.formats import without_copies
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.results import Segmentation

_log = logging.getLogger(__name__)

STYLE_LENGTH = 256

NO_EFFECT = frozenset(
    (
        *("anisotropy", "augment", "batch_size", "bsize", "compute_masks", "do_3D", "flow3D_smooth"),
        *("flow_threshold", "interp", "max_size_fraction", "model_loaded", "net_avg", "niter", "normalize"),
        *("progress", "resample", "rescale", "tile", "tile_overlap", "z_axis", "stitch_threshold"),
    )
)
"""Options of ``eval`` that are accepted and logged: they control how Cellpose turns flows into masks, or stacks."""

_SETTINGS = ("diameter", "cellprob_threshold", "min_size", "invert")


class CellposeModel:
    """Segments images as Cellpose's class of this name is called, with the engines of this package.

    Examples:
        >>> model = CellposeModel(gpu=True)
        >>> masks, flows, styles = model.eval(image, diameter=30, channels=[0, 0])
    """

    def __init__(
        self,
        gpu: bool = False,
        pretrained_model: str | Path | None = None,
        model_type: str | None = None,
        device: object = None,
        **others: object,
    ) -> None:
        """Load the engines.

        Args:
            gpu: run on a GPU if a backend can; the log names the reason if none can.
            pretrained_model: an engine directory, or the name of a model of Cellpose, for which the built-in one runs.
            model_type: another name for ``pretrained_model``, as in Cellpose 2 and 3.
            device: has no effect; for a GPU of another number, set CUDA_VISIBLE_DEVICES.
            others: ``diam_mean``, ``nchan``, ``use_bfloat16`` and ``backbone`` have no effect.

        Raises:
            EngineError: ``pretrained_model`` is neither an engine directory nor a name of Cellpose.
            BackendError: the engines cannot be loaded.
        """
        unknown = others.keys() - {"diam_mean", "nchan", "use_bfloat16", "backbone", "net_avg"}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}")
        if device is not None:
            _log.warning("device has no effect; set gpu=True, and CUDA_VISIBLE_DEVICES for a GPU of another number")
        self._spec = find_engines(pretrained_model or model_type, gpu=gpu)
        self._segmenter = loaded_segmenter(self._spec)
        self.gpu = self._spec.resolved().on_gpu
        self.pretrained_model = str(self._spec.directory)
        self.diam_mean = 30.0

    def eval(self, x: Any, **options: Any) -> tuple[Any, ...]:
        """Segment an image or a list of images.

        Args:
            x: (H, W), (H, W, C) or (C, H, W), any real dtype, or a list of such images.
            options: ``diameter``, ``channels``, ``channel_axis``, ``cellprob_threshold``, ``min_size`` and ``invert``
                as in Cellpose. A list of images takes a list of diameters, or of channels. The others of Cellpose have
                no effect, and the log lists those that are given.

        Returns:
            ``masks``, (H, W) uint16 or uint32; ``flows``, zeros in the shapes of Cellpose's arrays, since these engines
            compute no flows; ``styles``, (256,) zeros, as in Cellpose 4. Lists for a list.

        Raises:
            TypeError: an option is unknown.
            InputError, ConfigError: an image or an option cannot be used.
        """
        self._check_options(options)
        if isinstance(x, list):
            found = [self._eval_one(image, _options_of(options, place, len(x))) for place, image in enumerate(x)]
            return tuple(list(each) for each in zip(*found, strict=True)) if found else ([], [], [])
        return self._eval_one(x, options)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        unknown = options.keys() - {*_SETTINGS, "channels", "channel_axis"} - NO_EFFECT
        if unknown:
            raise TypeError(f"eval has no option {', '.join(sorted(unknown))}")
        idle = sorted(name for name in options.keys() & NO_EFFECT if options[name] not in (None, False))
        if idle:
            _log.warning("no effect here: %s", ", ".join(idle))

    def _eval_one(self, image: Any, options: Mapping[str, Any]) -> tuple[Any, ...]:
        result = self._segment(image, options)
        masks = result.labels.astype(np.uint16 if len(result) < 1 << 16 else np.uint32)
        return masks, empty_flows(masks.shape), np.zeros(STYLE_LENGTH, np.float32)

    def _segment(self, image: Any, options: Mapping[str, Any]) -> Segmentation:
        settings = EvalSettings(**{name: options[name] for name in _SETTINGS if name in options})
        pixels = model_image(image, options.get("channels"), options.get("channel_axis"))
        return self._segmenter(pixels, config=settings.config(self._segmenter.config))


class Cellpose(CellposeModel):
    """The class of Cellpose 1 to 3, whose ``eval`` also returns diameters."""

    def _eval_one(self, image: Any, options: Mapping[str, Any]) -> tuple[Any, ...]:
        result = self._segment(image, options)
        masks = result.labels.astype(np.uint16 if len(result) < 1 << 16 else np.uint32)
        diameter = options.get("diameter") or result.appearance.diameter_px or self.diam_mean
        return masks, empty_flows(masks.shape), np.zeros(STYLE_LENGTH, np.float32), diameter


def empty_flows(size_hw: tuple[int, ...]) -> list[NDArray[Any]]:
    """Return zeros in the shapes of Cellpose's flows.

    Returns:
        The flow as a colour (H, W, 3) uint8, the flow (2, H, W) float32, and the cell probability (H, W) float32.
    """
    return [np.zeros((*size_hw, 3), np.uint8), np.zeros((2, *size_hw), np.float32), np.zeros(size_hw, np.float32)]


def model_image(image: Any, channels: Any = None, channel_axis: int | None = None) -> NDArray[Any]:
    """Move the channels of an image last and choose those that Cellpose's ``channels`` names.

    Args:
        image: (H, W), (H, W, C) or (C, H, W).
        channels: see ``chosen_channels``.
        channel_axis: axis of the channels; default, the shortest of three.

    Raises:
        InputError: the image has another number of axes.
        ConfigError: a channel does not exist.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3:
        raise InputError(
            f"image has shape {pixels.shape}; expected (H, W), (H, W, C) or (C, H, W). Give the planes of a stack as a "
            "list, or segment the file with 'cellsam-engine segment --planes all'.",
            kind="wrong_shape",
        )
    axis = int(np.argmin(pixels.shape)) if channel_axis is None else channel_axis
    if not -3 <= axis < 3:
        raise ConfigError(f"channel_axis is {axis}; expected 0, 1 or 2.", field="channel_axis")
    pixels = np.moveaxis(pixels, axis, -1)
    chosen = chosen_channels(channels, pixels.shape[2])
    if chosen is not None:
        return pixels[..., list(chosen)]
    return without_copies(pixels) if pixels.shape[2] == 3 else pixels


def _options_of(options: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """Return the options of one image of a list: its own diameter and channels, if there is a list of them."""
    own = dict(options)
    diameters, channels = options.get("diameter"), options.get("channels")
    if diameters is not None and np.ndim(diameters) == 1:
        own["diameter"] = _entry("diameter", diameters, place, count)
    if channels is not None and np.ndim(channels) == 2:
        own["channels"] = _entry("channels", channels, 0 if len(channels) == 1 else place, count)
    return own


def _entry(name: str, values: Any, place: int, count: int) -> Any:
    if len(values) not in (1, count):
        raise ConfigError(f"{name} has {len(values)} entries for {count} images; expected one per image.", field=name)
    return values[place]
