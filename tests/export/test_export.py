"""Export and verification of small models: graphs, failures, and what they leave behind."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from export import exporter
from export.errors import ExportError, VerificationError
from export.exporter import ExportConfig, export_engines, verify_directory
from export.graphs import CellFinderGraph, EncoderGraph, Form, MaskDecoderGraph
from export.verify import Tolerance, Truth, compare
from runtime import EngineError, InputError, SegmentConfig, Segmenter
from runtime.engines.backends.ort import OrtEngine
from runtime.engines.manifest import Target, read_manifest
from tests.engine_sources import renew_sums, source_of
from tests.small import CALM, SEPARATE, SMALL, calm_model, save_small, small_model
from training.checkpoint import save_checkpoint
from training.model import ModelConfig
from training.model.windowed import Windows


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, window_size=5, global_attention_blocks=()),
        replace(SMALL, stem=(8, 16, 24)),
        replace(SMALL, stem=(8, 16, 24), details=True),
    ],
)
@pytest.mark.parametrize("form", get_args(Form))
def test_encoder_graph_equals_the_model(config: ModelConfig, form: Form) -> None:
    model = small_model(config)
    pixels = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        expected = model.encode(pixels)
        found = EncoderGraph(model.encoder, features=True, embedding=True, form=form)(pixels)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"finder_decoder_layers": 1}, {}, {"queries": "features", "anchors": 100, "offset_scale": 0.25}],
)
@pytest.mark.parametrize(("target", "fused"), [("any", False), ("any", True), ("gpu", False)])
def test_cellfinder_graph_equals_the_model(change: dict[str, Any], target: Target, *, fused: bool) -> None:
    model = small_model(replace(SMALL, **change))
    assert model.cellfinder is not None
    features = torch.randn(2, 48, 10, 10)
    with torch.inference_mode():
        expected = model.detect(features)
        boxes, logits = CellFinderGraph(model.cellfinder, target, fused=fused)(features)
    torch.testing.assert_close(boxes, expected.boxes_cxcywh_norm, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-3, atol=1e-2)  # logits up to 40, steep


@pytest.mark.parametrize(
    "change",
    [{"decoder_depth": 1}, {}, {"decoder_depth": 3}, {"box_prior": True}, {"stem": (8, 16, 24), "details": True}],
)
@pytest.mark.parametrize("target", get_args(Target))
def test_mask_decoder_graph_equals_the_model(change: dict[str, Any], target: Target) -> None:
    model = small_model(replace(SMALL, **change))
    embedding = torch.randn(2, model.config.embedding_channels, 10, 10)
    boxes = torch.rand(5, 4) * 200 - 20
    index = torch.tensor([1, 0, 0, 1, 1])
    tokens = torch.arange(10).expand(5, 10)
    with torch.inference_mode():
        masks, iou = MaskDecoderGraph(model, target)(embedding, index, boxes, tokens, tokens)
        for k in range(5):
            expected = model.decode(embedding[index[k]][None], boxes[k : k + 1])
            torch.testing.assert_close(masks[k], expected.low_res_masks[0, 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(iou[k], expected.iou_predictions[0, 0], rtol=1e-4, atol=1e-5)
        part = MaskDecoderGraph(model, target)(embedding, index, boxes, tokens[:, 2:5], tokens[:, 3:])[0]
    torch.testing.assert_close(part, masks[:, 8:20, 12:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{}, {"box_prior": True}, {"stem": (8, 16, 24), "details": True, "box_prior": True}])
@pytest.mark.parametrize("target", get_args(Target))
def test_windowed_decoder_graph_equals_the_model(change: dict[str, Any], target: Target) -> None:
    """The output depends on the window, and on nothing beyond it."""
    model = small_model(replace(SMALL, windowed_decoder=True, **change))
    graph = MaskDecoderGraph(model, target)
    embedding = torch.randn(2, model.config.embedding_channels, 10, 10)
    boxes, index = torch.rand(3, 4) * 200 - 20, torch.tensor([1, 0, 1])
    rows, columns = torch.tensor([[2], [0], [5]]) + torch.arange(4), torch.tensor([[1], [4], [0]]) + torch.arange(5)
    with torch.inference_mode():
        masks, iou = graph(embedding, index, boxes, rows, columns)
        expected = model.decode(embedding, boxes, index, windows=[Windows(torch.arange(3), rows, columns)])
        for k in range(3):
            y, x = 4 * int(rows[k, 0]), 4 * int(columns[k, 0])
            inside = expected.low_res_masks[k, 0, y : y + 16, x : x + 20]
            torch.testing.assert_close(masks[k], inside, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(iou, expected.iou_predictions[:, 0], rtol=1e-4, atol=1e-5)
        elsewhere = embedding.clone()
        elsewhere[1, :, :2] += 1.0  # visible only to the second box, which belongs to the other image
        torch.testing.assert_close(graph(elsewhere, index, boxes, rows, columns)[0], masks, rtol=0, atol=0)


def test_a_windowed_decoder_is_exported_and_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.pt", calm_model(replace(CALM, windowed_decoder=True)), licence="test weights")
    export_engines(tmp_path / "w.pt", tmp_path / "engines", ExportConfig())
    every = SegmentConfig(iou_threshold=-100.0, min_area_px=0)
    image = np.random.default_rng(0).integers(0, 255, (160, 160), np.uint8)
    result = Segmenter(tmp_path / "engines", backend="cpu")(
        image, boxes=[[10, 10, 60, 50], [80, 90, 130, 140]], config=every
    )
    assert len(result) + len(result.hidden) == 2


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def test_graphs_hold_no_operator_that_the_folding_removes(small_engines: Path) -> None:
    finder = operators(small_engines / "cellfinder.onnx")
    # Anchors, sine embeddings and inverse sigmoids are constants, so no operators are left to compute them.
    assert not finder.keys() & {"CumSum", "ScatterND", "Log", "Clip", "Sin", "Cos", "TopK", "If", "Loop"}
    # One softmax per spatial layer axis, two per cross-attention, one per self-attention except the first, folded one.
    layers, decoders = SMALL.finder_encoder_layers, SMALL.finder_decoder_layers
    assert finder["Softmax"] == 2 * layers + 2 * decoders + decoders - 1
    assert finder["Sigmoid"] == 1, "no auxiliary heads"
    decoder = operators(small_engines / "mask_decoder.onnx")
    assert not decoder.keys() & {"CumSum", "ScatterND", "ConvTranspose", "OneHot", "Tile", "If", "Loop"}
    for name in ("encoder", "cellfinder", "mask_decoder"):
        model = onnx.load(small_engines / f"{name}.onnx")
        assert {opset.domain for opset in model.opset_import} == {""}, "standard operators only"
        assert str(Path.cwd()).encode() not in model.SerializeToString(), "paths of this machine"
        assert not any(node.metadata_props for node in model.graph.node)


def test_engines_are_dynamic_in_batch_boxes_and_windows(small_engines: Path) -> None:
    shapes = {
        tensor.name: tensor.shape
        for engine in read_manifest(small_engines).engines.values()
        for tensor in (*engine.inputs, *engine.outputs)
    }
    assert shapes == {
        "pixel_values": ("batch", 3, 160, 160),
        "patch_features": ("batch", 48, 10, 10),
        "image_embedding": ("batch", 64, 10, 10),
        "boxes_cxcywh_norm": ("batch", 150, 4),
        "logits": ("batch", 150, 2),
        "image_index": ("boxes",),
        "boxes_xyxy_model": ("boxes", 4),
        "window_rows": ("boxes", "window_height"),
        "window_cols": ("boxes", "window_width"),
        "mask_logits": ("boxes", "4*window_height", "4*window_width"),
        "iou_predictions": ("boxes",),
    }


@pytest.mark.parametrize("batch", [1, 3])
def test_encoder_engine_runs_any_batch(small_engines: Path, batch: int) -> None:
    from runtime.engines.backends.base import BackendOptions

    engine = OrtEngine(source_of(small_engines / "encoder.onnx"), BackendOptions())
    pixels = np.random.default_rng(0).normal(size=(batch, 3, 160, 160)).astype(np.float32)
    together = engine({"pixel_values": pixels})["image_embedding"]
    alone = [engine({"pixel_values": p[None]})["image_embedding"] for p in pixels]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_manifest_tells_what_was_made(small_engines: Path) -> None:
    manifest = read_manifest(small_engines)
    assert manifest.profile == "paper"
    assert manifest.precision == "fp32"
    assert manifest.weights["licence"] == "test weights"
    assert manifest.weights["format"] == "cellsam-engine"
    assert manifest.tools["torch"] == torch.__version__.split("+")[0]
    checks = manifest.verification["outputs"]
    assert {check["engine"] for check in checks} == {"encoder", "cellfinder", "mask_decoder"}
    assert len(checks) == 7
    for check in checks:
        assert check["passed"]
        assert 0 <= check["max_abs_error"] < 1e-3
        assert 0 <= check["pytorch_tail_error"] <= check["pytorch_max_abs_error"] < 1e-3
        assert check["rounding_error"] is None, "not needed"
        assert len(check["at"]) == len(check["shape"])


def test_verify_command_passes_on_what_export_made(small_engines: Path, small_checkpoint: Path) -> None:
    assert all(check.passed for check in verify_directory(small_engines, small_checkpoint))


def test_verify_rejects_another_checkpoint(small_engines: Path, tmp_path: Path) -> None:
    other = save_small(tmp_path / "other.pt", SMALL, seed=1)
    with pytest.raises(ExportError, match="made from another checkpoint"):
        verify_directory(small_engines, other)


def test_failed_verification_fails_the_export_and_leaves_nothing(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight in one graph is wrong."""

    def wrong(engine: Any, path: Path) -> None:
        if engine.name == "cellfinder":
            # The graph shares its heads with the reference model.
            engine.graph.class_embed = copy.deepcopy(engine.graph.class_embed)
            with torch.no_grad():
                engine.graph.class_embed.bias[1] += 0.1
        original(engine, path)

    original = exporter.write_onnx
    monkeypatch.setattr(exporter, "write_onnx", wrong)
    with pytest.raises(VerificationError, match=r"cellfinder\.logits .*FAILED, largest error 0\.1"):
        export_engines(small_checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def written_before(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the small model's existing engines, to test the steps around the writing."""

    def copy_engine(engine: Any, path: Path) -> None:
        shutil.copy(small_engines / engine.file, path)

    monkeypatch.setattr(exporter, "write_onnx", copy_engine)


@pytest.mark.usefixtures("written_before")
def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "verify_engines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_engines(small_checkpoint, tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("written_before")
def test_what_killed_exports_left_goes(tmp_path: Path, small_checkpoint: Path) -> None:
    """Also where the first one began before the parents of its target were there."""
    out = tmp_path / "a" / "out"
    for parent in (tmp_path, out.parent):
        (parent / ".out.4194303.partial").mkdir(parents=True)
        (parent / ".other.4194303.partial").mkdir()
    export_engines(small_checkpoint, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.4194303.partial", "a"]
    assert sorted(path.name for path in out.parent.iterdir()) == [".other.4194303.partial", "out"]


@pytest.mark.usefixtures("written_before")
def test_what_appears_during_an_export_is_not_replaced(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def appear(*_: Any, **__: Any) -> list[Any]:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
        return []

    monkeypatch.setattr(exporter, "verify_engines", appear)
    with pytest.raises(ExportError, match="not an engine directory"):
        export_engines(small_checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_an_unusable_image_is_rejected_before_the_work(tmp_path: Path, small_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        export_engines(small_checkpoint, tmp_path / "out", image=np.full((4, 4), np.nan), progress=pytest.fail)


@pytest.mark.usefixtures("written_before")
def test_verification_on_a_given_image(tmp_path: Path, small_checkpoint: Path) -> None:
    image = np.random.default_rng(0).integers(0, 999, (70, 50, 2), np.uint16)
    manifest = export_engines(small_checkpoint, tmp_path / "link", image=image)
    assert manifest.verification["image"] == "given, [70, 50, 2]"


@pytest.mark.usefixtures("written_before")
def test_existing_directories(tmp_path: Path, small_checkpoint: Path) -> None:
    out = tmp_path / "engines"
    out.mkdir()
    export_engines(small_checkpoint, out)  # an empty directory may be used
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match=r"exists\. Replace it with force=True"):
        export_engines(small_checkpoint, out)
    with pytest.raises(ExportError, match="bad"):
        export_engines(tmp_path / "bad.pt", out, ExportConfig(force=True))
    assert (out / "manifest.json").read_bytes() == before, "a failed export keeps the earlier directory"
    export_engines(small_checkpoint, out, ExportConfig(force=True, licence="CC0-1.0", profile="cellsam-1.2"))
    manifest = Segmenter(out).manifest
    assert (manifest.weights["licence"], manifest.profile) == ("CC0-1.0", "cellsam-1.2")
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


@pytest.mark.usefixtures("written_before")
def test_a_link_stays_a_link(tmp_path: Path, small_checkpoint: Path) -> None:
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    for force in (False, True):
        export_engines(small_checkpoint, tmp_path / "current", ExportConfig(force=force))
        assert (tmp_path / "current").is_symlink()
        assert read_manifest(tmp_path / "v1").precision == "fp32"


def test_force_never_replaces_anything_but_engines(tmp_path: Path, small_checkpoint: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="not an engine directory"):
        export_engines(small_checkpoint, precious, ExportConfig(force=True))
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_bad_checkpoints_write_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"bad\.pt"):
        export_engines(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt"]


def test_verify_finds_a_file_that_was_exchanged(tmp_path: Path, small_checkpoint: Path, small_engines: Path) -> None:
    out = Path(shutil.copytree(small_engines, tmp_path / "engines"))
    other = tmp_path / "other"
    export_engines(save_small(tmp_path / "other.pt", SMALL, seed=1), other)
    (out / "mask_decoder.onnx").write_bytes((other / "mask_decoder.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"mask_decoder\.onnx was altered"):
        verify_directory(out, small_checkpoint)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["engines"]["mask_decoder"] = json.loads((other / "manifest.json").read_text())["engines"]["mask_decoder"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    renew_sums(out)
    with pytest.raises(VerificationError, match=r"mask_decoder\.mask_logits .*FAILED"):
        verify_directory(out, small_checkpoint)


def test_separate_trunks_are_verified_engine_by_engine(tmp_path: Path) -> None:
    config = ExportConfig(profile="cellsam-1.2")
    manifest = export_engines(save_small(tmp_path / "separate.pt", SEPARATE), tmp_path / "out", config)
    assert manifest.trunk == "separate"
    names = [check["engine"] for check in manifest.verification["outputs"]]
    assert list(dict.fromkeys(names)) == ["encoder", "detector_encoder", "cellfinder", "mask_decoder"]


def test_compare_reports_the_largest_error_and_where() -> None:
    exact = np.zeros((10, 100))
    truth = Truth(exact, exact.astype(np.float32), lambda: 0.0)
    found = truth.pytorch.copy()
    found[3, 7] = 0.5
    check = compare("engine", "output", truth, found, Tolerance())
    assert (check.max_abs_error, check.at, check.found) == (0.5, (3, 7), 0.5)
    assert check.mismatches_per_million == 1000
    assert not check.passed
    assert compare("engine", "output", truth, found, Tolerance(mismatches_per_million=1000)).passed
    found[3, 7] = np.nan
    assert not compare("engine", "output", truth, found, Tolerance()).passed
    hundred = Truth(exact + 100, truth.pytorch + 100, lambda: 0.0)
    assert compare("engine", "output", hundred, hundred.pytorch + np.float32(0.05), Tolerance()).passed
    with pytest.raises(VerificationError, match="shape"):
        compare("engine", "output", truth, found[:5], Tolerance())


def test_settings_go_into_the_manifest(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = SegmentConfig(box_threshold_mode="fixed", box_threshold=0.25, min_area_px=10)
    manifest = export_engines(small_checkpoint, tmp_path / "engines", ExportConfig(settings=settings))
    assert manifest.config == read_manifest(tmp_path / "engines").config == settings
    assert Segmenter(tmp_path / "engines").config == settings
