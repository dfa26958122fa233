"""Tests of checkpoints in every accepted format, and of invalid files."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.seeded_weights import released_keys
from tests.small import SEPARATE, SMALL, save_small, small_model
from training.checkpoint import (
    CELLSAM_LICENCE,
    METADATA_KEY,
    SAM_LICENCE,
    CheckpointError,
    load_checkpoint,
    metadata,
    save_checkpoint,
)

BODY = "cellfinder.decode_head.backbone.body."


def released_state(value: float = 0.0) -> dict[str, torch.Tensor]:
    """Return every key and shape of the released checkpoint; each tensor stores one number, so the file is small."""
    return {key: torch.full((1,), value).expand(shape) for key, (shape, _) in released_keys().items()}


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_released_keys_and_shapes_all_load(tmp_path: Path) -> None:
    state = released_state()
    assert len(state) == 1041
    checkpoint = load_checkpoint(write(tmp_path / "released.pt", state))
    assert checkpoint.source_format == "cellsam"
    assert checkpoint.licence == CELLSAM_LICENCE
    assert checkpoint.renormalize
    assert checkpoint.model.config.trunk == "shared"


def test_released_format_takes_the_copy_and_sees_separate_trunks(tmp_path: Path) -> None:
    state = released_state()
    state["model_cp.mask_decoder.iou_token.weight"] = torch.full((1, 256), 2.0)
    state[BODY + "blocks.7.mlp.lin2.bias"] = torch.full((768,), 3.0)
    state["cellfinder.decode_head.transformer.position.weight"] = torch.full((3500, 2), 0.25)
    checkpoint = load_checkpoint(write(tmp_path / "released.pt", state))
    model = checkpoint.model
    assert model.config.trunk == "separate"
    assert model.mask_decoder.iou_token.weight[0, 0] == 2.0
    assert model.detector_encoder is not None
    assert model.detector_encoder.blocks[7].mlp.lin2.bias[0] == 3.0
    assert model.cellfinder is not None
    assert model.cellfinder.anchor_points[0, 0] == 0.25


def test_released_format_without_the_copy(tmp_path: Path) -> None:
    """Older weights contain only ``model``; the released code then omits the second normalisation."""
    state = {key: value for key, value in released_state().items() if not key.startswith("model_cp.")}
    checkpoint = load_checkpoint(write(tmp_path / "released.pt", {"state_dict": state}))
    assert not checkpoint.renormalize
    assert checkpoint.model.config.trunk == "shared"


def test_heads_that_are_not_one_module_are_named(tmp_path: Path) -> None:
    state = released_state()
    key = "cellfinder.decode_head.transformer.bbox_embed.3.layers.2.bias"
    state[key] = torch.ones(4)
    with pytest.raises(CheckpointError, match=f"differ from layer 0: {key}$"):
        load_checkpoint(write(tmp_path / "released.pt", state))


def test_every_wrong_key_is_named(tmp_path: Path) -> None:
    state = released_state()
    del state["model_cp.prompt_encoder.no_mask_embed.weight"], state[BODY + "pos_embed"]
    state["model_cp.image_encoder.neck.1.bias"] = torch.zeros(7)
    state["model.image_encoder.extra"] = torch.zeros(1)
    state["model_cp.mask_decoder.iou_token.weight"] = torch.full((1, 256), float("nan"))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(write(tmp_path / "released.pt", state))
    for part in (
        "5 keys",
        "missing model_cp.prompt_encoder.no_mask_embed.weight (1, 256)",
        f"missing {BODY}pos_embed (1, 64, 64, 768)",
        "model_cp.image_encoder.neck.1.bias has shape (7,), expected (256,)",
        "unexpected model.image_encoder.extra",
        "model_cp.mask_decoder.iou_token.weight contains NaN",
    ):
        assert part in str(error.value)


def test_sam_weights_load_without_a_detector(tmp_path: Path) -> None:
    state = {key.removeprefix("model."): value for key, value in released_state().items() if key.startswith("model.")}
    checkpoint = load_checkpoint(write(tmp_path / "sam_vit_b.pth", state))
    assert checkpoint.source_format == "sam"
    assert checkpoint.licence == SAM_LICENCE
    assert checkpoint.model.cellfinder is None


@pytest.mark.parametrize("config", [SMALL, SEPARATE])
def test_own_format_round_trip(tmp_path: Path, config: Any) -> None:
    model = small_model(config)
    save_checkpoint(tmp_path / "own.pt", model, licence="CC0-1.0")
    checkpoint = load_checkpoint(tmp_path / "own.pt")
    assert checkpoint.licence == "CC0-1.0"
    assert checkpoint.model.config == config
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint.model.state_dict()[key]), key


def test_lightning_checkpoint(tmp_path: Path) -> None:
    """Lightning keeps the model as an attribute and adds its own entries."""
    state = {f"model.{key}": value for key, value in small_model().state_dict().items()}
    content = {METADATA_KEY: metadata(SMALL, "CC0-1.0"), "state_dict": state, "epoch": 3, "optimizer_states": []}
    assert load_checkpoint(write(tmp_path / "last.ckpt", content)).model.config == SMALL


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small_model().state_dict().items()}
    path = write(tmp_path / "half.pt", {METADATA_KEY: metadata(SMALL, ""), "state_dict": state})
    assert {p.dtype for p in load_checkpoint(path).model.parameters()} == {torch.float32}


class _Payload:
    """Unpickling this would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = write(tmp_path / "evil.pt", {"model.weight": _Payload(marker)})
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        load_checkpoint(path)
    plain = tmp_path / "evil.pickle"
    plain.write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(CheckpointError):
        load_checkpoint(plain)
    assert not marker.exists()


@pytest.mark.parametrize("size", [0, 4, 1000, 100_000])
def test_cut_off_file(tmp_path: Path, size: int) -> None:
    path = save_small(tmp_path / "whole.pt", SMALL)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        load_checkpoint(cut)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    return save_small(tmp_path / "whole.pt", SMALL)


def test_flipped_bits_are_noticed(small_file: Path, tmp_path: Path) -> None:
    """Check altered files, nearly all of which PyTorch itself loads."""
    content = small_file.read_bytes()
    with zipfile.ZipFile(small_file) as archive:
        records = [
            (entry.header_offset + 400, entry.file_size) for entry in archive.infolist() if entry.file_size > 2000
        ]
    assert len(records) > 10
    for offset, size in records[:20]:
        damaged = bytearray(content)
        damaged[offset + size // 2] ^= 1 << offset % 8
        path = tmp_path / "flipped.pt"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"flipped\.pt was altered: its record '.*'; expected|checksum"):
            load_checkpoint(path)


def test_a_pinned_checkpoint(small_file: Path) -> None:
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert load_checkpoint(small_file, sha256=digest.upper()).sha256 == digest
    with pytest.raises(CheckpointError, match=rf"has the sha256 {digest}; expected 'abc'\. .*sha256=") as info:
        load_checkpoint(small_file, sha256="abc")
    assert (info.value.kind, info.value.field) == ("mismatch", "sha256")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, r"another model.*2 keys.*conv\.weight"),
        ({}, "another model"),
        ([torch.zeros(1)], "contains a list"),
        ({METADATA_KEY: {"schema": 99}, "state_dict": {}}, "schema is 99"),
        ({METADATA_KEY: {"schema": 1, "model": {"image_size": 64}}, "state_dict": {}}, "damaged"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(tmp_path / "other.pt", content))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"encoder_heads": 0}, "encoder_heads is 0"),
        ({"anchors": -3}, "anchors is -3"),
        ({"encoder_dim": 10**9}, "encoder_dim is 1000000000; expected a whole number from 1 to 8192"),
        ({"encoder_depth": 10**6}, "encoder_depth is 1000000; expected"),
        ({"encoder_mlp_ratio": 1e9}, "encoder_mlp_ratio is 1000000000.0; expected a number above 0"),
        ({"position_cycles": float("nan")}, "position_cycles is nan"),
        ({"stem": (8, 16, 10**9)}, "stem is .* multiples of 8"),
        ({"image_size": 160.0}, "image_size is 160.0"),
        ({"finder_dropout": 7}, "finder_dropout is 7"),
        ({"colour": 1}, "colour"),
    ],
)
def test_impossible_sizes_in_a_checkpoint(tmp_path: Path, sizes: Any, message: str) -> None:
    meta = metadata(SMALL, "")
    content = {METADATA_KEY: {**meta, "model": {**meta["model"], **sizes}}, "state_dict": {}}
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(tmp_path / "odd.pt", content))


@pytest.mark.parametrize("state", [5, [1], {3: torch.zeros(1)}])
def test_a_state_dict_that_is_none(tmp_path: Path, state: Any) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(write(tmp_path / "odd.pt", {METADATA_KEY: metadata(SMALL, ""), "state_dict": state}))


def test_weights_must_be_floating_point_and_fit_float32(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(small_model().state_dict())
    state["encoder.pos_embed"] = state["encoder.pos_embed"].to(torch.int64)
    state["encoder.neck.0.weight"] = torch.full((64, 48, 1, 1), 1e300, dtype=torch.float64)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(write(tmp_path / "odd.pt", {METADATA_KEY: metadata(SMALL, ""), "state_dict": state}))
    assert "encoder.pos_embed has dtype torch.int64, expected floating point" in str(error.value)
    assert "encoder.neck.0.weight contains NaN or infinity" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a file"):
        load_checkpoint(tmp_path / "nothing.pt")
