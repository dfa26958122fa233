"""Full-size engines compared with the released code, through ``Segmenter``, step by step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import BackendOptions, Detections, Segmentation, SegmentConfig, Segmenter
from runtime.engines.backends.ort import OrtEngine
from runtime.ops.boxes import scale_xyxy
from runtime.ops.masks import relabel
from runtime.pipeline.encoded import EncodedViews
from tests.engine_sources import source_of
from tests.golden.cases import LOGITS_ATOL, SCORE_MARGIN, GoldenCase, assert_close

pytestmark = pytest.mark.full_size


@pytest.fixture(scope="module")
def full_segmenter(golden_engines: Path) -> Segmenter:
    return Segmenter(golden_engines, backend="cpu")


@pytest.fixture(scope="module")
def encoded(full_segmenter: Segmenter, golden: GoldenCase) -> EncodedViews:
    return full_segmenter.encode(golden.arrays["image"])


@pytest.fixture(scope="module")
def released(golden: GoldenCase) -> SegmentConfig:
    """Return the settings of the golden run: its score cut, whole masks, and the highest index on top."""
    return SegmentConfig(
        box_threshold=float(golden.arrays["effective_threshold"]),
        box_threshold_mode="fixed",
        iou_threshold=float(golden.arrays["iou_threshold"]),
        mask_window="full",
        overlap="last",
    )


def test_the_export_chose_what_the_checkpoint_is(full_segmenter: Segmenter, golden: GoldenCase) -> None:
    manifest = full_segmenter.manifest
    assert manifest.trunk == golden.trunk
    assert manifest.profile == "cellsam-1.2"
    assert "non-commercial" in manifest.weights["licence"]
    assert ("detector_encoder" in manifest.engines) == (golden.trunk == "separate")


def test_encoder(encoded: EncodedViews, golden: GoldenCase) -> None:
    (view,) = encoded
    embedding, features = (np.asarray(t) for t in (view.batch.image_embedding, view.batch.patch_features))
    assert_close(embedding[:, ::4, ::4, ::4], golden.arrays["embedding_s4"], "image embedding")
    assert_close(features[:, ::8, ::4, ::4], golden.arrays["detector_features_s4"], "patch features")


def test_cellfinder(golden_engines: Path, encoded: EncodedViews, golden: GoldenCase) -> None:
    (view,) = encoded
    assert view.batch.patch_features is not None
    engine = OrtEngine(source_of(golden_engines / "cellfinder.onnx"), BackendOptions())
    outputs = engine({"patch_features": view.batch.patch_features})
    assert_close(outputs["logits"], golden.arrays["pred_logits"], "logits", atol=LOGITS_ATOL)
    assert_close(outputs["boxes_cxcywh_norm"], golden.arrays["pred_boxes"], "boxes")


def test_kept_boxes(
    full_segmenter: Segmenter, encoded: EncodedViews, golden: GoldenCase, released: SegmentConfig
) -> None:
    adaptive = SegmentConfig(box_threshold=float(golden.arrays["bbox_threshold"]))
    (adapted,) = full_segmenter.detect(encoded, config=adaptive)
    cut = adapted.threshold
    assert abs(cut - float(golden.arrays["effective_threshold"])) < 2e-3
    (found,) = full_segmenter.detect(encoded, config=released)
    expected, scores = golden.arrays["kept_boxes_1024"], golden.arrays["topk_scores"]
    boxes = scale_xyxy(found.boxes, encoded.size_hw, (1024, 1024))
    # The same set, except for boxes with scores close to the cut; nearly equal scores may change places.
    above, near = ((scores > released.box_threshold + margin).sum() for margin in (SCORE_MARGIN, -SCORE_MARGIN))
    assert above <= len(boxes) <= near
    together = np.abs(boxes[:, None] - expected[None]).max(-1) < 0.1
    assert together.any(0)[:above].all(), "kept boxes are sorted by score"
    assert together.any(1).sum() >= above


def test_mask_decoder(full_segmenter: Segmenter, encoded: EncodedViews, golden: GoldenCase) -> None:
    boxes = scale_xyxy(golden.arrays["kept_boxes_1024"], (1024, 1024), encoded.size_hw)
    (view,) = encoded
    full, windows = (
        full_segmenter.pipeline.decode_logits(view, boxes, config)
        for config in (SegmentConfig(mask_window="full"), full_segmenter.config)
    )
    masks = np.stack([mask.logits for mask in full])
    iou = np.array([mask.iou_prediction for mask in full])
    assert_close(masks[:, ::4, ::4], golden.arrays["low_res_masks_s4"], "mask logits")
    assert_close(masks[:4], golden.arrays["low_res_masks_first4"], "mask logits of the first four boxes")
    assert_close(iou, golden.arrays["iou_predictions"], "IoU predictions")
    for mask, part in zip(masks, windows, strict=True):
        (y, x), (height, width) = part.origin_yx, part.logits.shape
        np.testing.assert_allclose(part.logits, mask[y : y + height, x : x + width], atol=1e-4)


def test_labels(full_segmenter: Segmenter, encoded: EncodedViews, golden: GoldenCase, released: SegmentConfig) -> None:
    kept = scale_xyxy(golden.arrays["kept_boxes_1024"], (1024, 1024), encoded.size_hw)
    scores = golden.arrays["topk_scores"][: len(kept)].astype(np.float32)
    found = Detections(kept, scores, released.box_threshold)
    result: Segmentation = full_segmenter.decode(encoded, [found], config=released)
    order = np.argsort(-np.concatenate((result.scores, result.hidden.scores)), kind="stable")
    boxes = np.concatenate((result.boxes, result.hidden.boxes))[order]
    assert_close(boxes, golden.arrays["final_boxes"], "boxes of the instances")
    expected, _ = relabel(golden.arrays["final_labels"], int(golden.arrays["final_labels"].max()))
    assert len(result) == expected.max()
    assert (result.labels == expected).mean() >= 0.999


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
from runtime import SegmentConfig, Segmenter

rng = np.random.default_rng(0)
corner = rng.uniform(0, 960, (1000, 2))
boxes = np.concatenate((corner, corner + rng.uniform(8, 64, (1000, 2))), 1)
image = rng.integers(0, 255, (1024, 1024), np.uint8)
config = SegmentConfig(iou_threshold=-1e9, mask_window=sys.argv[2])
result = Segmenter(sys.argv[1])(image, boxes=boxes, config=config)
assert len(result) + len(result.hidden) == 1000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_a_thousand_boxes_stay_under_6_gib(golden_engines: Path, golden: GoldenCase) -> None:
    if golden.trunk == "separate":
        pytest.skip("boxes given by the user need one trunk; measured on the shared one")
    # Masks of the whole image take the most memory.
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(golden_engines), "full"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 6.0
