"""Tests that all forms of the attention compute the same; no time is asserted."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attention import (
    ENCODERS,
    FORMS,
    Backend,
    Size,
    backends,
    bound_runner,
    in_half,
    measure_attention,
    measure_encoder,
    on_cpu,
)
from tests.small import SMALL

TINY = Size("tiny", 2, 3, heads=2, channels=4)


def by_hand(size: Size) -> np.ndarray:
    """Compute the attention in float64 with an explicit bias tensor."""
    feeds = {name: array.astype(np.float64) for name, array in size.feeds().items()}
    y, x = np.divmod(np.arange(size.tokens), size.side)
    logits = feeds["q"] @ feeds["k"].swapaxes(-1, -2) / np.sqrt(size.channels)
    logits += feeds["rows"][..., y] + feeds["columns"][..., x]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ feeds["v"]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_equals_the_definition(form: str) -> None:
    run = on_cpu(FORMS[form](TINY).SerializeToString(), TINY.feeds())
    np.testing.assert_allclose(run(), by_hand(TINY), atol=1e-5)


@pytest.mark.parametrize("form", ["bias", "folded", "MultiHeadAttention", "padded"])
def test_a_form_in_half_precision_with_bound_memory(form: str) -> None:
    """Check the float16 models of a GPU."""
    model = in_half(FORMS[form](TINY))
    assert not [tensor for tensor in (*model.graph.input, *model.graph.output) if "elem_type: 1\n" in str(tensor)]
    run = bound_runner("cpu")(model.SerializeToString(), TINY.feeds())
    assert np.asarray(run()).dtype == np.float16
    np.testing.assert_allclose(np.asarray(run()), by_hand(TINY), atol=1e-2)


def test_models_in_half_precision_are_timed_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"onnxruntime CPU": backends()["onnxruntime CPU"], "bound": Backend(bound_runner("cpu"), half=True)}
    monkeypatch.setattr("benchmarks.attention.backends", lambda: here)
    records = [*measure_attention(TINY, runs=1, warmup=1), *measure_encoder(SMALL, runs=1)]
    half = [record for record in records if record["backend"] == "bound"]
    assert {record["models"] for record in half} == {"fp16"}
    assert {(record["size"], record["form"]) for record in half if "ms" in record} >= {
        (size, form) for size in ("tiny", "encoder") for form in ("bias", "folded")
    }
    assert all(0 < record["largest_difference"] < 0.1 for record in half if "ms" in record)


def test_every_backend_and_form_is_in_the_record() -> None:
    records = measure_attention(TINY, runs=2)
    assert {record["form"] for record in records} == set(FORMS)
    assert "onnxruntime CPU" in {record["backend"] for record in records}
    for record in records:
        if "refused" not in record:
            assert 0 <= record["ms"]["p50"] <= record["ms"]["p99"]
            assert record["largest_difference"] < 0.1
        assert "output" not in record
    assert all("ms" in record for record in records if record["backend"] == "onnxruntime CPU")


def test_all_forms_of_the_encoder_are_in_the_record() -> None:
    records = measure_encoder(SMALL, runs=1)
    assert {record["form"] for record in records} == set(ENCODERS) == {"bias", "folded", "wide", "fused"}
    assert all("ms" in record for record in records)
    assert all(record["largest_difference"] < 1e-3 for record in records if "bf16" not in record["backend"])
