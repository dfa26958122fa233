"""Verification against float64, with a fault in one weight, and with weights that amplify rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from benchmarks.export_seeds import against_float32, by_rounding, scaled_checks, spread_tensors
from export.graphs import CellFinderGraph, EncoderGraph, MaskDecoderGraph
from export.references import engine_outputs, exact_outputs, rerounded_outputs
from export.rounding import double_precision
from export.verify import EngineTruth, Tolerance, Truth, compare, engine_truths
from runtime.engines.manifest import Manifest, read_manifest
from runtime.types import F32
from tests.small import SMALL, small_model
from training.checkpoint import load_checkpoint
from training.model import CellSAM


@torch.inference_mode()
def graph_outputs(model: CellSAM, truth: EngineTruth) -> dict[str, np.ndarray]:
    """Run the reduced graph of an engine in PyTorch."""
    inputs = [torch.from_numpy(array) for array in truth.feeds.values()]
    if truth.engine_name == "encoder":
        graph: torch.nn.Module = EncoderGraph(model.encoder, features=True, embedding=True, form="folded")
    elif truth.engine_name == "cellfinder":
        assert model.cellfinder is not None
        graph = CellFinderGraph(model.cellfinder, fused=False)
    else:
        graph = MaskDecoderGraph(model)
    return {name: x.numpy() for name, x in zip(truth.exact, graph(*inputs), strict=True)}


@pytest.fixture(scope="module")
def manifest(small_engines: Path) -> Manifest:
    return read_manifest(small_engines)


@pytest.fixture(scope="module")
def truths(small_checkpoint: Path, manifest: Manifest) -> list[EngineTruth]:
    """Compute inputs and outputs of the small model, from which ``small_engines`` were exported."""
    return list(engine_truths(load_checkpoint(small_checkpoint).model, manifest, None, Tolerance()))


def test_the_reduced_graphs_are_exact_algebra(truths: list[EngineTruth]) -> None:
    """In float64, graph and model differ only by rounding in float64."""
    for truth in truths:
        with double_precision(truth.model):
            found = graph_outputs(truth.model, truth)
        for name, exact in truth.exact.items():
            assert exact.dtype == found[name].dtype == np.float64
            np.testing.assert_allclose(
                found[name], exact, rtol=1e-11, atol=1e-11, err_msg=f"{truth.engine_name}.{name}"
            )


def test_float64_is_that_of_a_model_converted_as_a_whole(truths: list[EngineTruth]) -> None:
    encoder = truths[0]
    converted = small_model().double()
    with torch.inference_mode():
        expected = converted.encode(torch.from_numpy(encoder.feeds["pixel_values"]).double())
    for found, wanted in zip(encoder.exact.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12, atol=1e-12)


def test_the_model_is_left_as_it_was(truths: list[EngineTruth]) -> None:
    for truth in truths:
        exact_outputs(truth.model, truth.engine_name, truth.feeds)
        rerounded_outputs(truth.model, truth.engine_name, truth.feeds, seed=0)
        for name, found in engine_outputs(truth.model, truth.engine_name, truth.feeds).items():
            np.testing.assert_array_equal(found, truth.pytorch[name])
    assert all(parameter.dtype == torch.float32 for parameter in truths[0].model.parameters())


def test_other_roundings_differ_in_the_last_places_alone(truths: list[EngineTruth]) -> None:
    for truth in truths:
        first, again, other = (
            rerounded_outputs(truth.model, truth.engine_name, truth.feeds, seed) for seed in (0, 0, 1)
        )
        for name, pytorch in truth.pytorch.items():
            assert first[name].dtype == np.float32
            np.testing.assert_array_equal(first[name], again[name])
            assert np.mean(first[name] == other[name]) < 0.7
            np.testing.assert_allclose(first[name], pytorch, rtol=1e-3, atol=1e-3)


def test_sound_weights_pass_that_float32_alone_rejects(manifest: Manifest) -> None:
    """The reduced graphs run in float32, on seeds whose logits amplify rounding."""
    refused, rounded = [], []
    for seed in (0, 15, 38, 47, 149):
        model = small_model(SMALL, seed)
        for truth in engine_truths(model, manifest, None, Tolerance()):
            found = graph_outputs(model, truth)
            for name, wanted in truth.outputs().items():
                check = compare(truth.engine_name, name, wanted, found[name], Tolerance())
                assert check.passed, check
                if not against_float32(truth.engine_name, name, wanted, found[name]).passed:
                    refused.append((seed, name))
                if check.rounding_error is not None:
                    rounded.append((seed, name))
    # The processor's order of summation decides which of them.
    assert refused, "beside PyTorch in float32, some fail"
    assert rounded, "the fixed tolerance beside float64 is not enough for all"


@pytest.mark.parametrize("engine_name", ["encoder", "cellfinder", "mask_decoder"])
def test_a_weight_tensor_that_is_five_percent_off_fails(
    engine_name: str, truths: list[EngineTruth], manifest: Manifest, small_engines: Path, tmp_path: Path
) -> None:
    """Only undetectable faults pass: a norm cancels the scale, or the outputs change by less than float32 rounding."""
    (truth,) = (truth for truth in truths if truth.engine_name == engine_name)
    path, faulty = small_engines / f"{engine_name}.onnx", tmp_path / "faulty.onnx"
    tensors = spread_tensors(onnx.load(path), 8)
    found = []
    for tensor in tensors:
        checks = scaled_checks(truth, manifest, path, tensor, 1.05, faulty=faulty)
        if all(check.passed for check in checks):
            assert max(by_rounding(truth, checks)) < Tolerance().rounding_factor, tensor
        else:
            found.append(tensor)
    assert len(found) >= 4, found
    assert all(check.passed for check in scaled_checks(truth, manifest, path, tensors[0], 1.0, faulty=faulty))


def truth_of(exact: F32, rounding_error: float) -> Truth:
    return Truth(exact.astype(np.float64), exact, lambda: rounding_error)


def test_an_error_within_that_of_rounding_passes() -> None:
    exact = np.zeros((10, 100), np.float32)
    found = np.full_like(exact, 0.01)
    for rounding_error, passed in ((0.0, False), (0.002, False), (0.0026, True), (np.inf, False), (np.nan, False)):
        check = compare("engine", "output", truth_of(exact, rounding_error), found, Tolerance())
        assert check.passed == passed, rounding_error
        np.testing.assert_equal(check.rounding_error, rounding_error)
    tight = replace(truth_of(exact, 0.0), rounding_error=pytest.fail)
    assert compare("engine", "output", tight, exact + np.float32(5e-4), Tolerance()).passed, "not measured needlessly"


def test_the_tail_is_what_no_more_elements_exceed_than_may() -> None:
    error = np.arange(20_000, dtype=np.float64)[::-1].copy()
    assert Tolerance().tail(error) == 19_997  # 2 of 20,000 are 100 per million
    assert Tolerance().tail(error[:500]) == error[0]
    error[:3] = np.nan
    assert np.isnan(Tolerance().tail(error))
