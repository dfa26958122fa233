r"""Verification over seeds: how far engines and PyTorch in float32 are from PyTorch in float64, and which faults show.

    python -m benchmarks.export_seeds --shared 0 2 4 6 8 --separate 1 3 5 7 2+34 --faults separate 2+34

Each checkpoint is one of seeded weights in the released format, full size. It is exported, measured on the built-in
image and deleted. What is finished stays in the folder of ``--work``: after an interruption the same command goes on
from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.measure import write_record
from benchmarks.seeded_weights import save_released
from export.exporter import ExportConfig, write_engines
from export.verify import (
    EngineTruth,
    OutputCheck,
    Tolerance,
    Truth,
    check_engine,
    compare,
    engine_truths,
    load_named_engine,
    run_against,
)
from runtime.engines.backends.base import BackendOptions
from runtime.engines.backends.load import load_engine
from runtime.engines.manifest import Manifest, sha256_file
from runtime.types import F32
from training.checkpoint import load_checkpoint

FACTORS = (1.0005, 1.001, 1.002, 1.005, 1.01, 1.02, 1.05, 1.1)
"""What a weight tensor is scaled by, to find the smallest fault that verification finds."""

TENSORS = 4
"""How many of each engine are scaled in turn, evenly spread over its graph."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One seeded checkpoint."""

    trunk: str
    seed: str
    """With ``+``, the second one is that of the mask decoder."""

    @property
    def name(self) -> str:
        """Also of its files."""
        return f"{self.trunk}_{self.seed}"

    @property
    def recipe(self) -> dict[str, Any]:
        """For ``benchmarks.seeded_weights``."""
        seed, _, decoder = self.seed.partition("+")
        recipe = {"seed": int(seed), "class_bias": 0.0, "class_gain": 15.0, "mode": self.trunk}
        return recipe | ({"decoder_seed": int(decoder)} if decoder else {})


def measure_case(case: Case, work: Path, *, faults: bool) -> Row:
    """Export one checkpoint and measure every output of its engines; the files are deleted afterwards.

    Args:
        case: which weights.
        work: a folder for the files, some 2.5 GB.
        faults: also look for the smallest faults that verification finds.
    """
    directory = work / f"{case.name}_engines"
    shutil.rmtree(directory, ignore_errors=True)  # of an interrupted run
    directory.mkdir(parents=True)
    try:
        checkpoint = save_released(directory / "checkpoint.pt", case.recipe)
        loaded = load_checkpoint(checkpoint)
        assert loaded.model.config.trunk == case.trunk
        sha256 = sha256_file(checkpoint)
        checkpoint.unlink()
        manifest = write_engines(loaded, sha256, directory, ExportConfig())
        row: Row = {**asdict(case), "outputs": [], "faults": []}
        for truth in engine_truths(loaded.model, manifest, None, Tolerance()):
            row["outputs"] += measure_engine(truth, directory, manifest)
            if faults:
                row["faults"] += smallest_faults(truth, directory, manifest)
    finally:
        shutil.rmtree(directory)
    return row


def measure_engine(truth: EngineTruth, directory: Path, manifest: Manifest) -> list[Row]:
    """Errors of one engine and of PyTorch in float32, and the verdicts with either of PyTorch's as the truth."""
    rows = []
    for name, wanted, found in run_against(load_named_engine(directory, manifest, truth.engine_name), truth, manifest):
        check = compare(truth.engine_name, name, wanted, found, Tolerance())
        rows.append(row_of(check, against_float32(truth.engine_name, name, wanted, found)))
    return rows


def against_float32(engine: str, output: str, truth: Truth, found: F32) -> OutputCheck:
    """Compare with PyTorch in float32 as if it were exact: by the fixed tolerance alone."""
    float32 = Truth(truth.pytorch.astype(np.float64), truth.pytorch, lambda: 0.0)
    return compare(engine, output, float32, found, Tolerance())


def row_of(check: OutputCheck, float32: OutputCheck) -> Row:
    """The figures of one output, errors to three digits."""
    return {
        "engine_name": check.engine,
        "output": check.output,
        "elements": int(np.prod(check.shape)),
        "engine": {"max_abs_error": _short(check.max_abs_error), "tail_error": _short(check.tail_error)},
        "pytorch": {
            "max_abs_error": _short(check.pytorch_max_abs_error),
            "tail_error": _short(check.pytorch_tail_error),
        },
        "rounding_error": None if check.rounding_error is None else _short(check.rounding_error),
        "mismatches_per_million": round(check.mismatches_per_million, 1),
        "passed": check.passed,
        "against_float32": {
            "max_abs_error": _short(float32.max_abs_error),
            "mismatches_per_million": round(float32.mismatches_per_million, 1),
            "passed": float32.passed,
        },
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def smallest_faults(truth: EngineTruth, directory: Path, manifest: Manifest) -> list[Row]:
    """The smallest of ``FACTORS`` by which verification finds each of some weight tensors of one engine scaled.

    None if it finds none of them: then ``largest_by_rounding`` says how many times the error of PyTorch's own float32
    the largest factor makes; about 1 is a tensor whose scale does not reach the outputs, such as one before a norm.
    """
    path = directory / manifest.engines[truth.engine_name].file
    rows = []
    for tensor in spread_tensors(onnx.load(path), TENSORS):
        try_factor = partial(scaled_checks, truth, manifest, path, tensor, faulty=path.with_name("faulty.onnx"))
        least, greatest = 0, len(FACTORS)
        while least < greatest:  # a larger factor is a larger fault
            middle = (least + greatest) // 2
            if all(check.passed for check in try_factor(FACTORS[middle])):
                least = middle + 1
            else:
                greatest = middle
        row: Row = {"engine_name": truth.engine_name, "tensor": tensor, "smallest_factor_found": None}
        if least < len(FACTORS):
            row["smallest_factor_found"] = FACTORS[least]
        else:
            row["largest_by_rounding"] = _short(max(by_rounding(truth, try_factor(FACTORS[-1]))))
        rows.append(row)
    return rows


def by_rounding(truth: EngineTruth, checks: Sequence[OutputCheck]) -> list[float]:
    """Errors of an engine as multiples of those of PyTorch's own float32."""
    return [check.tail_error / truth.rounding_error(check.output.removesuffix("[window]")) for check in checks]


def spread_tensors(model: onnx.ModelProto, count: int) -> list[str]:
    """Names of some weight matrices and kernels of a model, from its first to its last, evenly spread."""
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    large = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2 and min(tensor.dims[:2]) > 1}
    products = ("MatMul", "Gemm", "Conv")
    used = [node.input[1] for node in model.graph.node if node.op_type in products and node.input[1] in floats & large]
    unique = list(dict.fromkeys(used))
    return [unique[i] for i in np.linspace(0, len(unique) - 1, min(count, len(unique))).round().astype(int)]


def scaled_checks(
    truth: EngineTruth, manifest: Manifest, path: Path, tensor: str, factor: float, *, faulty: Path
) -> list[OutputCheck]:
    """Verify an engine with one weight tensor scaled.

    Args:
        truth: the engine's input and PyTorch's outputs.
        manifest: of the engines.
        path: the sound engine.
        tensor: name of the tensor.
        factor: what it is scaled by.
        faulty: the file to write the engine to.
    """
    model = onnx.load(path)
    (weights,) = (weights for weights in model.graph.initializer if weights.name == tensor)
    scaled = numpy_helper.to_array(weights) * np.float32(factor)
    weights.CopyFrom(numpy_helper.from_array(scaled, tensor))
    onnx.save(model, faulty)
    del model
    spec = replace(manifest.engines[truth.engine_name], sha256=sha256_file(faulty))
    engine = load_engine(faulty, spec, backend="cpu", options=BackendOptions())
    return check_engine(engine, truth, manifest)


def measure_all(cases: Sequence[Case], work: Path, faults: Sequence[Case]) -> Iterator[Row]:
    """Every case, from the folder where it is finished already."""
    work.mkdir(parents=True, exist_ok=True)
    for case in cases:
        done = work / f"{case.name}.json"
        if not done.exists():
            row = measure_case(case, work, faults=case in faults)
            done.write_text(json.dumps(row), encoding="utf-8")
        yield json.loads(done.read_text(encoding="utf-8"))


def describe(row: Row) -> Iterator[str]:
    """One line for each output and fault."""
    name = f"{row['trunk']} {row['seed']}"
    for output in row["outputs"]:
        new, old = ("ok" if one["passed"] else "FAILED" for one in (output, output["against_float32"]))
        yield (
            f"{name} {output['engine_name']}.{output['output']}: {new}, tail {output['engine']['tail_error']}, "
            f"PyTorch's {output['pytorch']['tail_error']}, at worst {output['rounding_error']}; against float32 {old}"
        )
    for fault in row["faults"]:
        yield f"{name} {fault['engine_name']} {fault['tensor']}: smallest factor found {fault['smallest_factor_found']}"


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", nargs="*", default=["0", "2", "4", "6", "8"], help="seeds with a shared trunk")
    parser.add_argument(
        "--separate",
        nargs="*",
        default=["1", "3", "5", "7", "2+34"],
        help="seeds with separate trunks; A+B: everything but the mask decoder of seed A, that of seed B",
    )
    parser.add_argument("--faults", nargs=2, metavar=("TRUNK", "SEED"), help="checkpoint to look for faults on")
    parser.add_argument("--work", type=Path, default=Path("export_seeds"), help="folder for files and finished seeds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    cases = [Case(trunk, seed) for trunk in ("shared", "separate") for seed in getattr(options, trunk)]
    faults = [Case(*options.faults)] if options.faults else []
    rows = []
    for row in measure_all(cases, options.work, faults):
        rows.append(row)
        print(*describe(row), sep="\n", flush=True)  # noqa: T201
    content = {"image": "built-in", "tolerance": asdict(Tolerance()), "factors": FACTORS, "checkpoints": rows}
    print(write_record(options.out, "export_seeds", content))  # noqa: T201


if __name__ == "__main__":
    main()
