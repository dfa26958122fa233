"""Segmentation with a small model: results, prompts, batches, settings, errors."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import runtime.engines.engine_source
from export.exporter import export_engines
from runtime import (
    BackendError,
    BackendOptions,
    ConfigError,
    Detections,
    EngineError,
    InputError,
    Instances,
    Segmentation,
    SegmentConfig,
    Segmenter,
)
from runtime.engines.builtin import sample_images
from runtime.engines.manifest import sha256_file
from runtime.files.plain import read_image
from tests.engine_sources import renew_sums
from tests.small import PROMPTED, SEPARATE, save_small

OPEN = SegmentConfig(box_threshold=0.5, box_threshold_mode="fixed", iou_threshold=-1e6, min_area_px=0)
"""Settings that keep about half of the boxes and every mask."""

BOXES = [[10, 20, 60, 80], [0, 0, 253, 519], [100.5, 300.25, 140, 380], [-20, 400, 40, 600], [200, 10, 240, 40]]


def assert_same(a: Segmentation, b: Segmentation, *, exact: bool = True) -> None:
    """Not exact: compare only the caller's boxes, because rounding can decide which cells are hidden."""
    if exact:
        np.testing.assert_array_equal(a.labels, b.labels)
        for mine, other in zip(a.masks + a.hidden.masks, b.masks + b.hidden.masks, strict=True):
            assert mine.offset_yx == other.offset_yx
            np.testing.assert_array_equal(mine.mask, other.mask)
    for mine, other in ((a, b), (a.hidden, b.hidden)) if exact else ((every(a), every(b)),):
        np.testing.assert_array_equal(mine.prompts, other.prompts)
        np.testing.assert_allclose(mine.boxes, other.boxes, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(mine.scores, other.scores, rtol=1e-5)
        np.testing.assert_allclose(mine.iou_predictions, other.iou_predictions, rtol=1e-4, atol=1e-5)


def check_invariants(result: Segmentation, size_hw: tuple[int, int]) -> None:
    assert result.labels.shape == size_hw
    assert result.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(result.labels[result.labels > 0]), np.arange(1, len(result) + 1))
    for instances in (result, result.hidden):
        count = len(instances)
        assert (instances.boxes.shape, instances.boxes.dtype) == ((count, 4), np.float64)
        assert (instances.scores.shape, instances.scores.dtype) == ((count,), np.float32)
        assert (instances.iou_predictions.shape, instances.iou_predictions.dtype) == ((count,), np.float32)
        assert (instances.prompts.shape, instances.prompts.dtype) == ((count,), np.int64)
        assert len(instances.masks) == count
        for mask in instances.masks:
            assert mask.paste(size_hw).sum() == mask.area_px


def every(result: Segmentation) -> Instances:
    """Return cells and hidden instances in the order of the caller's boxes."""
    joined = Instances.joined([result, result.hidden])
    return joined[np.argsort(joined.prompts)]


def test_a_real_image(segmenter: Segmenter, image: Any) -> None:
    result = segmenter(image, config=OPEN)
    assert len(result) > 0
    assert len(result) + len(result.hidden) > 10
    assert (result.prompts == -1).all()
    check_invariants(result, image.shape)
    assert (np.diff(result.scores) <= 0).all()
    assert (result.scores > 0.5).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (160, 160, 1), (64, 48, 2), (90, 200, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_any_shape_and_dtype(segmenter: Segmenter, shape: tuple[int, ...], dtype: str) -> None:
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    check_invariants(segmenter(image, config=OPEN), shape[:2])


def test_no_cells_is_a_normal_result(segmenter: Segmenter, image: Any) -> None:
    result = segmenter(image, config=replace(OPEN, box_threshold=1.0))
    check_invariants(result, image.shape)
    assert len(result) == len(result.hidden) == 0
    assert result.masks == ()
    check_invariants(segmenter(image, boxes=[]), image.shape)
    black = segmenter(np.zeros((50, 60)))
    check_invariants(black, (50, 60))


def test_iou_cut_drops_instances(segmenter: Segmenter, image: Any) -> None:
    decoded = every(segmenter(image, boxes=BOXES, config=OPEN))
    cut = float(np.sort(decoded.iou_predictions)[2])
    kept = segmenter(image, boxes=BOXES, config=replace(OPEN, iou_threshold=cut))
    np.testing.assert_array_equal(every(kept).boxes, decoded.boxes[decoded.iou_predictions >= cut])
    np.testing.assert_array_equal(every(kept).prompts, np.flatnonzero(decoded.iou_predictions >= cut))
    check_invariants(kept, image.shape)


def test_own_boxes_are_decoded_in_order(segmenter: Segmenter, image: Any) -> None:
    result = segmenter(image, boxes=BOXES, config=OPEN)
    np.testing.assert_array_equal(every(result).boxes, BOXES)
    np.testing.assert_array_equal(every(result).prompts, np.arange(len(BOXES)))
    np.testing.assert_array_equal(result.boxes, np.array(BOXES, float)[result.prompts])
    assert (np.diff(result.prompts) > 0).all()
    assert np.isnan(every(result).scores).all()
    check_invariants(result, image.shape)


STEPWISE = {
    "one view": OPEN,
    "a square view": replace(OPEN, view_diameter_px=1000.0),
    "tiles": replace(OPEN, view_diameter_px=40.0, diameter_px=50.0),
    "tiles at a measured scale": replace(OPEN, view_diameter_px=200.0, whole_view_diameter_px=900.0),
}


@pytest.mark.parametrize("shown", STEPWISE)
@pytest.mark.parametrize("channels", [1, 3])
def test_three_steps_give_what_the_call_gives(segmenter: Segmenter, image: Any, shown: str, channels: int) -> None:
    config = STEPWISE[shown]
    if channels == 3:
        image = np.stack([image, image[::-1], image[:, ::-1]], -1)
    views = segmenter.encode(image, config=config)
    assert (views.size_hw, views.stitched) == (image.shape[:2], config.view_diameter_px is not None)
    assert (len(views) > 1) == ("tiles" in shown)
    found = segmenter.detect(views, config=config)
    assert_identical(segmenter.decode(views, found, config=config), segmenter(image, config=config))
    for view, one in zip(views, found, strict=True):
        assert one.threshold == 0.5
        assert one.origin_yx == view.origin_yx
        np.testing.assert_array_equal(one.boxes_xyxy_image[:, :2], one.boxes[:, :2] + view.origin_yx[::-1])


@pytest.mark.parametrize("shown", STEPWISE)
def test_a_label_lies_in_its_mask(segmenter: Segmenter, image: Any, shown: str) -> None:
    """In one view, each pixel of a mask belongs to some cell."""
    result = segmenter(image, config=replace(STEPWISE[shown], fill_holes=False))
    check_invariants(result, image.shape)
    for label, mask in enumerate(result.masks, start=1):
        won = result.labels == label
        assert won.any()
        assert not (won & ~mask.paste(image.shape)).any()
    if "tiles" not in shown:
        inside = np.any([mask.paste(image.shape) for mask in result.masks + result.hidden.masks], axis=0)
        np.testing.assert_array_equal(result.labels > 0, inside)
    smaller = result[result.scores > np.median(result.scores)]
    check_invariants(smaller, image.shape)
    for label, row in enumerate(np.flatnonzero(result.scores > np.median(result.scores)), start=1):
        np.testing.assert_array_equal(smaller.labels == label, result.labels == row + 1)


@pytest.mark.parametrize("shape", [(300, 340), (900, 700), (250, 260, 3)])
def test_three_steps_with_the_built_in_model(shape: tuple[int, ...]) -> None:
    """A repeated sample image in one view, in tiles, and in colour."""
    sample = read_image(next(path for path in sample_images() if "u2os" in path.name))
    image = np.pad(sample, [(0, max(0, n - m)) for n, m in zip(shape, sample.shape, strict=False)], mode="symmetric")
    image = image[: shape[0], : shape[1]]
    if len(shape) == 3:
        image = np.stack([image, image // 2, image], -1)
    segmenter = builtin_segmenter()
    views = segmenter.encode(image)
    assert (len(views) > 1) == (shape[0] == 900)
    assert_identical(segmenter.decode(views, segmenter.detect(views)), segmenter(image))


@cache
def builtin_segmenter() -> Segmenter:
    return Segmenter(backend="cpu")


def assert_identical(a: Segmentation, b: Segmentation) -> None:
    assert a.labels.tobytes() == b.labels.tobytes()
    for mine, other in ((a, b), (a.hidden, b.hidden)):
        for name in ("boxes", "scores", "iou_predictions", "prompts"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
        for one, same in zip(mine.masks, other.masks, strict=True):
            assert one.offset_yx == same.offset_yx
            np.testing.assert_array_equal(one.mask, same.mask)


def test_own_boxes_in_steps(segmenter: Segmenter, image: Any) -> None:
    expected = segmenter(image, boxes=BOXES, config=OPEN)
    for detector in (True, False):
        views = segmenter.encode(image, detector=detector)
        assert_identical(segmenter.decode(views, boxes=BOXES, config=OPEN), expected)
    scored = segmenter.decode(views, boxes=BOXES, scores=[0.1, 0.2, 0.3, 0.4, 0.5], config=OPEN)
    np.testing.assert_array_equal(every(scored).scores, np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32))


def test_misused_steps(segmenter: Segmenter, image: Any) -> None:
    views = segmenter.encode(image, detector=False)
    assert [view.batch.patch_features for view in views] == [None]
    with pytest.raises(InputError, match="detector=False"):
        segmenter.detect(views)
    with pytest.raises(InputError, match=r"scores have shape \(2,\); expected \(5,\)"):
        segmenter.decode(views, boxes=BOXES, scores=[1, 2])
    with pytest.raises(InputError, match="scores cannot be read as numbers"):
        segmenter.decode(views, boxes=BOXES, scores=["a"])
    with pytest.raises(InputError, match="box 0"):
        segmenter.decode(views, boxes=[[5, 5, 5, 5]])
    with pytest.raises(InputError, match="neither found nor boxes is given; expected one of them"):
        segmenter.decode(views)
    with pytest.raises(InputError, match="found has entries for 2 views; expected 1"):
        segmenter.decode(views, [Detections(np.zeros((0, 4)), np.zeros(0, np.float32), 0.5)] * 2)
    tiles = segmenter.encode(image[:100, :100], config=STEPWISE["tiles"])
    with pytest.raises(InputError, match="both found and boxes are given"):
        segmenter.decode(tiles, segmenter.detect(tiles), boxes=BOXES)


def test_closed(small_engines: Path, image: Any) -> None:
    with Segmenter(small_engines) as segmenter:
        views = segmenter.encode(image)
        found = segmenter.detect(views)
    segmenter.close()
    calls = (
        lambda: segmenter(image),
        lambda: segmenter.encode(image),
        lambda: segmenter.detect(views),
        lambda: segmenter.decode(views, found),
        lambda: segmenter.decode(views, boxes=BOXES),
        lambda: segmenter.warm_up(),
        lambda: list(segmenter.stream([image])),
    )
    for call in calls:
        with pytest.raises(BackendError, match=r"released by close\(\).*new Segmenter"):
            call()


WARM = """
import sys, numpy as np
from numba.core.registry import CPUDispatcher
from runtime import Segmenter
from runtime.config import SegmentConfig
from dataclasses import replace

def compiled():
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("runtime.ops")]
    loops = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, CPUDispatcher)}
    return {loop.py_func.__name__: len(loop.signatures) for loop in loops.values()}

segmenter = Segmenter(sys.argv[1], backend="cpu")
segmenter.warm_up()
before = compiled()
assert before["paint_windows"] and before["clean_cells"] and before["best_of_overlapping"], before
rng = np.random.default_rng(0)
open_config = replace(segmenter.config, box_threshold=0.5, box_threshold_mode="fixed", iou_threshold=-1e6)
for config in (open_config, replace(open_config, view_diameter_px=40.0, diameter_px=50.0)):
    for kind in (np.uint8, np.uint16):
        for shape in ((90, 130), (90, 130, 3)):
            assert len(segmenter(rng.integers(0, 200, shape).astype(kind), config=config)) >= 0
print({name: count - before[name] for name, count in compiled().items() if count != before[name]})
"""


def test_nothing_is_compiled_after_warming_up(small_engines: Path) -> None:
    command = [sys.executable, "-c", WARM, str(small_engines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{}", done.stdout + done.stderr


def test_batch_equals_one_by_one(segmenter: Segmenter, image: Any) -> None:
    rng = np.random.default_rng(3)
    images = [image, image[:200, ::-1], rng.integers(0, 255, (90, 130, 3), np.uint8), image[100:101, :5]]
    for one, together in zip(
        [segmenter(i, config=OPEN) for i in images], segmenter.batch(images, config=OPEN), strict=True
    ):
        assert_same(one, together)
    prompts = [BOXES, [], [[3, 4, 50, 60]], [[0, 0, 5, 1]]]
    alone = [segmenter(i, boxes=b, config=OPEN) for i, b in zip(images, prompts, strict=True)]
    for one, together in zip(alone, segmenter.batch(images, boxes=prompts, config=OPEN), strict=True):
        assert_same(one, together)
    assert segmenter.batch([]) == []
    with pytest.raises(InputError, match="boxes has 1 entries for 2 images; expected one per image"):
        segmenter.batch(images[:2], boxes=[BOXES])


@pytest.fixture(scope="module")
def by_call_size(small_engines: Path) -> dict[int, Segmenter]:
    """The same engines, with one to six boxes per call."""
    return {size: Segmenter(small_engines, boxes_per_call=size) for size in (1, 2, 3, 6)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(BOXES))), per_call=st.sampled_from([1, 2, 3, 6]))
def test_any_order_and_split_of_boxes_gives_the_same_masks(
    by_call_size: dict[int, Segmenter], segmenter: Segmenter, image: Any, order: list[int], per_call: int
) -> None:
    encoded = segmenter.encode(image[:120, :160], detector=False)
    boxes = np.array([[10, 20, 60, 80], [0, 0, 160, 120], [100, 30, 140, 90], [-20, 40, 40, 130], [90, 10, 120, 40]])
    expected = segmenter.decode(encoded, boxes=boxes, config=OPEN)
    found = by_call_size[per_call].decode(encoded, boxes=boxes[order], config=OPEN)
    both = every(found), every(expected)
    for place, original in enumerate(order):
        np.testing.assert_allclose(both[0].iou_predictions[place], both[1].iou_predictions[original], atol=1e-5)
        mine, other = (m.paste((120, 160)) for m in (both[0].masks[place], both[1].masks[original]))
        assert (mine != other).mean() < 1e-4
        # The most probable mask owns a pixel in any order; only the numbers change.
        mine, other = (shown(result, k) for result, k in ((found, place), (expected, original)))
        assert (mine != other).mean() < 1e-3


def shown(result: Segmentation, prompt: int) -> NDArray[np.bool_]:
    """Return the pixels of the label map that belong to one of the caller's boxes."""
    return np.isin(result.labels, np.flatnonzero(result.prompts == prompt) + 1)


def test_box_windows_equal_full_windows_inside(segmenter: Segmenter, image: Any) -> None:
    encoded = segmenter.encode(image, detector=False)
    boxes = [[60, 100, 90, 140], [5, 5, 30, 40], [220, 480, 250, 515]]
    (view,) = encoded
    whole = segmenter.pipeline.decode_logits(view, boxes, OPEN_FULL)
    assert [mask.logits.shape for mask in whole] == [(40, 40)] * 3
    for part, full in zip(segmenter.pipeline.decode_logits(view, boxes, OPEN), whole, strict=True):
        assert part.logits.shape == (32, 32)
        y, x = part.origin_yx
        np.testing.assert_allclose(part.logits, full.logits[y : y + 32, x : x + 32], atol=1e-4)
        assert part.iou_prediction == pytest.approx(full.iou_prediction, abs=1e-5)


def test_long_batches_go_in_groups(segmenter: Segmenter) -> None:
    images = [np.random.default_rng(n).random((20 + n, 30)) for n in range(11)]
    results = segmenter.batch(images, boxes=[[[2, 2, 15, 15]]] * 11, config=OPEN)
    assert [r.labels.shape for r in results] == [i.shape for i in images]
    assert_same(results[9], segmenter(images[9], boxes=[[2, 2, 15, 15]], config=OPEN))


def test_nan_from_the_mask_decoder_is_an_error(segmenter: Segmenter, image: Any) -> None:
    encoded = segmenter.encode(image, detector=False)
    (view,) = encoded
    batch = replace(view.batch, image_embedding=np.full_like(view.batch.image_embedding, np.nan))
    with pytest.raises(BackendError, match="the mask decoder returned NaN"):
        segmenter.decode(replace(encoded, views=(replace(view, batch=batch),)), boxes=BOXES)


OPEN_FULL = replace(OPEN, mask_window="full")


def test_config_of_the_call_wins_over_the_default(small_engines: Path, image: Any) -> None:
    strict = Segmenter(small_engines, config=replace(OPEN, box_threshold=1.0))
    assert len(strict(image)) == 0
    assert len(strict(image, config=OPEN)) > 0


def test_separate_trunks(tmp_path: Path, image: Any) -> None:
    out = tmp_path / "separate"
    manifest = export_engines(save_small(tmp_path / "separate.pt", SEPARATE), out)
    assert set(manifest.engines) == {"encoder", "detector_encoder", "cellfinder", "mask_decoder"}
    assert [t.name for t in manifest.engines["encoder"].outputs] == ["image_embedding"]
    check_invariants(Segmenter(out)(image, config=OPEN), image.shape)


def test_engines_without_a_detector(tmp_path: Path, image: Any) -> None:
    out = tmp_path / "prompted"
    export_engines(save_small(tmp_path / "prompted.pt", PROMPTED), out)
    segmenter = Segmenter(out)
    with pytest.raises(InputError, match=r"no detector.*boxes="):
        segmenter(image)
    check_invariants(segmenter(image, boxes=BOXES, config=OPEN), image.shape)


def test_unusable_arguments(small_engines: Path, segmenter: Segmenter) -> None:
    with pytest.raises(BackendError, match="backend is 'gpu'; expected one of 'auto', 'cpu'"):
        Segmenter(small_engines, backend="gpu")
    with pytest.raises(ConfigError, match="boxes_per_call is 0"):
        Segmenter(small_engines, boxes_per_call=0)
    with pytest.raises(InputError, match="Move the channel axis last"):
        segmenter(np.zeros((3, 40, 50)))
    assert Segmenter(small_engines, options=BackendOptions(threads=1)).backend == "cpu"


# The tests below damage a copy of an engine directory.


@pytest.fixture
def copy(small_engines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_engines, tmp_path / "engines"))


def edit_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    for dotted, value in changes.items():
        target = content
        *parents, last = dotted.split("__")
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    path.write_text(json.dumps(content))
    renew_sums(directory)


def test_missing_directory_and_manifest(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nothing is not a directory"):
        Segmenter(tmp_path / "nothing")
    with pytest.raises(EngineError, match=r"has no manifest\.json"):
        Segmenter(tmp_path)


def test_missing_and_altered_files_are_named(copy: Path) -> None:
    path = copy / "cellfinder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cellfinder\.onnx was altered after its export"):
        Segmenter(copy)
    path.unlink()
    with pytest.raises(EngineError, match=r"cellfinder\.onnx is missing"):
        Segmenter(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"schema": None}, "schema None"),
        ({"grid_size": None}, "field 'grid_size' is missing"),
        ({"image_size": "160"}, "image_size is '160', expected int"),
        ({"profile": "mine"}, "profile is 'mine', expected one of paper, cellsam-1.2"),
        ({"trunk": "separate"}, "engines detector_encoder are missing"),
        ({"grid_size": 5}, r"encoder.patch_features has shape .* expected \['a name', 'a whole number', 5, 5\]"),
        ({"grid_size": 0}, "not a multiple of grid_size 0"),
        ({"image_size": -160}, "not a multiple"),
        ({"image_size": True}, "image_size is True, expected int"),
        ({"weights": []}, r"weights is \[\], expected object"),
        ({"weights__licence": 3}, "weights.licence is 3, expected str"),
        ({"weights__sha256": None}, "field 'weights.sha256' is missing"),
        ({"verification": []}, "verification is"),
        ({"tools": None}, "'tools' is missing"),
        ({"created": 5}, "created is 5, expected str"),
        ({"config__fill_holes": "no"}, "fill_holes is 'no'"),
        ({"config__min_area_px": 1e400}, "min_area_px is inf"),
        ({"engines": {}}, "engines encoder, mask_decoder are missing"),
        ({"engines__cellfinder": None}, r"encoder has outputs .*expected \['image_embedding'\]"),
        ({"engines__encoder": 5}, "engines.encoder is 5, expected object"),
        ({"engines__encoder__inputs": 5}, "engines.encoder.inputs is 5, expected array"),
        ({"engines__encoder__inputs": [5]}, r"engines.encoder.inputs\[0\] is 5, expected object"),
        ({"engines__mask_decoder__outputs": []}, "mask_decoder has outputs"),
        ({"config__box_threshold": 7}, "box_threshold is 7"),
        ({"config__colour": 1}, "colour"),
        ({"surprise": 1}, "unknown fields surprise"),
        ({"trained_channels": [4]}, r"trained_channels\[0\] is 4, expected int <= 3"),
        ({"trained_channels": 1}, "trained_channels is 1, expected array"),
        ({"engines__encoder__file": "../encoder.onnx"}, "not a plain file name"),
        ({"engines__encoder__sha256": None}, "field 'engines.encoder.sha256' is missing"),
        (
            {"engines__decoder": {}},
            "a key of engines is 'decoder', expected one of encoder, detector_encoder, cellfinder",
        ),
    ],
)
def test_damaged_manifests(copy: Path, changes: dict[str, Any], message: str) -> None:
    edit_manifest(copy, **changes)
    with pytest.raises(EngineError, match=message):
        Segmenter(copy)


def test_channels_unlike_the_training_images_cause_one_warning(
    copy: Path, image: Any, caplog: pytest.LogCaptureFixture
) -> None:
    edit_manifest(copy, trained_channels=[1, 3])
    segmenter = Segmenter(copy)
    empty = np.zeros_like(image)
    for fine in (image, np.stack([image, image[::-1], image[:, ::-1]], -1), empty):
        segmenter(fine, config=OPEN)
    assert not caplog.records
    for _ in range(2):
        segmenter(np.stack([image] * 2, -1), config=OPEN)
        segmenter(np.stack([image] * 3, -1), config=OPEN)
        segmenter(np.stack([image, empty], -1), config=OPEN)
    pair, equal, nuclear, again = (record.getMessage() for record in caplog.records)
    assert pair == again, "of every image"
    assert "only the nuclear channel is used" in pair
    assert "uses channels that are the same three times, but these weights were trained on 1 channel or 3" in equal
    assert "uses channels nuclear, but" in nuclear


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000])
def test_manifests_that_are_not_objects(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(EngineError, match=r"manifest\.json"):
        Segmenter(copy)


def test_inputs_and_outputs_are_compared_with_the_manifest(copy: Path) -> None:
    model = onnx.load(copy / "cellfinder.onnx")
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.output[1].name = "scores"
    onnx.save(model, copy / "cellfinder.onnx")
    edit_manifest(copy, engines__cellfinder__sha256=sha256_file(copy / "cellfinder.onnx"))
    with pytest.raises(EngineError, match=r"cellfinder\.onnx has outputs .*scores.*the manifest lists .*logits"):
        Segmenter(copy)


def test_a_file_that_is_not_onnx(copy: Path) -> None:
    (copy / "encoder.onnx").write_bytes(b"not a model")
    edit_manifest(copy, engines__encoder__sha256=sha256_file(copy / "encoder.onnx"))
    with pytest.raises(EngineError, match=r"encoder\.onnx is not an ONNX file"):
        Segmenter(copy)


def test_a_graph_that_onnxruntime_does_not_load(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend names a graph that the check of operators let pass."""
    monkeypatch.setattr(runtime.engines.engine_source, "check_graph", lambda content, path: None)
    model = onnx.load(copy / "encoder.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, copy / "encoder.onnx")
    edit_manifest(copy, engines__encoder__sha256=sha256_file(copy / "encoder.onnx"))
    with pytest.raises(BackendError, match=r"cannot load .*encoder\.onnx"):
        Segmenter(copy)


def test_tiles_at_the_scale_of_the_cells(segmenter: Segmenter, image: Any) -> None:
    """Results are equal alone and in a batch; the views follow from the diameter."""
    config = replace(OPEN, view_diameter_px=40.0, diameter_px=50.0)
    side = segmenter.manifest.image_size * 50 / 40
    views = segmenter.encode(image, config=config)
    assert len(views) > 3
    ((height, width),) = {view.size_hw for view in views}
    assert side <= height == width <= 1.15 * side + 1
    stitched = segmenter(image, config=config)
    check_invariants(stitched, image.shape)
    assert len(stitched) > 0
    for result in segmenter.batch([image, image], config=config):
        assert_same(result, stitched)


def test_a_measured_scale(segmenter: Segmenter, image: Any) -> None:
    """One square view shows the whole image if its cells are large enough in it; otherwise tiles do."""
    whole = replace(OPEN, view_diameter_px=1000.0)
    (view,) = segmenter.encode(image, config=whole)
    assert (view.origin_yx, view.size_hw, view.frame_hw) == ((0, 0), (519, 253), (519, 519))
    check_invariants(segmenter(image, config=whole), image.shape)
    tiled = replace(OPEN, view_diameter_px=200.0, whole_view_diameter_px=900.0)
    assert len(segmenter.encode(image, config=tiled)) > 1
    check_invariants(segmenter(image, config=tiled), image.shape)


def test_given_boxes_are_decoded_at_their_own_scale(segmenter: Segmenter, image: Any) -> None:
    """Each box is decoded in a view at its own scale; one label map contains all, in the order of the boxes."""
    config = replace(OPEN, view_diameter_px=200.0, whole_view_diameter_px=150.0)
    result = segmenter(image, boxes=BOXES, config=config)
    check_invariants(result, image.shape)
    assert sorted([*result.prompts, *result.hidden.prompts]) == list(range(len(BOXES)))
    assert (np.diff(result.prompts) > 0).all()
    for row, prompt in enumerate(result.prompts.tolist()):
        np.testing.assert_array_equal(result.boxes[row], BOXES[prompt])
        alone = segmenter(image, boxes=[BOXES[prompt]], config=config)
        assert alone.masks[0].offset_yx == result.masks[row].offset_yx
        np.testing.assert_array_equal(alone.masks[0].mask, result.masks[row].mask)


def test_given_boxes_on_tiles_that_were_encoded_before(segmenter: Segmenter, image: Any) -> None:
    config = replace(OPEN, view_diameter_px=40.0, diameter_px=50.0)
    views = segmenter.encode(image, detector=False, config=config)
    assert len(views) > 3
    assert all(view.batch.patch_features is None for view in views)
    result = segmenter.decode(views, boxes=BOXES, scores=np.linspace(0.5, 0.9, len(BOXES)), config=config)
    check_invariants(result, image.shape)
    assert sorted([*result.prompts, *result.hidden.prompts]) == list(range(len(BOXES)))
    with pytest.raises(InputError, match="detector=False"):
        segmenter.detect(views, config=config)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (40, 7)])
def test_tiny_images_at_scale(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    config = replace(OPEN, view_diameter_px=40.0, diameter_px=20.0)
    tiny = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    check_invariants(segmenter(tiny, config=config), shape)


def labels_in_a_process(directory: Path, image: Any, out: Any) -> None:
    out.put(Segmenter(directory)(image, boxes=BOXES, config=OPEN).labels)


def test_threads_and_processes_get_the_same_labels(segmenter: Segmenter, small_engines: Path, image: Any) -> None:
    crops = [image, image[:300], image[200:], image[:, 40:]]
    expected = [segmenter(crop, boxes=BOXES[:1], config=OPEN) for crop in crops]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            found = list(pool.map(lambda crop: segmenter(crop, boxes=BOXES[:1], config=OPEN), crops))
            for mine, other in zip(found, expected, strict=True):
                assert_same(mine, other)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=labels_in_a_process, args=(small_engines, image, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    both = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    alone = segmenter(image, boxes=BOXES, config=OPEN).labels
    for labels in both:
        np.testing.assert_array_equal(labels, alone)
