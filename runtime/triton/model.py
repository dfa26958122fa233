"""The Python model of the repository: chains the networks, and pools the boxes of concurrent requests.

Triton calls ``execute`` with all requests that waited together. Their images share encoder calls, and their boxes share
decoder calls. Results equal those of separate requests.

Source: triton-inference-server/python_backend ``README.md``, sections "Usage" and "Error Handling".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.config import SegmentConfig
from runtime.engines.manifest import Manifest, read_manifest, takes_boxes
from runtime.errors import ConfigError, InputError, SegmenterError
from runtime.pipeline.pipeline import Pipeline
from runtime.pipeline.warm_up import compile_loops
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.triton.bls import BlsEngine
from runtime.triton.model_config import CELL_BOXES, LABELS, SCORES
from runtime.triton.repository import OPTIONS_NAME, network_name
from runtime.triton.requests import Asked, read_request
from runtime.types import Arrays

_log = logging.getLogger(__name__)


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the manifest and compile the loops; the networks load beside this model.

        Args:
            args: Triton's description of the model: its name, version and directory.

        Raises:
            EngineError: the manifest is missing or damaged.
        """
        import triton_python_backend_utils  # exists only inside Triton

        self._utils: Any = triton_python_backend_utils
        directory = Path(args["model_repository"]) / args["model_version"]
        manifest = read_manifest(directory)
        limits = json.loads((directory / OPTIONS_NAME).read_text(encoding="utf-8"))
        engines = {
            name: BlsEngine(
                self._utils,
                network_name(args["model_name"], name),
                spec,
                {"boxes_xyxy_model": limits["max_boxes"]}
                if takes_boxes(spec.inputs)
                else {spec.inputs[0].name: limits["max_batch"]},
            )
            for name, spec in manifest.engines.items()
        }
        self._segmenter = Segmenter.from_pipeline(_pipeline(engines, manifest, limits))
        compile_loops(self._segmenter.config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Segment the images of all requests; return one response per request, in order."""
        responses: list[Any] = [None] * len(requests)
        asked: dict[int, Asked] = {}
        for place, request in enumerate(requests):
            one = self._read(request)
            if isinstance(one, Asked):
                asked[place] = one
            else:
                responses[place] = self._answer(one)
        for group in _alike(asked):
            for place, result in zip(group, self._segmented([asked[place] for place in group]), strict=True):
                responses[place] = self._answer(result)
        return responses

    def finalize(self) -> None:
        """Release the segmenter; Triton unloads the networks itself."""
        self._segmenter.close()

    def _read(self, request: Any) -> Asked | SegmenterError:
        try:
            return read_request(self._utils, request, self._segmenter.config)
        except SegmenterError as error:
            return error

    def _segmented(self, asked: Sequence[Asked]) -> Sequence[Segmentation | SegmenterError]:
        """Segment images together or, if that fails, one by one, so that an image fails alone."""
        boxes = [one.boxes for one in asked if one.boxes is not None]
        try:
            images = [one.image for one in asked]
            return self._segmenter.batch(images, boxes=boxes or None, config=asked[0].config)
        except SegmenterError as error:
            if len(asked) == 1:
                return [error]
            _log.warning("%d requests failed together and are repeated one by one: %s", len(asked), error)
        return [result for one in asked for result in self._segmented([one])]

    def _answer(self, result: Segmentation | SegmenterError) -> Any:
        if isinstance(result, SegmenterError):
            codes = self._utils.TritonError
            code = codes.INVALID_ARG if isinstance(result, InputError | ConfigError) else codes.INTERNAL
            return self._utils.InferenceResponse(error=self._utils.TritonError(str(result), code))
        tensors: Arrays = {LABELS: result.labels, CELL_BOXES: result.boxes, SCORES: result.scores}
        outputs = [self._utils.Tensor(name, np.ascontiguousarray(array[None])) for name, array in tensors.items()]
        return self._utils.InferenceResponse(output_tensors=outputs)


def _pipeline(engines: Mapping[Any, BlsEngine], manifest: Manifest, limits: Mapping[str, int]) -> Pipeline:
    return Pipeline(
        engines,
        manifest,
        backend="triton",
        images_per_call=limits["max_batch"],
        boxes_per_call=limits["max_boxes"],
    )


def _alike(asked: Mapping[int, Asked]) -> list[list[int]]:
    """Group requests that one call can segment: those with equal settings, with or without boxes."""
    groups: dict[tuple[SegmentConfig, bool], list[int]] = {}
    for place, one in asked.items():
        groups.setdefault((one.config, one.boxes is not None), []).append(place)
    return list(groups.values())
