"""A full-size checkpoint whose mask decoder amplifies rounding: sound weights that PyTorch in float32 cannot judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.export_seeds import Case, against_float32
from benchmarks.seeded_weights import save_released
from export import verify
from export.exporter import export_engines
from export.references import rerounded_outputs
from export.verify import RUNS, EngineTruth, Truth
from runtime.engines.backends.base import Engine
from runtime.engines.manifest import Manifest
from runtime.types import F32

pytestmark = pytest.mark.full_size


def test_a_checkpoint_that_float32_refuses_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[EngineTruth, Truth, F32]] = []

    def run_against(engine: Engine, truth: EngineTruth, manifest: Manifest) -> list[tuple[str, Truth, F32]]:
        outcomes = original(engine, truth, manifest)
        seen.extend((truth, wanted, found) for name, wanted, found in outcomes if name == "mask_logits")
        return outcomes

    original = verify.run_against
    monkeypatch.setattr(verify, "run_against", run_against)
    checkpoint = save_released(tmp_path / "checkpoint.pt", Case("separate", "2+34").recipe)
    manifest = export_engines(checkpoint, tmp_path / "engines")
    assert manifest.trunk == "separate"
    assert len(manifest.verification["outputs"]) == 7
    assert all(check["passed"] for check in manifest.verification["outputs"])
    ((decoder, wanted, found),) = seen
    verdicts = [against_float32("mask_decoder", "mask_logits", truth, found).passed for truth in drawn(decoder, wanted)]
    assert not all(verdicts), "beside one of PyTorch's roundings, all of them as good as another"


def drawn(decoder: EngineTruth, wanted: Truth) -> Iterator[Truth]:
    """The mask logits as PyTorch in float32 may round them."""
    yield wanted
    for seed in range(RUNS):
        rerounded = rerounded_outputs(decoder.model, decoder.engine_name, decoder.feeds, seed)
        yield replace(wanted, pytorch=rerounded["mask_logits"])
