r"""Verification over seeds: errors of engines and of float32 PyTorch against float64 PyTorch, and detectable faults.

    python -m benchmarks.export_seeds --shared 0 2 4 6 8 --separate 1 3 5 7 2+34 --faults separate 2+34

Each checkpoint has seeded weights in the released format, full size. It is exported, measured on the built-in image and
deleted. Finished results stay in the folder of ``--work``, so a repeated command resumes after an interruption.
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
"""Factors on a weight tensor, to find the smallest fault that verification detects."""

TENSORS = 4
"""Number of tensors of each engine that are scaled in turn, evenly spread over its graph."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One seeded checkpoint."""

    trunk: str
    seed: str
    """Seed of the weights; in ``A+B``, B is the seed of the mask decoder."""

    @property
    def name(self) -> str:
        """Name of the case and of its files."""
        return f"{self.trunk}_{self.seed}"

    @property
    def recipe(self) -> dict[str, Any]:
        """Recipe for ``benchmarks.seeded_weights``."""
        seed, _, decoder = self.seed.partition("+")
        recipe = {"seed": int(seed), "class_bias": 0.0, "class_gain": 15.0, "mode": self.trunk}
        return recipe | ({"decoder_seed": int(decoder)} if decoder else {})


def measure_case(case: Case, work: Path, *, faults: bool) -> Row:
    """Export one checkpoint and measure every output of its engines; the files are deleted afterwards.

    Args:
        case: the weights.
        work: folder for the files, about 2.5 GB.
        faults: if True, also search for the smallest faults that verification detects.
    """
    directory = work / f"{case.name}_engines"
    shutil.rmtree(directory, ignore_errors=True)  # left by an interrupted run
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
    """Return errors of one engine and of float32 PyTorch, and the verdicts against float64 and float32 PyTorch."""
    rows = []
    for name, wanted, found in run_against(load_named_engine(directory, manifest, truth.engine_name), truth, manifest):
        check = compare(truth.engine_name, name, wanted, found, Tolerance())
        rows.append(row_of(check, against_float32(truth.engine_name, name, wanted, found)))
    return rows


def against_float32(engine: str, output: str, truth: Truth, found: F32) -> OutputCheck:
    """Compare with float32 PyTorch as if it were exact, by the fixed tolerance alone."""
    float32 = Truth(truth.pytorch.astype(np.float64), truth.pytorch, lambda: 0.0)
    return compare(engine, output, float32, found, Tolerance())


def row_of(check: OutputCheck, float32: OutputCheck) -> Row:
    """Return the figures of one output, with errors to three digits."""
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
    """Find the smallest of ``FACTORS`` that verification detects, for some weight tensors of one engine.

    The factor is None if verification detects none of them. ``largest_by_rounding`` is then the error of the largest
    factor as a multiple of the error of PyTorch's own float32. A value of about 1 means that the scale of the tensor
    does not affect the outputs, as before a norm.
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
    """Return the errors of an engine as multiples of those of PyTorch's own float32."""
    return [check.tail_error / truth.rounding_error(check.output.removesuffix("[window]")) for check in checks]


def spread_tensors(model: onnx.ModelProto, count: int) -> list[str]:
    """Return the names of some weight matrices and kernels of a model, evenly spread from the first to the last."""
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
        truth: input of the engine and outputs of PyTorch.
        manifest: manifest of the engines.
        path: file of the unchanged engine.
        tensor: name of the tensor.
        factor: factor on the tensor.
        faulty: file to write the scaled engine to.
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
    """Measure every case, or read its result from the folder if it is finished."""
    work.mkdir(parents=True, exist_ok=True)
    for case in cases:
        done = work / f"{case.name}.json"
        if not done.exists():
            row = measure_case(case, work, faults=case in faults)
            done.write_text(json.dumps(row), encoding="utf-8")
        yield json.loads(done.read_text(encoding="utf-8"))


def describe(row: Row) -> Iterator[str]:
    """Yield one line for each output and fault."""
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
        help="seeds with separate trunks; A+B: seed B for the mask decoder, seed A for everything else",
    )
    parser.add_argument("--faults", nargs=2, metavar=("TRUNK", "SEED"), help="checkpoint on which to search for faults")
    parser.add_argument("--work", type=Path, default=Path("export_seeds"), help="folder for files and finished results")
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
