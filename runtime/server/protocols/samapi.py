"""samapi's dialect, which QuPath's extension for SAM speaks: boxes and whole views to GeoJSON.

The extension sends what its viewer shows as a PNG in base64, with the corners of a rectangle in it, and turns the
features of the answer into annotations. Differences from samapi:

- There is one model: ``type`` is accepted and ignored, and ``checkpoint_url`` must be the address that the list of
  weights gives, so that no other weights are silently replaced.
- Outlines follow the edges of pixels and keep holes and separate parts; samapi gives the longest contour.
- Features have no ``object_idx``, from which the extension would make a class for each cell.
- Points choose among the cells that the detector finds, since the mask decoder takes boxes only.
- The settings of SAM's grid of points have no meaning here, except ``min_mask_region_area``.

Source: ksugar/samapi (BSD-3) ``src/samapi/main.py``; ksugar/qupath-extension-sam ``tasks/SAMDetectionTask.java``,
``tasks/SAMAutoMaskTask.java``, ``tasks/SAMFetchWeightsTask.java``, ``tasks/SAMProgressTask.java`` and ``Utils.java``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from runtime.errors import InputError
from runtime.files.image_results import FileOptions, ReadImage
from runtime.files.outputs.polygons import mask_polygons
from runtime.ops.masks import MaskCrop, label_crops
from runtime.results import Segmentation
from runtime.server.http.failures import RequestError, json_answer
from runtime.server.images.settings import settings_of
from runtime.server.images.uploads import read_checked, stored
from runtime.server.work.service import Reader, Service, result_of

_NOT_FOR_PROMPTS = ("sam3",)
"""Types for which the extension uses other routes: prompts of text."""

Point = tuple[int, int]


class SamImage(BaseModel):
    """Fields of every request; further ones are ignored, since versions of the extension differ."""

    model_config = ConfigDict(extra="ignore")

    type: str = "vit_h"
    b64img: str = Field(description="The image file, PNG or JPEG, in base64.")
    checkpoint_url: str | None = None


class SamPrompt(SamImage):
    """A box or points."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"type": "vit_b", "bbox": [10, 12, 34, 36], "b64img": "iVBOR..."}]},
    )

    bbox: tuple[int, int, int, int] | None = None
    point_coords: list[Point] | None = None
    point_labels: list[int] | None = None
    b64mask: str | None = None
    multimask_output: bool = Field(default=False, description="The answer always has one mask.")


class SamAutoMask(SamImage):
    """A view in which all cells are wanted."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"type": "vit_b", "b64img": "iVBOR...", "min_mask_region_area": 0}]},
    )

    min_mask_region_area: int = Field(default=0, ge=0, le=2**53, description="Smallest cell, pixels, if above 0.")


def samapi_router(service: Service, model: str) -> APIRouter:
    """Build the routes.

    Args:
        service: does the work.
        model: name of the model.
    """
    router = APIRouter(prefix="/sam", tags=["samapi"])
    address = f"cellsam-engine:{model}"

    @router.get("/version/", response_class=PlainTextResponse)
    def program_version() -> str:
        """Return the version of this program."""
        return version("cellsam-engine")

    @router.get("/weights/")
    def weights(type: str | None = None) -> list[dict[str, str]]:
        """List the weights: the served model, for each type that the extension knows."""
        if type in _NOT_FOR_PROMPTS:
            return []
        return [{"type": type or "vit_b", "name": f"{model} (cellsam-engine)", "url": address}]

    @router.post("/weights/")
    def register(_: dict[str, Any]) -> None:
        """Reject further weights."""
        raise RequestError(
            "weights are to be downloaded; expected none, since this server serves one model. Start it with another "
            "engine directory.",
            status=403,
            kind="unsupported",
            field="url",
        )

    @router.get("/weights/cancel/", response_class=PlainTextResponse)
    def cancel() -> str:
        """Report that no download is in progress."""
        return "No download is in progress"

    @router.get("/progress/")
    def progress() -> dict[str, Any]:
        """Report that no download is in progress."""
        return {"message": None, "percent": -1}

    @router.post("/", response_class=Response)
    async def prompt(body: SamPrompt) -> Response:
        """Decode the mask in a box, or return the cells at points."""
        _check_weights(body, address)
        box = _box_of(body)
        with service.queue.slot():
            read = await run_in_threadpool(_reader, body.b64img, service.limits.pixels)
            found = await result_of(service.segment(read, service.segmenter.config, None if box is None else [box]))
            chosen = range(len(found.result)) if box else await run_in_threadpool(_at_points, found.result, body)
            return await run_in_threadpool(_features, found.result, chosen, model)

    @router.post("/automask/", response_class=Response)
    async def automask(body: SamAutoMask) -> Response:
        """Segment all cells of a view."""
        _check_weights(body, address)
        smallest = {"min_area_px": body.min_mask_region_area} if body.min_mask_region_area else {}
        config = settings_of(smallest, service.segmenter.config)
        with service.queue.slot():
            read = await run_in_threadpool(_reader, body.b64img, service.limits.pixels)
            found = await result_of(service.segment(read, config))
            return await run_in_threadpool(_features, found.result, range(len(found.result)), model)

    return router


def _check_weights(body: SamImage, address: str) -> None:
    if body.checkpoint_url not in (None, "", address):
        raise RequestError(
            f"checkpoint_url is {body.checkpoint_url[:200]!r}; expected {address!r}, the only weights of this server. "
            "Choose them in the extension's list of weights.",
            status=404,
            kind="not_found",
            field="checkpoint_url",
        )


def _box_of(body: SamPrompt) -> tuple[int, int, int, int] | None:
    """Return the box of a prompt; None if it has points instead.

    Raises:
        InputError: it has neither, both, or a mask.
    """
    if body.b64mask is not None:
        raise InputError(
            "b64mask is given; expected a box or points. Draw a rectangle.", kind="unsupported", field="b64mask"
        )
    points = body.point_coords or []
    if (body.bbox is None) == (not points):
        raise InputError(
            f"{'both a box and points' if points else 'neither a box nor points'} are given; expected one of them. "
            "Draw a rectangle, without background points.",
            kind="conflict" if points else "missing",
            field="bbox",
        )
    if len(points) != len(body.point_labels or []):
        raise InputError(
            f"point_labels has {len(body.point_labels or [])} entries for {len(points)} points; expected one per "
            "point. Give 1 for foreground, 0 for background.",
            field="point_labels",
        )
    return body.bbox


def _reader(b64img: str, most_px: int) -> Reader:
    """Return a function that reads the image of a request.

    Raises:
        InputError: it is not base64.
    """
    try:
        content = base64.b64decode(b64img, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"b64img is not base64 ({error}); expected an image file in base64. Encode the file's bytes.",
            kind="damaged",
            field="b64img",
        ) from error

    def read() -> ReadImage:
        with stored(content) as path:
            return read_checked(path, FileOptions(largest_px=most_px), inside=path.parent)

    return read


def _at_points(result: Segmentation, body: SamPrompt) -> list[int]:
    """Return the rows of the cells at foreground points that are not at a background point."""
    height, width = result.labels.shape
    found: dict[int, set[int]] = {0: set(), 1: set()}
    for (x, y), kind in zip(body.point_coords or [], body.point_labels or [], strict=True):
        if 0 <= x < width and 0 <= y < height and (label := int(result.labels[y, x])):
            found[min(max(kind, 0), 1)].add(label - 1)
    return sorted(found[1] - found[0])


def _features(result: Segmentation, rows: Iterable[int], model: str) -> Response:
    crops = label_crops(result.labels)
    return json_answer([_feature(crops[row], float(result.iou_predictions[row]), model) for row in rows])


def _feature(crop: MaskCrop, quality: float, model: str) -> dict[str, Any]:
    polygons = mask_polygons(crop.mask, crop.offset_yx)
    several = len(polygons) > 1
    geometry = {
        "type": "MultiPolygon" if several else "Polygon",
        "coordinates": polygons if several else polygons[0],
    }
    properties = {"label": "object", "quality": quality, "sam_model": model}
    return {"type": "Feature", "geometry": geometry, "properties": properties}
