"""Tests of CellSAM in PyTorch: shapes, sizes, auxiliary outputs, and golden outputs of the released code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.ops.model_input import box_branch_input, mask_branch_input
from runtime.ops.preprocess import normalize_contrast
from tests.golden.cases import LOGITS_ATOL, GoldenCase, assert_close
from tests.small import SMALL, small_model
from training.checkpoint import load_checkpoint
from training.model import CellSAM, ModelConfig
from training.model.details import pack, unpack, unpack_details
from training.model.image_encoder import same_body
from training.model.position import inverse_sigmoid, sine_embedding_1d, sine_embedding_2d
from training.model.windowed import OUTSIDE_LOGIT, Windows, windows_of


def test_shapes_follow_the_config() -> None:
    model = small_model()
    features, embedding = model.encode(torch.randn(2, 3, 160, 160))
    assert features.shape == (2, 48, 10, 10)
    assert embedding.shape == (2, 64, 10, 10)
    found = model.detect(features, auxiliary=True)
    assert found.boxes_cxcywh_norm.shape == (2, 150, 4)
    assert found.logits.shape == (2, 150, 2)
    assert len(found.auxiliary) == SMALL.finder_decoder_layers - 1
    decoded = model.decode(embedding[:1], torch.rand(5, 4) * 160)
    assert decoded.low_res_masks.shape == (5, 1, 40, 40)
    assert decoded.iou_predictions.shape == (5, 1)


def test_masks_are_those_of_sams_own_forward() -> None:
    """Compare ``decode``, which omits the heads of masks that SAM drops, for boxes of several images at once."""
    model = small_model()
    embedding, boxes, index = torch.randn(3, 64, 10, 10), torch.rand(6, 4) * 160, torch.tensor([2, 0, 0, 1, 2, 2])
    with torch.inference_mode():
        found = model.decode(embedding, boxes, index)
        for k, b in enumerate(index.tolist()):
            sparse, dense = model.prompt_encoder(points=None, boxes=boxes[k : k + 1, None], masks=None)
            masks, iou = model.mask_decoder(
                image_embeddings=embedding[b : b + 1],
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            torch.testing.assert_close(found.low_res_masks[k : k + 1], masks, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.iou_predictions[k : k + 1], iou, rtol=1e-4, atol=1e-5)


def test_a_decoder_that_sees_windows() -> None:
    """Windows of the whole grid equal the other decoder; smaller windows see nothing outside."""
    whole, windowed = small_model(), small_model(replace(SMALL, windowed_decoder=True))
    windowed.load_state_dict(whole.state_dict())
    embedding, index = torch.randn(2, 64, 10, 10), torch.tensor([1, 0, 1])
    boxes = torch.tensor([[20.0, 20.0, 50.0, 60.0], [0.0, 0.0, 160.0, 160.0], [100.0, 110.0, 120.0, 140.0]])
    tokens = torch.arange(10).expand(3, 10)
    with torch.inference_mode():
        expected = whole.decode(embedding, boxes, index)
        found = windowed.decode(embedding, boxes, index, windows=[Windows(torch.arange(3), tokens, tokens)])
        torch.testing.assert_close(found.low_res_masks, expected.low_res_masks, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.iou_predictions, expected.iou_predictions, rtol=1e-4, atol=1e-5)
        seen = windowed.decode(embedding, boxes, index)
        elsewhere = embedding.clone()
        elsewhere[1, :, 9, 0] += 1.0  # outside the windows of the first and the last box
        again = windowed.decode(elsewhere, boxes, index)
    groups = windows_of(boxes, 160, 10)
    assert [(group.members.tolist(), group.rows.shape[1]) for group in groups] == [([0, 2], 8), ([1], 10)]
    torch.testing.assert_close(again.low_res_masks, seen.low_res_masks, rtol=0, atol=0)
    assert (seen.low_res_masks[0, 0, 32:] == OUTSIDE_LOGIT).all()
    assert (seen.low_res_masks[0, 0, :32, :32] != OUTSIDE_LOGIT).all()
    torch.testing.assert_close(seen.low_res_masks[1], expected.low_res_masks[1], rtol=1e-4, atol=1e-4)


def test_a_windowed_decoder_is_trained_through_its_windows() -> None:
    model = small_model(replace(SMALL, windowed_decoder=True))
    embedding = torch.randn(1, 64, 10, 10, requires_grad=True)
    model.decode(embedding, torch.tensor([[20.0, 20.0, 50.0, 60.0]])).low_res_masks.sum().backward()
    assert embedding.grad is not None
    touched = embedding.grad[0].abs().sum(0) > 0
    assert touched[:8, :8].all()
    assert not touched[8:].any()
    assert not touched[:, 8:].any()


def test_a_convolutional_stem_has_the_shape_of_the_patch_embedding() -> None:
    model = small_model(replace(SMALL, stem=(8, 16, 24)))
    features, embedding = model.encode(torch.randn(2, 3, 160, 160))
    assert features.shape == (2, 48, 10, 10)
    assert embedding.shape == (2, 64, 10, 10)
    assert len([layer for layer in model.encoder.patch_embed if isinstance(layer, torch.nn.Conv2d)]) == 4


def test_details_reach_the_pixels_they_come_from() -> None:
    """A change of the image under one token changes only the details of that token, packed and unpacked."""
    x = torch.randn(2, 3, 8, 12)
    assert pack(x).shape == (2, 12, 4, 6)
    torch.testing.assert_close(pack(x)[1, :, 2, 5].reshape(2, 2, 3), x[1, :, 4:6, 10:12].permute(1, 2, 0))
    torch.testing.assert_close(unpack(pack(x)), x)

    model = small_model(replace(SMALL, stem=(8, 16, 24), details=True))
    image = torch.rand(1, 3, 160, 160)
    other = image.clone()
    other[..., 80:88, 32:40] += 10.0  # places (20..21, 8..9) at stride 4, (10, 4) at stride 8
    with torch.inference_mode():
        before, after = (model.encode(x).image_embedding for x in (image, other))
        assert before.shape == (1, 4 * 64, 10, 10)
        coarse, fine = (
            (b - a).abs().amax((0, 1))
            for a, b in zip(*(unpack_details(x[:, 64:]) for x in (before, after)), strict=True)
        )
        decoded = model.decode(
            before.expand(2, -1, -1, -1), torch.tensor([[70.0, 30.0, 110.0, 60.0]]), torch.tensor([1])
        )
    assert coarse.shape == (20, 20)
    assert fine.shape == (40, 40)
    for change, low, high in ((fine, (18, 6), (24, 12)), (coarse, (8, 2), (13, 7))):
        inside = change[low[0] : high[0], low[1] : high[1]].max()
        assert inside == change.max() > 10 * change.median()
    assert decoded.low_res_masks.shape == (1, 1, 40, 40)


def test_fresh_details_change_nothing() -> None:
    """Weights trained without details can be trained further with them."""
    config = replace(SMALL, stem=(8, 16, 24))
    plain, detailed = small_model(config), CellSAM(replace(config, details=True)).eval()
    missing, unexpected = detailed.load_state_dict(plain.state_dict(), strict=False)
    assert {key.rsplit(".", 2)[0] for key in missing} == {"encoder.details"}
    assert not unexpected
    image, boxes = torch.rand(1, 3, 160, 160), torch.tensor([[20.0, 30.0, 60.0, 90.0]])
    with torch.inference_mode():
        expected = plain.decode(plain.encode(image).image_embedding, boxes)
        found = detailed.decode(detailed.encode(image).image_embedding, boxes)
    torch.testing.assert_close(found.low_res_masks, expected.low_res_masks, rtol=0, atol=0)


def test_local_init_spreads_the_prompts_frequencies() -> None:
    plain, local = CellSAM(SMALL), CellSAM(SMALL)
    local.load_state_dict(plain.state_dict())
    local.init_local()
    before, after = (m.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix for m in (plain, local))
    factor = (after / before).mean(0)
    assert float(factor[0]) == pytest.approx(1.0)
    assert float(factor[-1]) == pytest.approx(10.0, rel=1e-4)
    assert (factor.diff() > 0).all()


def test_auxiliary_outputs_leave_the_last_layer_unchanged() -> None:
    model = small_model()
    features = torch.randn(1, 48, 10, 10)
    torch.testing.assert_close(
        model.detect(features).logits, model.detect(features, auxiliary=True).logits, rtol=0, atol=0
    )


def test_detections_do_not_depend_on_other_images_of_the_batch() -> None:
    model = small_model()
    features = torch.randn(3, 48, 10, 10)
    together = model.detect(features).boxes_cxcywh_norm[1]
    torch.testing.assert_close(together, model.detect(features[1:2]).boxes_cxcywh_norm[0], rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_trained_part() -> None:
    model = small_model().train()
    features, embedding = model.encode(torch.randn(1, 3, 160, 160))
    found = model.detect(features, auxiliary=True)
    decoded = model.decode(embedding, torch.tensor([[10.0, 20.0, 60.0, 90.0]]))
    loss = sum(o.logits.square().mean() + o.boxes_cxcywh_norm.mean() for o in (found, *found.auxiliary))
    (loss + decoded.low_res_masks.square().mean() + decoded.iou_predictions.mean()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # SAM's parts for point and mask prompts are not used for boxes.
    expected = ("point_embeddings.0", "point_embeddings.1", "not_a_point", "mask_downscaling", "hypernetworks_mlps.")
    assert all(any(part in name for part in expected) for name in without), sorted(without)


def test_no_detector_is_an_error_that_says_so() -> None:
    model = small_model(replace(SMALL, detector=False))
    with pytest.raises(ValueError, match="no CellFinder"):
        model.detect(torch.zeros(1, 48, 10, 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 150}, "not a multiple"),
        ({"encoder_heads": 5}, "encoder_heads"),
        ({"global_attention_blocks": (4,)}, "expected indices below encoder_depth"),
        ({"trunk": "both"}, "expected 'shared'"),
        ({"stem": (8, 16)}, "expected patches of 16"),
        ({"stem": (8, 12, 16)}, "expected multiples of 8"),
        ({"details": True}, "need a stem of two levels"),
        ({"trunk": "separate", "detector": False}, "needs a detector"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_default_config_is_the_released_model() -> None:
    config = ModelConfig()
    assert (config.grid_size, config.encoder_dim, config.anchors) == (64, 768, 3500)


def test_inverse_sigmoid_inverts_and_stays_finite() -> None:
    x = torch.tensor([-3.0, 0.0, 2.5])
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(inverse_sigmoid(torch.tensor([0.0, 1.0]))).all()


def test_sine_embedding_is_interleaved_with_y_before_x() -> None:
    embedded = sine_embedding_1d(torch.tensor([0.25]), 4)
    angle = 2 * np.pi * 0.25
    expected = [np.sin(angle), np.cos(angle), np.sin(angle / 100), np.cos(angle / 100)]
    np.testing.assert_allclose(embedded[0].numpy(), expected, atol=1e-6)
    both = sine_embedding_2d(torch.tensor([[0.25, 0.75]]), 8)
    torch.testing.assert_close(both[:, 4:], embedded)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let PyTorch split its sums as it did for the tolerances: with one thread, twice as many mask logits are off."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.full_size
@pytest.mark.usefixtures("two_threads")
def test_golden(golden: GoldenCase) -> None:
    """Compare the whole model with the released code, stage by stage."""
    arrays = golden.arrays
    model = load_checkpoint(golden.checkpoint).model
    assert model.config.trunk == golden.trunk
    assert (model.detector_encoder is None) == (golden.trunk == "shared")
    normalized = normalize_contrast(arrays["image"])
    with torch.inference_mode():
        embedding = model.encode(torch.from_numpy(mask_branch_input(normalized, 1024)[None])).image_embedding
        assert_close(embedding[:, ::4, ::4, ::4].numpy(), arrays["embedding_s4"], "image embedding")
        features = model.detector_features(torch.from_numpy(box_branch_input(normalized, 1024)[None]))
        assert_close(features[:, ::8, ::4, ::4].numpy(), arrays["detector_features_s4"], "patch features")
        found = model.detect(features)
        assert_close(found.logits.numpy(), arrays["pred_logits"], "logits", atol=LOGITS_ATOL)
        assert_close(found.boxes_cxcywh_norm.numpy(), arrays["pred_boxes"], "boxes")
        decoded = model.decode(embedding, torch.from_numpy(arrays["kept_boxes_1024"]))
    masks = decoded.low_res_masks[:, 0].numpy()
    assert_close(masks[:, ::4, ::4], arrays["low_res_masks_s4"], "mask logits")
    assert_close(masks[:4], arrays["low_res_masks_first4"], "mask logits of the first four boxes")
    assert_close(decoded.iou_predictions[:, 0].numpy(), arrays["iou_predictions"], "IoU predictions")


def test_same_body_compares_every_weight() -> None:
    a, b = small_model().encoder, small_model().encoder
    assert same_body(a, b)
    with torch.no_grad():
        b.neck[0].weight.add_(1.0)
    assert same_body(a, b), "the neck is not part of the body"
    with torch.no_grad():
        b.blocks[2].mlp.lin1.bias[5] += 1e-3
    assert not same_body(a, b)
