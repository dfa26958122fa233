"""Tests of losses, matching, augmentation, and small runs, resumed or on two processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from export.exporter import export_engines
from runtime import Segmenter
from runtime.ops.model_input import paper_input
from tests.small import SMALL
from tests.training.made_data import disc_tile, make_dataset
from training.assignment import match_cost, one_to_many, one_to_one
from training.batches import StepSampler, TrainingSamples, _smooth, augment, boxes_of, plain
from training.checkpoint import load_checkpoint
from training.data.format import Sample, read_split
from training.losses import detection_losses, mask_losses
from training.model import CellFinderOutput, DecoderOutput
from training.recipe import (
    NANO,
    PRESETS,
    AugmentConfig,
    DetectionLossConfig,
    MaskLossConfig,
    RecipeError,
    load_recipe,
)
from training.stages import _windows, learning_rate_factor
from training.train import RunConfig, initial_model, run_stage

TINY = replace(
    NANO,
    model=replace(
        SMALL,
        anchors=100,
        classes=1,
        position_cycles=8.0,
        queries="features",
        offset_scale=0.125,
        box_prior=True,
        stem=(8, 16, 24),
        details=True,
    ),
    stage1=replace(NANO.stage1, steps=6, batch_size=2, warmup_steps=2, ema_decay=0.5),
    stage2=replace(NANO.stage2, steps=3, batch_size=2, warmup_steps=1),
    masks=replace(NANO.masks, cells_per_image=3),
    precision="32-true",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"))


# Matching and losses.


def test_matching_by_hand() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.21, 0.2, 0.1, 0.1]])
    logits = torch.tensor([[2.0], [2.0], [2.0]])
    targets = torch.tensor([[0.8, 0.8, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]])
    cost = match_cost(boxes, logits, targets, DetectionLossConfig())
    assert cost.shape == (3, 2)
    match = one_to_one(cost)
    assert dict(zip(match.query.tolist(), match.cell.tolist(), strict=True)) == {0: 1, 1: 0}
    many = one_to_many(cost, 2)
    pairs = dict(zip(many.query.tolist(), many.cell.tolist(), strict=True))
    assert pairs[0] == pairs[2] == 1
    assert pairs[1] == 0


@given(queries=st.integers(1, 12), cells=st.integers(0, 6), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_one_to_many_gives_each_query_to_its_cheapest_cell(queries: int, cells: int, count: int, seed: int) -> None:
    cost = torch.rand(queries, cells, generator=torch.Generator().manual_seed(seed))
    match = one_to_many(cost, count)
    assert len(set(match.query.tolist())) == len(match.query)
    wanted = [set(cost[:, c].argsort()[:count].tolist()) for c in range(cells)]
    assert set(match.query.tolist()) == set().union(*wanted) if cells else not len(match.query)
    for q, c in zip(match.query.tolist(), match.cell.tolist(), strict=True):
        assert q in wanted[c]
        assert all(cost[q, c] <= cost[q, other] for other in range(cells) if q in wanted[other])


def test_perfect_boxes_cost_nothing() -> None:
    targets = [torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.7, 0.6, 0.1, 0.3]]), torch.zeros(0, 4)]
    boxes = torch.stack([targets[0], torch.rand(2, 4)])
    logits = torch.tensor([[[20.0], [20.0]], [[-20.0], [-20.0]]])
    losses = detection_losses(CellFinderOutput(boxes, logits), targets, 2, DetectionLossConfig())
    assert set(losses) == {"class", "l1", "giou"}
    for value in losses.values():
        assert float(value) == pytest.approx(0.0, abs=1e-5)


def test_detection_losses_by_hand() -> None:
    """Check one query and one cell of equal size, off by 0.1 in x, so GIoU can be computed by hand."""
    target = [torch.tensor([[0.5, 0.5, 0.2, 0.2]])]
    output = CellFinderOutput(torch.tensor([[[0.6, 0.5, 0.2, 0.2]]]), torch.tensor([[[0.0]]]))
    losses = detection_losses(output, target, 1, DetectionLossConfig())
    assert float(losses["l1"]) == pytest.approx(5 * 0.1, rel=1e-5)
    assert float(losses["giou"]) == pytest.approx(2 * (1 - 1 / 3), rel=1e-4)  # overlap 1/3, the hull adds nothing
    assert float(losses["class"]) == pytest.approx(2 * 0.25 * 0.25 * np.log(2), rel=1e-5)


def test_scores_are_trained_towards_the_iou_of_their_box() -> None:
    """Check the pair above, IoU 1/3: the class loss is 0 at that score and grows on both sides."""
    target = [torch.tensor([[0.5, 0.5, 0.2, 0.2]])]
    boxes, config = torch.tensor([[[0.6, 0.5, 0.2, 0.2]]]), DetectionLossConfig(score_is_iou=True)

    def class_loss(score: float) -> float:
        logits = torch.logit(torch.tensor([[[score]]]))
        return float(detection_losses(CellFinderOutput(boxes, logits), target, 1, config)["class"])

    assert class_loss(1 / 3) == pytest.approx(0.0, abs=1e-6)
    assert class_loss(0.1) > class_loss(0.25) > class_loss(1 / 3) < class_loss(0.5) < class_loss(0.9)
    boxes_that_fit = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]])
    output = CellFinderOutput(boxes_that_fit, torch.zeros(1, 1, 1))
    plain = detection_losses(output, target, 1, DetectionLossConfig())
    assert float(detection_losses(output, target, 1, config)["class"]) == pytest.approx(float(plain["class"]), rel=1e-5)


def test_auxiliary_layers_add_losses_of_their_own() -> None:
    target = [torch.rand(3, 4)]
    layer = CellFinderOutput(torch.rand(1, 9, 4), torch.randn(1, 9, 1))
    output = CellFinderOutput(layer.boxes_cxcywh_norm, layer.logits, (layer, layer))
    one = detection_losses(output, target, 3, DetectionLossConfig())
    assert float(one["l1_aux"]) == pytest.approx(2 * float(one["l1"]), rel=1e-5)
    many = detection_losses(output, target, 3, DetectionLossConfig(auxiliary_matches=3))
    assert float(many["l1_aux"]) != pytest.approx(float(one["l1_aux"]), rel=1e-3)


def test_mask_losses_of_perfect_masks() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[0, 2:5, 2:5] = 1
    masks[1, :4] = 1
    output = DecoderOutput((masks * 60 - 30)[:, None], torch.ones(2, 1))
    for name, value in mask_losses(output, masks, 2, MaskLossConfig()).items():
        assert float(value) == pytest.approx(0.0, abs=1e-4), name
    wrong = DecoderOutput(-output.low_res_masks, torch.ones(2, 1))
    losses = mask_losses(wrong, masks, 2, MaskLossConfig())
    assert float(losses["mask_iou"]) == pytest.approx(1.0)
    assert float(losses["mask_dice"]) > 0.8


def test_mask_losses_look_into_the_window() -> None:
    """Errors outside cost almost nothing, and misses inside cost more than in a whole map."""
    truth = torch.zeros(1, 32, 32)
    truth[0, 10:14, 10:14] = 1
    window = torch.zeros(1, 32, 32)
    window[0, 8:16, 8:16] = 1
    perfect, iou = truth * 60 - 30, torch.ones(1, 1)
    elsewhere = perfect.clone()
    elsewhere[0, 25:29, 25:29] = 30
    outside = mask_losses(DecoderOutput(elsewhere[:, None], iou), truth, 1, MaskLossConfig(), window)
    assert float(outside["mask_dice"]) == pytest.approx(0.0, abs=1e-4)
    assert float(outside["mask_iou"]) == pytest.approx(0.0, abs=1e-6)
    assert float(outside["mask_focal"]) > 0.0
    nothing = DecoderOutput(torch.full((1, 1, 32, 32), -3.0), torch.zeros(1, 1))
    seen = mask_losses(nothing, truth, 1, MaskLossConfig(), window)
    whole = mask_losses(nothing, truth, 1, MaskLossConfig())
    assert float(seen["mask_focal"]) > 10 * float(whole["mask_focal"])


def test_enlarged_logits_learn_outlines_between_their_pixels() -> None:
    """Compare a disc five logits wide at the image's resolution, where its outline is finer."""
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    disc = ((y - 23.3) ** 2 + (x - 25.1) ** 2 < 10.2**2).float()[None]
    coarse = (adaptive_avg_pool2d(disc, 12) > 0.5).float()

    def outline_iou(truth: torch.Tensor) -> float:
        logits = torch.zeros(1, 1, 12, 12, requires_grad=True)
        optimizer = torch.optim.Adam([logits], 0.3)
        for _ in range(150):
            optimizer.zero_grad()
            losses = mask_losses(DecoderOutput(logits, torch.ones(1, 1)), truth, 1, MaskLossConfig())
            (losses["mask_focal"] + losses["mask_dice"]).backward()
            optimizer.step()
        found = interpolate(logits.detach(), (48, 48), mode="bilinear", align_corners=False)[0] > 0
        return float((found & (disc > 0)).sum() / (found | (disc > 0)).sum())

    assert outline_iou(disc) > outline_iou(coarse) + 0.03
    assert outline_iou(disc) > 0.97


def test_windows_reach_the_margin_around_the_box() -> None:
    window = _windows(torch.tensor([[64.0, 32.0, 96.0, 128.0]]), 16.0, side=40, size=160)[0]
    rows, columns = window.any(1).nonzero().squeeze(1), window.any(0).nonzero().squeeze(1)
    assert (int(rows[0]), int(rows[-1])) == (4, 35)  # 16..144 pixels, 4 pixels each
    assert (int(columns[0]), int(columns[-1])) == (12, 27)


def test_learning_rate_schedules() -> None:
    step = replace(NANO.stage1, steps=100, warmup_steps=10, schedule="step", drop_at=0.8, drop_factor=0.1)
    assert [learning_rate_factor(s, step) for s in (0, 9, 10, 79, 80)] == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.1])
    cosine = replace(step, schedule="cosine")
    assert [learning_rate_factor(s, cosine) for s in (10, 55, 100)] == pytest.approx([1.0, 0.505, 0.01])


# Samples.


def sample(seed: int = 0, width: int | None = None) -> Sample:
    tile = disc_tile(seed)
    record: Any = type("Record", (), {"height": tile.height, "width": width or tile.width, "dataset": "discs"})()
    return Sample(tile.image, tile.labels, record)


def test_plain_view_is_the_field_resized() -> None:
    image, labels = plain(sample(), 160)
    np.testing.assert_allclose(image, sample().image[:, :160, :160].transpose(1, 2, 0), atol=1e-6)
    np.testing.assert_array_equal(labels, sample().labels[:160, :160])


@given(
    number=st.integers(0, 500),
    zoom=st.floats(0.5, 2.0),
    aspect=st.floats(0, 0.5),
    rotated=st.sampled_from([0, 1]),
    elastic=st.sampled_from([0.0, 5.0]),
)
def test_augmented_labels_stay_on_their_pixels(
    number: int, zoom: float, aspect: float, rotated: float, elastic: float
) -> None:
    """Discs are bright on black, so the image itself shows where the cells are."""
    config = AugmentConfig(zoom=(zoom, zoom), aspect=aspect, rotated=rotated, elastic_px=elastic)
    image, labels = augment(sample(), 96, config, np.random.default_rng(number))
    assert image.shape == (96, 96, 3)
    bright = image[..., 2] > 0.25
    disagree = bright != (labels > 0)
    assert disagree.mean() < 0.06, "only pixels on the edges differ"
    assert set(np.unique(labels)) <= set(np.unique(sample().labels))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_the_record_of_the_built_in_model_is_a_recipe(number: int) -> None:
    """The commands of the model card use this recipe."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / f"training_nano_{number}.json"
    recipe = load_recipe(path)
    assert recipe.model == replace(NANO.model, details=number >= 5)
    assert recipe.masks.upsampling == (2 if number >= 5 else 1)
    assert recipe.augment.diameter_px == (None, *[(18, 60)] * 3, (18, 72), (18, 80))[number - 1]
    assert (recipe.augment.elastic_px > 0) == (number == 6)
    assert recipe.dataset_weights == ({"usiigaci_phase": 3.0} if number >= 4 else {})


@given(number=st.integers(0, 500), diameter=st.floats(15, 40))
def test_views_at_the_scale_of_the_cells(number: int, diameter: float) -> None:
    """The median cell has the wanted diameter for any size of the field, and the aspect is kept."""
    field = sample(width=120)
    config = AugmentConfig(diameter_px=(diameter, diameter), flips=False)
    _, labels = augment(field, 96, config, np.random.default_rng(number))
    truth = {r.label: r for r in regionprops(field.labels[:160, :120])}
    median = np.median([r.area for r in truth.values()])
    for region in regionprops(labels):
        if min(region.bbox[:2]) > 0 and max(region.bbox[2:]) < 96 and region.area > 100:  # a whole disc, not a sliver
            whole = truth[region.label]
            scale = np.sqrt(region.area / whole.area)
            assert scale == pytest.approx(diameter / np.sqrt(4 * median / np.pi), rel=0.12)
            assert region.bbox[2] - region.bbox[0] == pytest.approx(scale * (whole.bbox[2] - whole.bbox[0]), abs=2)
            assert region.bbox[3] - region.bbox[1] == pytest.approx(scale * (whole.bbox[3] - whole.bbox[1]), abs=2)


def test_a_field_without_cells_is_shown_as_it_is() -> None:
    field = replace(sample(), labels=np.zeros_like(sample().labels))
    config = AugmentConfig(diameter_px=(30, 30), flips=False)
    image, labels = augment(field, 160, config, np.random.default_rng(0))
    np.testing.assert_allclose(image, field.image[:, :160, :160].transpose(1, 2, 0), atol=1e-6)
    assert not labels.any()


def test_blank_channels_stay_blank_and_values_in_range() -> None:
    config = AugmentConfig(gamma=0.5, noise=0.2, blur_px=2.0, shading=1.0, sharpening=2.0, elastic_px=5.0)
    image, _ = augment(sample(), 96, config, np.random.default_rng(1))
    assert not image[..., :2].any()
    assert 0 <= image.min() <= image.max() <= 1


def test_one_channel_is_inverted_inside_the_field_alone() -> None:
    config = AugmentConfig(zoom=(0.5, 0.5), flips=False)
    plain_image, labels = augment(sample(), 128, config, np.random.default_rng(3))
    inverted, same = augment(sample(), 128, replace(config, inverted=1.0), np.random.default_rng(3))
    np.testing.assert_array_equal(same, labels)
    assert plain_image[labels > 0][:, 2].mean() > 0.4
    assert inverted[labels > 0][:, 2].mean() < 0.6
    total = plain_image[..., 2] + inverted[..., 2]  # 1 in the field, 0 in the padding, in between at its edges
    assert ((total > 0.999) | (total < 0.001)).mean() > 0.9
    assert (total < 0.001).mean() > 0.5


def test_two_channels_are_dropped_and_swapped() -> None:
    one = sample()
    image = np.zeros_like(one.image)
    image[1], image[2] = one.image.max(axis=0), 0.25
    pair, config = replace(one, image=image), AugmentConfig(flips=False)
    both, _ = augment(pair, 128, config, np.random.default_rng(0))
    alone, _ = augment(pair, 128, replace(config, membrane_alone=1.0), np.random.default_rng(0))
    swapped, _ = augment(pair, 128, replace(config, channels_swapped=1.0), np.random.default_rng(0))
    assert not alone[..., :2].any()
    np.testing.assert_allclose(alone[..., 2], both[..., 2])
    np.testing.assert_allclose(swapped[..., 1:], both[..., :0:-1])
    colour = replace(one, image=np.stack([one.image.max(axis=0)] * 3))
    every = replace(config, membrane_alone=1.0, channels_swapped=1.0, inverted=1.0)
    changed, _ = augment(colour, 128, every, np.random.default_rng(0))
    np.testing.assert_allclose(changed, augment(colour, 128, config, np.random.default_rng(0))[0])


def test_elastic_views_have_other_shapes() -> None:
    labels = np.zeros_like(sample().labels)
    labels[:160, :160] = np.hypot(*(np.mgrid[:160, :160] - 79.5)) < 25
    field = replace(sample(), labels=labels)
    config = AugmentConfig(flips=False, elastic_px=8.0)
    bent = [regionprops(augment(field, 160, config, np.random.default_rng(n))[1])[0] for n in range(30)]
    lengths = [region.axis_major_length / region.axis_minor_length for region in bent]
    assert (np.quantile(lengths, [0.5, 0.9]) > (1.1, 1.2)).all(), "no longer round"
    moved = [np.subtract(region.centroid, 79.5) for region in bent]
    assert 0.5 < np.std(moved) < 8 / 3**0.5, "up to 8 pixels, drawn evenly"
    assert np.std([_smooth(2, 160, 48, np.random.default_rng(n)) for n in range(20)]) == pytest.approx(0.75, abs=0.15)


def test_light_and_outlines_change_where_they_should() -> None:
    field = sample()
    plain_view = augment(field, 160, AugmentConfig(flips=False), np.random.default_rng(0))[0][..., 2]
    for change in ({"shading": 0.5}, {"sharpening": 2.0}):
        image, labels = augment(field, 160, AugmentConfig(flips=False, **change), np.random.default_rng(3))
        np.testing.assert_array_equal(labels, field.labels[:160, :160])
        difference = np.abs(image[..., 2] - plain_view)
        assert difference.max() > 0.05
        edges = (plain_view > 0) & (ndimage.minimum_filter(plain_view, 5) == 0)
        deep = ndimage.minimum_filter(plain_view > 0.25, 15)
        if "sharpening" in change:
            assert difference[edges].mean() > 2 * difference[deep].mean()
        else:
            ratio = image[..., 2][deep] / plain_view[deep]
            assert ratio.std() > 0.01
            assert not image[..., 2][plain_view == 0].any(), "dark ground stays dark"


def test_boxes_of_labels() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[10:20, 30:60] = 4
    labels[50, 50] = 2  # a fragment
    labels[70:80, 70:80] = 7
    boxes, numbered = boxes_of(labels)
    np.testing.assert_allclose(boxes, [[0.45, 0.15, 0.3, 0.1], [0.75, 0.75, 0.1, 0.1]], atol=1e-6)
    assert numbered[15, 40] == 1
    assert numbered[50, 50] == 0
    assert numbered[75, 75] == 2
    assert boxes_of(np.zeros((9, 9), np.int32))[0].shape == (0, 4)


def test_a_sample_depends_on_its_number_alone(data: Path) -> None:
    first = TrainingSamples(read_split(data, "train"), TINY)
    second = TrainingSamples(read_split(data, "train"), TINY)
    _ = second[3]
    for a, b in zip(first[7], second[7], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[7][0], first[8][0])


def test_mosaics_hold_four_views_with_labels_of_their_own(data: Path) -> None:
    recipe = replace(TINY, augment=AugmentConfig(mosaic=1.0, flips=False))
    size = recipe.model.image_size
    samples = TrainingSamples(read_split(data, "train"), recipe)
    for number in range(5):
        pixels, boxes, labels, _ = samples[number]
        assert pixels.shape == (3, size, size)
        assert labels.shape == (size, size)
        assert len(boxes) == labels.max() >= 4
        half = size // 2
        quadrants = [labels[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
        found = [set(np.unique(quadrant[quadrant > 0]).tolist()) for quadrant in quadrants]
        assert all(found)
        assert sum(map(len, found)) == len(set.union(*found))
        bright = pixels[2] > pixels[2].min() + 0.5
        assert bright[labels > 0].mean() > 0.95


def test_rare_channels_are_seen_often(tmp_path: Path) -> None:
    """Colour images among gray ones of a dataset are drawn by the square root of their share."""
    root = make_dataset(tmp_path / "discs", tiles=10)
    colour = root / "train" / "images" / "disc0.npy"
    image = np.load(colour)
    image[:2] = image[2]
    np.save(colour, image)
    samples = TrainingSamples(read_split(root, "train"), replace(TINY, augment=AugmentConfig()))
    blank = float(paper_input(np.zeros((8, 8, 3), np.float32), 8)[0].max())
    coloured = sum(bool((samples[n][0][0] > blank + 0.1).any()) for n in range(400)) / 400
    assert coloured == pytest.approx(1 / (1 + 3), abs=0.07)


def test_datasets_are_drawn_by_their_weights(tmp_path: Path) -> None:
    make_dataset(tmp_path / "dark", tiles=3, name="dark")
    bright = make_dataset(tmp_path / "bright", tiles=3, name="bright")
    for path in (bright / "train" / "images").glob("*.npy"):
        np.save(path, np.repeat(np.load(path)[2:], 3, axis=0))
    plain = replace(TINY, augment=AugmentConfig())

    def share_of_bright(weights: dict[str, float]) -> float:
        samples = TrainingSamples(read_split(tmp_path, "train"), replace(plain, dataset_weights=weights))
        blank = float(paper_input(np.zeros((8, 8, 3), np.float32), 8)[0].max())
        return sum(bool((samples[n][0][0] > blank + 0.1).any()) for n in range(300)) / 300

    assert share_of_bright({}) == pytest.approx(1 / 2, abs=0.08)
    assert share_of_bright({"bright": 3.0}) == pytest.approx(3 / 4, abs=0.07)
    with pytest.raises(ValueError, match="dataset_weights names dim"):
        share_of_bright({"dim": 2.0})


@given(batch=st.integers(1, 4), processes=st.integers(1, 3), first=st.integers(0, 5))
def test_processes_share_every_batch(batch: int, processes: int, first: int) -> None:
    size = batch * processes
    alone = list(StepSampler(size, 8, first_step=first))
    shared = [list(StepSampler(size, 8, first_step=first, rank=r, processes=processes)) for r in range(processes)]
    for step, whole in enumerate(alone):
        assert [n for part in shared for n in part[step]] == whole
    assert alone == list(StepSampler(size, 8))[first:]


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a multiple of the 2 processes"):
        StepSampler(3, 5, processes=2)


# Recipes.


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"preset": name, **json.loads(PRESETS[name].to_json())}))
    assert load_recipe(path) == PRESETS[name] == load_recipe(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"stage1": {"stepps": 3}}', "unknown fields stage1.stepps"),
        ('{"stage1": {"steps": 0}}', "expected 1 or more"),
        ('{"preset": "huge"}', "huge"),
        ('{"dataset_weights": {"discs": 0}}', "expected values above 0"),
        ('{"dataset_weights": 3}', "not a recipe: dataset_weights is 3, expected object"),
        ('{"stage2": {"learning_rate": "fast"}}', "stage2.learning_rate is 'fast', expected float"),
        ('{"model": {"stem": [8, 16.5]}}', r"model.stem\[1\] is 16.5, expected int"),
        ('{"augment": {"zoom": [1]}}', "augment.zoom is"),
        ('{"precision": "16"}', "precision is '16', expected one of 32-true, bf16-mixed, 16-mixed"),
        ("{", "not a recipe"),
        ("[]", "not a recipe"),
    ],
)
def test_wrong_recipes_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
    with pytest.raises(RecipeError, match="neither a preset"):
        load_recipe("nothing")


def test_local_init_attends_to_the_queries_own_place() -> None:
    model, _ = initial_model(NANO, None)
    assert model.cellfinder is not None
    layer = model.cellfinder.decoder_layers[1].cross_attn
    positions = model.cellfinder.positions()
    weights = layer.in_proj_weight.chunk(5)
    q = (positions.query_x @ weights[0].T).unflatten(-1, (layer.heads, -1))
    k = (positions.row @ weights[2].T).unflatten(-1, (layer.heads, -1))
    found = torch.einsum("ahd,whd->haw", q, k).argmax(-1)
    own = (model.cellfinder.anchor_points[:, 0] * 32).long().clamp(max=31)
    assert ((found - own).abs() <= 1).float().mean() > 0.95


# Whole runs.


def losses_of(out: Path) -> list[tuple[int, float]]:
    """Return steps and losses, in the order of the run's starts."""
    rows = []
    for path in sorted((out / "csv").glob("start*/metrics.csv")):
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row.get("train/loss")]
    return [(int(row["step"]), float(row["train/loss"])) for row in rows]


def weights_of(path: Path) -> dict[str, Any]:
    return load_checkpoint(path).model.state_dict()


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_stage(1, TINY, RunConfig(out=out, data=data, accelerator="cpu", save_every=2, pictures_every=3))
    return out


def test_a_run_leaves_weights_logs_and_pictures(whole_run: Path) -> None:
    assert [step for step, _ in losses_of(whole_run)] == list(range(6))
    assert (whole_run / "pictures" / "step0000003.png").is_file()
    assert any((whole_run / "tensorboard").iterdir())
    assert load_recipe_of(whole_run)["stage1"]["steps"] == 6
    assert load_checkpoint(whole_run / "last.ckpt").model.config == TINY.model
    assert load_checkpoint(whole_run / "stage1.pt").licence == "trained by the user"


def load_recipe_of(out: Path) -> Any:
    return json.loads((out / "stage1.json").read_text())


def test_a_resumed_run_ends_like_an_uninterrupted_one(whole_run: Path, data: Path, tmp_path: Path) -> None:
    """Kill a run after step 4, which has a checkpoint; the rest is repeated from there."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "import lightning.pytorch as pl\n"
        "import training.train as t\n"
        "from tests.training.test_training import TINY\n"
        "class Kill(pl.Callback):\n"
        "    def on_train_batch_start(self, trainer, *_):\n"
        "        if trainer.global_step == 5: os._exit(9)\n"
        "original = t._pictures\n"
        "t._pictures = lambda *a: [*original(*a), Kill()]\n"
        "t.run_stage(1, TINY, t.RunConfig(out=Path(sys.argv[1]), data=Path(sys.argv[2]), accelerator='cpu',"
        " save_every=2, pictures_every=0))\n"
    )
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), str(data)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    assert not (out / "stage1.pt").exists()
    run_stage(1, TINY, RunConfig(out=out, data=data, accelerator="cpu", save_every=2, pictures_every=0))
    assert len(list((out / "csv").iterdir())) == 2, "the log of the first start is kept"
    expected, found = dict(losses_of(whole_run)), losses_of(out)
    for step, loss in found:
        assert loss == pytest.approx(expected[step], rel=1e-6), step
    assert found[-1][0] == 5
    # Sums of several threads round differently in each run, and Adam turns this into full steps where a gradient is
    # nearly 0: one thread ends 0.4 % of the training distance from two threads, a lost optimizer state 16 %.
    start, whole = initial_model(TINY, None)[0].state_dict(), weights_of(whole_run / "stage1.pt")
    assert distance(weights_of(out / "stage1.pt"), whole) < 0.02 * distance(start, whole)


def distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Return the Euclidean distance of two models' weights."""
    return sum(float((first[key].double() - second[key].double()).square().sum()) for key in second) ** 0.5


def test_two_processes_equal_one(whole_run: Path, data: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from training.train import RunConfig, run_stage\n"
        "from tests.training.test_training import TINY\n"
        "run_stage(1, TINY, RunConfig(out=Path(sys.argv[1]), data=Path(sys.argv[2]), accelerator='cpu', devices=2,"
        " pictures_every=0))\n"
    )
    path = tmp_path / "two.py"
    path.write_text(script)
    out = tmp_path / "two"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(path), str(out), str(data)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    expected, found = losses_of(whole_run), losses_of(out)
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=2e-3)
    # As above: if a gradient is nearly 0, its rounding decides the sign of Adam's first steps.
    start, whole = initial_model(TINY, None)[0].state_dict(), weights_of(whole_run / "stage1.pt")
    assert distance(weights_of(out / "stage1.pt"), whole) < 0.02 * distance(start, whole)


def test_stage_2_trains_the_neck_and_the_decoder_only(whole_run: Path, data: Path, tmp_path: Path) -> None:
    first = whole_run / "stage1.pt"
    with pytest.raises(ValueError, match="stage 2 has no weights to start from"):
        run_stage(2, TINY, RunConfig(out=tmp_path / "none", data=data, accelerator="cpu"))
    for recipe, prefixes in (
        (replace(TINY, train_decoder_in_stage2=False), ("encoder.neck.", "encoder.details.")),
        (TINY, ("encoder.neck.", "encoder.details.", "prompt_encoder.", "mask_decoder.")),
    ):
        out = tmp_path / str(recipe.train_decoder_in_stage2)
        final = run_stage(2, recipe, RunConfig(out=out, data=data, init=first, accelerator="cpu", pictures_every=0))
        before, after = weights_of(first), weights_of(final)
        # The running average rounds the frozen weights' last bit.
        changed = {key for key in before if not torch.allclose(before[key], after[key], rtol=1e-6, atol=1e-7)}
        assert changed
        assert all(key.startswith(prefixes) for key in changed)


def test_a_trained_checkpoint_exports_like_any_other(whole_run: Path, tmp_path: Path, image: Any) -> None:
    manifest = export_engines(whole_run / "stage1.pt", tmp_path / "engines")
    assert manifest.profile == "paper"
    assert Segmenter(tmp_path / "engines")(image).labels.shape == image.shape


def test_weights_of_another_size_are_refused(whole_run: Path, data: Path, tmp_path: Path) -> None:
    larger = replace(TINY, model=replace(TINY.model, encoder_depth=5))
    with pytest.raises(ValueError, match="model of other sizes"):
        run_stage(2, larger, RunConfig(out=tmp_path, data=data, init=whole_run / "stage1.pt", accelerator="cpu"))
