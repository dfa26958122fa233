"""Tests of the printed rows of the verification over seeds."""

from __future__ import annotations

import numpy as np

from benchmarks.export_seeds import against_float32, describe, row_of
from export.verify import Tolerance, Truth, compare


def test_a_row_is_described_by_engine_and_output() -> None:
    exact = np.zeros((1, 4))
    truth = Truth(exact, np.full((1, 4), 0.25, np.float32), lambda: 0.25)
    found = np.full((1, 4), 0.5, np.float32)
    check = compare("encoder", "image_embedding", truth, found, Tolerance())
    output = row_of(check, against_float32("encoder", "image_embedding", truth, found))
    fault = {"engine_name": "encoder", "tensor": "neck.weight", "smallest_factor_found": 1.01}
    assert list(describe({"trunk": "shared", "seed": "0", "outputs": [output], "faults": [fault]})) == [
        "shared 0 encoder.image_embedding: ok, tail 0.5, PyTorch's 0.25, at worst 0.25; against float32 FAILED",
        "shared 0 encoder neck.weight: smallest factor found 1.01",
    ]
