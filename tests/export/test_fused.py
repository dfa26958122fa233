"""Engines with fused attention: contents of the files, results, and messages of the backends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from export import exporter
from export.commands.export import export_command
from export.errors import ExportError
from export.exporter import ExportConfig, export_engines
from export.graphs.fused import aligned, attend
from export.plans.build import check_buildable
from export.plans.builder import BuildOptions
from runtime import BackendError, BackendOptions, EncodedViews, EngineError, Instances, Segmenter
from runtime.engines.backends import openvino
from runtime.engines.backends.ort import failure
from runtime.engines.manifest import read_manifest
from tests.engine_sources import renew_sums
from tests.runtime.test_segmenter import every
from tests.small import SMALL

BOXES = [[20, 30, 80, 90], [100, 200, 180, 260], [5, 5, 250, 510]]
HEAD, WINDOW = 12, 4
"""Channels per head of the small encoder, and tokens per side of its windows."""


@pytest.fixture(scope="module")
def fused(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the small model, which includes a comparison of each engine with PyTorch."""
    out = tmp_path_factory.mktemp("fused") / "fp32"
    export_engines(small_checkpoint, out, ExportConfig(attention="fused"))
    return out


@pytest.fixture(scope="module")
def fused_half(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the calm model in half precision, which includes the gates."""
    out = tmp_path_factory.mktemp("fused") / "fp16"
    export_engines(calm_checkpoint, out, ExportConfig(attention="fused", precision="fp16"))
    return out


def all_settings(directory: Path) -> Segmenter:
    """Return settings that keep all boxes, so that masks are compared."""
    return Segmenter(
        directory, backend="cpu", config=replace(read_manifest(directory).config, iou_threshold=-1000.0, min_area_px=0)
    )


def operators(path: Path) -> tuple[list[onnx.NodeProto], list[list[int]], set[str]]:
    """Return a file's fused attentions, the channels per head of their three inputs, and all other operators."""
    graph = onnx.load(path).graph
    sizes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    found = [node for node in graph.node if node.domain == "com.microsoft"]
    heads = [next(a.i for a in node.attribute if a.name == "num_heads") for node in found]
    channels = [
        [sizes[name][-1].dim_value // count for name in node.input] for node, count in zip(found, heads, strict=True)
    ]
    return found, channels, {node.op_type for node in graph.node if not node.domain}


@given(
    st.tuples(*(st.integers(1, most) for most in (2, 5, 6, 3, 20, 20))),
    st.sampled_from([torch.float32, torch.float16]),
)
@settings(max_examples=40)
def test_widening_heads_changes_nothing(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, queries, keys, heads, channels, kept = sizes
    q, k = (torch.randn(batch, count, heads, channels).to(dtype) for count in (queries, keys))
    v = torch.randn(batch, keys, heads, kept).to(dtype)
    shares = torch.einsum("bnhe,bmhe->bhnm", q.double(), k.double()).softmax(-1)
    expected = torch.einsum("bhnm,bmhd->bnhd", shares, v.double()).flatten(2)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(attend(q, k, v).double(), expected, rtol=tolerance, atol=tolerance)


def test_float32_files_keep_the_values_narrow(fused: Path) -> None:
    found, sizes, others = operators(fused / "encoder.onnx")
    assert len(found) == SMALL.encoder_depth
    wide = {WINDOW: aligned(HEAD + 2 * WINDOW), SMALL.grid_size: aligned(HEAD + 2 * SMALL.grid_size)}
    assert sizes == [[wide[side], wide[side], aligned(HEAD)] for side in (WINDOW, SMALL.grid_size) * 2]
    assert not others & {"Softmax", "Pad", "ConstantOfShape"}
    names = [node.name for node in onnx.load(fused / "encoder.onnx").graph.node]
    assert len(set(names)) == len(names)


def test_half_precision_files_have_the_heads_of_flash_attention(fused_half: Path) -> None:
    for name in ("encoder", "cellfinder"):
        found, sizes, _ = operators(fused_half / f"{name}.onnx")
        assert found
        for node, (query, key, value) in zip(found, sizes, strict=True):
            assert query == key == value
            assert query % 8 == 0
            assert next(a.f for a in node.attribute if a.name == "scale") == 1.0
    assert not operators(fused_half / "mask_decoder.onnx")[0]


def test_the_manifest_says_which_engines_are_fused(fused: Path, small_engines: Path) -> None:
    attention = {name: spec.attention for name, spec in read_manifest(fused).engines.items()}
    assert attention == {"encoder": "fused", "cellfinder": "fused", "mask_decoder": "plain"}
    assert {spec.attention for spec in read_manifest(small_engines).engines.values()} == {"plain"}


def test_a_manifest_with_another_word_is_rejected(fused: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(fused, tmp_path / "engines"))
    content = json.loads((out / "manifest.json").read_text())
    content["engines"]["encoder"]["attention"] = "sparse"
    (out / "manifest.json").write_text(json.dumps(content))
    renew_sums(out)
    with pytest.raises(EngineError, match=r"engines\.encoder\.attention is 'sparse', expected one of plain, fused"):
        Segmenter(out)
    del content["engines"]["encoder"]["attention"]  # missing in older exports
    (out / "manifest.json").write_text(json.dumps(content))
    renew_sums(out)
    assert read_manifest(out).engines["encoder"].attention == "plain"


def test_cells_are_those_of_the_plain_form(fused: Path, small_engines: Path, image: Any) -> None:
    found, expected = (all_settings(path) for path in (fused, small_engines))
    assert_close_features(found.encode(image), expected.encode(image))
    boxes = [Instances.joined([result, result.hidden]).boxes for result in (found(image), expected(image))]
    apart = np.abs(boxes[0][:, None] - boxes[1]).max(-1)  # close scores may change places
    assert apart.shape[0] == apart.shape[1] > 20
    assert max(apart.min(0).max(), apart.min(1).max()) < 0.1
    one, other = (segmenter(image, boxes=BOXES) for segmenter in (found, expected))
    assert (one.labels == other.labels).mean() > 0.999


def test_half_precision_cells_are_those_of_the_plain_form(fused_half: Path, half_engines: Path, image: Any) -> None:
    one, other = (all_settings(path)(image, boxes=BOXES) for path in (fused_half, half_engines))
    assert (one.labels == other.labels).mean() > 0.99
    estimates = [every(result).iou_predictions for result in (one, other)]
    np.testing.assert_allclose(*estimates, atol=0.01)


def assert_close_features(found: EncodedViews, expected: EncodedViews) -> None:
    for mine, other in zip(found, expected, strict=True):
        for name in ("patch_features", "image_embedding"):
            np.testing.assert_allclose(getattr(mine.batch, name), getattr(other.batch, name), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-ort"])
def test_tensorrt_names_the_export_that_it_takes(fused: Path, backend: str) -> None:
    with pytest.raises(
        BackendError, match=r"encoder\.onnx has fused attention.*export again: cellsam-engine export --attention plain"
    ):
        Segmenter(fused, backend=backend)


def test_fused_attention_is_not_built(fused: Path) -> None:
    with pytest.raises(ExportError, match=r"encoder\.onnx, cellfinder\.onnx contain .*export --attention plain"):
        list(check_buildable(fused, BuildOptions()))


def test_an_openvino_that_lacks_the_operator_names_the_export(
    fused: Path, small_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, options: Any) -> None:
        raise BackendError(f"OpenVINO 2025.1 cannot compile {path}: com.microsoft.MultiHeadAttention.")

    monkeypatch.setattr(openvino, "OpenVinoEngine", refuse)
    with pytest.raises(
        BackendError, match=r"cannot compile .*MultiHeadAttention\. encoder.*: cellsam-engine export --attention plain"
    ):
        Segmenter(fused, backend="openvino")
    with pytest.raises(BackendError, match=r"MultiHeadAttention\.$"):
        Segmenter(small_engines, backend="openvino")


def test_openvino_runs_them_or_names_the_export(fused: Path, small_engines: Path, image: Any) -> None:
    try:
        segmenter = Segmenter(fused, backend="openvino", options=BackendOptions(cpu_precision="fp32"))
    except BackendError as error:
        message = str(error)
    else:
        assert_close_features(segmenter.encode(image), Segmenter(small_engines, backend="cpu").encode(image))
        return
    assert "export --attention plain" in message, "releases before mid-2026 lack the operator"


def test_a_cudnn_without_such_heads_has_a_remedy() -> None:
    error = RuntimeError("Failed to build cuDNN graph for Flash Attention: {}cudnn version:92000")
    assert "ORT_ENABLE_CUDNN_FLASH_ATTENTION=0" in str(failure("encoder.onnx", {}, error))
    assert "ORT_ENABLE" not in str(failure("encoder.onnx", {}, RuntimeError("another")))


def test_the_command_passes_the_form_on(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = []

    def take(checkpoint: Path, out: Path, config: ExportConfig, **_: Any) -> None:
        forms.append(config.attention)
        raise ExportError("enough")

    monkeypatch.setattr(exporter, "export_engines", take)
    app = typer.Typer()
    app.command()(export_command)
    for options in ([], ["--attention", "fused"]):
        assert CliRunner().invoke(app, ["--checkpoint", "a.pt", "--out", "b", *options]).exit_code == 1
    assert forms == ["plain", "fused"]
    assert CliRunner().invoke(app, ["--checkpoint", "a.pt", "--out", "b", "--attention", "sparse"]).exit_code == 2


@pytest.mark.gpu
def test_no_attention_on_a_gpu_writes_its_logits(fused_half: Path) -> None:
    """onnxruntime prints the kernel of each attention if an environment variable is set (its pull request 21344)."""
    code = (
        "import sys, numpy as np; from runtime import Segmenter\n"
        "Segmenter(sys.argv[1], backend='cuda').encode(np.eye(64, dtype=np.uint8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fused_half)],
        env={**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [line.split("SdpaKernel=")[1].split()[0] for line in done.stdout.splitlines() if "SdpaKernel=" in line]
    assert len(kernels) == SMALL.encoder_depth
    assert "MATH" not in {kernel.replace("\x1b[0m", "") for kernel in kernels}
