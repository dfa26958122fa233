"""Tests of samapi's dialect with the bodies that QuPath's extension for SAM sends.

Source: ksugar/qupath-extension-sam, ``parameters/SAMPromptParameters.java``, ``parameters/SAMAutoMaskParameters.java``
and ``http/HttpUtils.java``. Gson leaves out fields that are null.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from runtime.files.plain import read_image
from runtime.results import Segmentation
from runtime.segmenter import Segmenter

HEADERS = {"accept": "application/json", "Content-Type": "application/json; charset=utf-8"}
WEIGHTS = "cellsam-engine:nano"
BOX = [10, 10, 40, 40]

AUTO_MASK = {
    "points_per_side": 16,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.2,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 0.3413333333333333,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
    "output_type": "Single mask",
    "include_image_edge": False,
    "checkpoint_url": WEIGHTS,
}


@pytest.fixture(scope="module")
def image(images: Path) -> NDArray[Any]:
    return read_image(images / "part.tif")


@pytest.fixture(scope="module")
def b64img(image: NDArray[Any]) -> str:
    """Return the image as QuPath sends it: what its viewer shows, an RGB picture in PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.stack([image] * 3, -1)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def prompt(b64img: str, **fields: Any) -> dict[str, Any]:
    body = {"type": "vit_l", "b64img": b64img, "multimask_output": False, "checkpoint_url": WEIGHTS, **fields}
    return {name: value for name, value in body.items() if value is not None}


def drawn(feature: dict[str, Any], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in the geometry of a feature."""
    shape = shapely.geometry.shape(feature["geometry"])
    assert shape.is_valid
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    return shapely.contains_xy(shape, columns, rows)


def test_a_rectangle_gives_the_mask_of_the_segmenter(
    client: TestClient, b64img: str, image: NDArray[Any], segmenter: Segmenter
) -> None:
    expected = segmenter(image, boxes=[BOX])
    answer = client.post("/sam/", json=prompt(b64img, bbox=BOX), headers=HEADERS)
    (feature,) = answer.json()
    assert feature["type"] == "Feature"
    np.testing.assert_array_equal(drawn(feature, image.shape), expected.labels == 1)
    assert feature["properties"]["quality"] == pytest.approx(float(expected.iou_predictions[0]), abs=1e-5)
    assert "object_idx" not in feature["properties"], "the extension would make a class of it"


def test_a_rectangle_without_a_cell_gives_no_feature(client: TestClient, b64img: str) -> None:
    assert client.post("/sam/", json=prompt(b64img, bbox=[0, 0, 2, 2]), headers=HEADERS).json() == []


def test_auto_mask_gives_every_cell(client: TestClient, b64img: str, found: Segmentation) -> None:
    body = {"type": "vit_b", "b64img": b64img, **AUTO_MASK}
    features = client.post("/sam/automask/", json=body, headers=HEADERS).json()
    assert len(features) == len(found)
    for label, feature in enumerate(features, start=1):
        np.testing.assert_array_equal(drawn(feature, found.labels.shape), found.labels == label)


def test_smallest_region_is_the_smallest_cell(client: TestClient, b64img: str, found: Segmentation) -> None:
    body = {"type": "vit_b", "b64img": b64img, **AUTO_MASK, "min_mask_region_area": 300}
    features = client.post("/sam/automask/", json=body, headers=HEADERS).json()
    assert len(features) == np.count_nonzero(np.bincount(found.labels.ravel())[1:] >= 300)


def test_points_choose_among_the_cells(client: TestClient, b64img: str, found: Segmentation) -> None:
    places = []
    for label in (1, 2, 3):
        rows, columns = np.nonzero(found.labels == label)
        places.append([int(columns[len(columns) // 2]), int(rows[len(rows) // 2])])
    # The extension lists background points first.
    body = prompt(b64img, point_coords=[places[2], *places], point_labels=[0, 1, 1, 1])
    features = client.post("/sam/", json=body, headers=HEADERS).json()
    assert len(features) == 2
    for label, feature in enumerate(features, start=1):
        np.testing.assert_array_equal(drawn(feature, found.labels.shape), found.labels == label)
    outside = prompt(b64img, point_coords=[[100_000, 5]], point_labels=[1])
    assert client.post("/sam/", json=outside, headers=HEADERS).json() == []


def test_weights_are_the_served_model(client: TestClient) -> None:
    for kind in ("vit_h", "vit_l", "vit_b", "vit_t", "sam2_l"):
        (weights,) = client.get(f"/sam/weights/?type={kind}").json()
        assert weights == {"type": kind, "name": "nano (cellsam-engine)", "url": WEIGHTS}
    assert client.get("/sam/weights/?type=sam3").json() == []
    assert len(client.get("/sam/weights/").json()) == 1


def test_other_weights_are_not_silently_replaced(client: TestClient, b64img: str) -> None:
    url = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth"
    answer = client.post("/sam/", json=prompt(b64img, bbox=BOX, checkpoint_url=url), headers=HEADERS)
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "checkpoint_url")
    registered = client.post("/sam/weights/", json={"type": "vit_b", "name": "other", "url": url}, headers=HEADERS)
    assert registered.status_code == 403


def test_version_progress_and_cancelling_are_answered(client: TestClient) -> None:
    assert client.get("/sam/version/").headers["content-type"].startswith("text/plain")
    assert client.get("/sam/progress/").json() == {"message": None, "percent": -1}
    assert client.get("/sam/weights/cancel/").status_code == 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "bbox"),
        ({"bbox": BOX, "point_coords": [[1, 2]], "point_labels": [0]}, "bbox"),
        ({"point_coords": [[1, 2]], "point_labels": []}, "point_labels"),
        ({"bbox": [1, 2, 3]}, "body.bbox"),
        ({"bbox": [40, 40, 10, 10]}, None),
        ({"bbox": BOX, "b64mask": "AAAA"}, "b64mask"),
        ({"bbox": BOX, "b64img": "no base64"}, "b64img"),
        ({"bbox": BOX, "b64img": ""}, "image"),
        ({"bbox": BOX, "b64img": base64.b64encode(b"GIF89a").decode()}, "image"),
    ],
)
def test_unusable_prompts_are_rejected(
    client: TestClient, b64img: str, fields: dict[str, Any], field: str | None
) -> None:
    answer = client.post("/sam/", json={**prompt(b64img), **fields}, headers=HEADERS)
    assert answer.status_code in (400, 422), answer.text
    if field is not None:
        assert answer.json()["error"]["field"].startswith(field)


def test_the_text_prompts_of_other_types_are_not_found(client: TestClient, b64img: str) -> None:
    assert client.post("/sam/sam3/", json=prompt(b64img), headers=HEADERS).status_code == 404
