"""Requests to the Python model: the image, the boxes and the settings in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig, with_overrides
from runtime.errors import ConfigError, InputError
from runtime.ops.boxes import check_boxes
from runtime.ops.preprocess import check_image
from runtime.triton.model_config import BOXES, IMAGE
from runtime.types import F64

SETTINGS = tuple(field.name for field in fields(SegmentConfig))
"""Request parameters: the settings of a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The content of one request."""

    image: NDArray[np.generic]
    """(H, W, C)."""
    boxes: F64 | None
    """(K, 4) xyxy, image pixels; None detects the cells."""
    config: SegmentConfig


def read_request(utils: Any, request: Any, defaults: SegmentConfig) -> Asked:
    """Read one request, so that an unsuitable image fails alone and not the requests beside it.

    Args:
        utils: the module ``triton_python_backend_utils``.
        request: its ``InferenceRequest``.
        defaults: settings that the request's parameters override.

    Raises:
        InputError: the image or the boxes cannot be used.
        ConfigError: a parameter is not a setting, or is out of range.
    """
    config = read_settings(request.parameters(), defaults)
    image = _single(IMAGE, utils.get_input_tensor_by_name(request, IMAGE).as_numpy())
    checked = check_image(image)
    given = utils.get_input_tensor_by_name(request, BOXES)
    boxes = None if given is None else check_boxes(_single(BOXES, given.as_numpy()), checked.shape[:2])
    return Asked(checked, boxes, config)


def read_settings(parameters: str, defaults: SegmentConfig) -> SegmentConfig:
    """Override settings by the parameters of a request.

    Args:
        parameters: a JSON object. Triton's parameters are booleans, whole numbers and strings, so strings may hold
            numbers.
        defaults: the settings of the model.

    Raises:
        ConfigError: a parameter is not a setting, or is out of range.
    """
    given = json.loads(parameters or "{}")
    if unknown := sorted(set(given) - set(SETTINGS)):
        raise ConfigError(
            f"parameter {unknown[0]!r} is unknown; expected one of {', '.join(SETTINGS)}. Leave it out.",
            field=unknown[0],
        )
    return with_overrides(defaults, {name: _value(value) for name, value in given.items()})


def _value(value: Any) -> Any:
    """Convert a string that holds a JSON number, boolean or null; keep any other value."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _single(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Remove the batch axis.

    Raises:
        InputError: its length is not 1.
    """
    if array.ndim < 1 or array.shape[0] != 1:
        raise InputError(
            f"{name} has shape {array.shape}; expected a first axis of length 1. Send one request per image: the "
            "server batches requests.",
            kind="wrong_shape",
            field=name,
        )
    return array[0]  # type: ignore[no-any-return]
