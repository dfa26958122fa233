r"""Latency of all steps for one image: the engines and the PyTorch model in the procedure of the released code.

    python -m benchmarks.latency --checkpoint cellsam_general.pt --model engines --integers engines_int8
    python -m benchmarks.latency --checkpoint cellsam_general.pt --model engines_fp16 --device cuda --compile \
        --warmup 5 --runs 30

The baseline runs the ViT once per branch, decodes one box at a time and resizes each mask to the whole image, as the
released CellSAM code (commit 35bc6e0) does. All variants get the same image and decode the same boxes. The record also
contains the share of this machine's rate of matrix products that each run of the engines reaches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.agreement import compare_cells
from benchmarks.arithmetic import engine_flop, matrix_product_rate
from benchmarks.baselines import KEEP_ALL, Case, Clock, batched_bfloat16, cellpose_network, released_procedure
from benchmarks.measure import Measured, StepTimes, Variant, measure_in_turn, write_record
from runtime import BackendOptions, Segmenter
from runtime.commands.settings import model_directory
from runtime.config import MaskWindow
from runtime.engines.manifest import Precision, read_manifest
from runtime.errors import EngineError
from runtime.ops.boxes import scale_xyxy, token_windows

BASELINE = "released procedure, PyTorch"
FULL = "engines, onnxruntime, full masks"
REFERENCE = "engines, onnxruntime"
"""Variant with masks in windows; on a CPU in the precision of the engines' files."""


@dataclass(frozen=True)
class Engines:
    """One way to run the engines."""

    backend: str
    precision: str
    """Precision of most of the arithmetic: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""
    window: MaskWindow = "box"
    cuda_graphs: bool = False


def engine_variants(device: str, precision: Precision, *, integers: bool = False) -> dict[str, Engines]:
    """Return the ways to run engines of a precision on a device, on a CPU also those in integers if there are any."""
    if device == "cpu":
        ways = {
            FULL: Engines("cpu", precision, "full"),
            REFERENCE: Engines("cpu", precision),
            "engines, OpenVINO": Engines("openvino", "bf16"),
        }
        return ways | ({"engines, OpenVINO, 8-bit integers": Engines("openvino", "int8")} if integers else {})
    return {
        FULL: Engines("cuda", precision, "full"),
        REFERENCE: Engines("cuda", precision),
        "engines, onnxruntime, CUDA graphs": Engines("cuda", precision, cuda_graphs=True),
        "engines, TensorRT": Engines("tensorrt", precision),
        "engines, TensorRT through onnxruntime": Engines("tensorrt-ort", precision),
    }


def engines(directory: Path, case: Case, way: Engines) -> Variant:
    """Return a variant that runs the runtime on an engine directory."""
    config = replace(KEEP_ALL, mask_window=way.window)
    options = BackendOptions(cuda_graphs=way.cuda_graphs)
    segmenter = Segmenter(directory, backend=way.backend, options=options)
    image, boxes = case.image(), case.prompts()

    def run() -> tuple[StepTimes, NDArray[np.int32]]:
        clock = Clock()  # the labels end on the host, so the sum is complete even if work is queued between steps
        encoded = clock.time("encode", lambda: segmenter.encode(image, config=config))
        clock.time("detect", lambda: segmenter.detect(encoded))
        result = clock.time("decode", lambda: segmenter.decode(encoded, boxes=boxes, config=config))
        return clock.steps, result.labels

    return run


def arithmetic(directory: Path, case: Case) -> dict[str, int]:
    """Return the FLOP of the engines by step; every box counts with the size of its window."""
    manifest = read_manifest(directory)
    files = {name: directory / spec.file for name, spec in manifest.engines.items()}
    passes = 1 if manifest.profile == "paper" and manifest.trunk == "shared" else 2
    sides = token_windows(
        scale_xyxy(case.prompts(), (case.size_px,) * 2, (manifest.image_size,) * 2).astype(np.float32),
        manifest.image_size,
        manifest.grid_size,
        full=False,
    )[1]
    decode = 0
    for side in np.unique(sides):
        count = int((sides == side).sum())
        shape = {"batch": 1, "boxes": max(2, count), "window_height": int(side), "window_width": int(side)}
        decode += engine_flop(files["mask_decoder"], shape) * count // max(2, count)
    return {
        "encode": passes * engine_flop(files["encoder"], {"batch": 1}),
        "detect": engine_flop(files["cellfinder"], {"batch": 1}),
        "decode": decode,
    }


def variants(options: argparse.Namespace, ways: dict[str, Engines]) -> dict[str, Callable[[], Variant]]:
    """Return the variants to time, the baseline first."""
    case = Case(options.size, options.boxes)
    common = (options.checkpoint, options.engines, case, options.device)
    found: dict[str, Callable[[], Variant]] = {
        BASELINE: partial(released_procedure, *common),
        "PyTorch, bfloat16, boxes batched": partial(batched_bfloat16, *common),
    }
    if options.compile:
        found["PyTorch, compiled, bfloat16, boxes batched"] = partial(batched_bfloat16, *common, compiled=True)
    for name, way in ways.items():
        directory = options.integers if way.precision == "int8" else options.engines
        found[name] = partial(engines, directory, case, way)
    if options.cellpose:
        found["Cellpose-SAM, network only, PyTorch"] = partial(cellpose_network, case, options.device)
    return found


def content_of(
    options: argparse.Namespace, ways: dict[str, Engines], measured: dict[str, Measured]
) -> dict[str, Any]:  # fmt: skip
    """Return the content of the record."""
    case, baseline = Case(options.size, options.boxes), measured[BASELINE]
    summaries = {name: result.summary() for name, result in measured.items()}
    slow = summaries[BASELINE]["total_ms"]["p50"]
    flop = arithmetic(options.engines, case)
    kinds = sorted({way.precision for way in ways.values()} - {"int8"} | {"fp32", "bf16"})
    rates = {precision: matrix_product_rate(precision, options.device) for precision in kinds}
    manifest = read_manifest(options.engines)
    return {
        "device": options.device,
        "image_px": [case.size_px, case.size_px],
        "boxes": case.boxes,
        "batch": 1,
        "warmup": options.warmup,
        "profile": manifest.profile,
        "precision": manifest.precision,
        "baseline": BASELINE,
        "variants": summaries,
        "speedup": {name: round(slow / s["total_ms"]["p50"], 2) for name, s in summaries.items()},
        "labels_equal_to_baseline_full_masks": float((baseline.labels == measured[FULL].labels).mean()),
        "agreement": agreement(ways, measured),
        "arithmetic_gflop": {step: round(count / 1e9, 1) for step, count in flop.items()},
        "matrix_products_gflop_per_s": {precision: round(rate / 1e9, 1) for precision, rate in rates.items()},
        "share_of_matrix_product_rate": {
            name: round(sum(flop.values()) / summaries[name]["total_ms"]["p50"] * 1e3 / rates[way.precision], 3)
            for name, way in ways.items()
            if way.window == "box" and way.precision in rates
        },
    }


def agreement(ways: dict[str, Engines], measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """Compare the cells of the engines: full masks with the baseline, others with ``REFERENCE``."""
    against = {
        name: BASELINE if way.window == "full" else REFERENCE
        for name, way in ways.items()
        if name != REFERENCE and (way.window == "full" or REFERENCE in ways)
    }
    return [
        {"variant": name, "against": other, **compare_cells([(measured[other].labels, measured[name].labels)])}
        for name, other in against.items()
    ]


def check_integers(directory: Path, integers: Path) -> None:
    """Check that two directories have engines of one checkpoint, the second in integers.

    Raises:
        EngineError: the second is not in integers, or they have different checkpoints.
    """
    one, other = read_manifest(directory), read_manifest(integers)
    if other.precision != "int8":
        raise EngineError(
            f"{integers} has precision {other.precision}; expected engines exported with precision='int8'."
        )
    if one.weights["sha256"] != other.weights["sha256"]:
        raise EngineError(f"{directory} and {integers} have different checkpoints; export both from one.")


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights of the engines")
    parser.add_argument(
        "--model",
        dest="engines",
        type=model_directory,
        required=True,
        metavar="nano|DIR",
        help="engines of the checkpoint, with TensorRT plans on a GPU",
    )
    parser.add_argument(
        "--integers", type=Path, help="engines exported with --precision int8, to time as well; only with --device cpu"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of all variants")
    parser.add_argument("--without", nargs="*", default=[], help="backends whose variants are left out")
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--boxes", type=int, default=100, help="boxes to decode")
    parser.add_argument("--compile", action="store_true", help="also time PyTorch through torch.compile")
    parser.add_argument(
        "--cellpose", action="store_true", help="also time Cellpose-SAM's network (pip install cellpose)"
    )
    parser.add_argument(
        "--warmup",
        type=int,
        default=1,
        help="runs that are not counted; with CUDA graphs at least 3: plain, captured, replayed",
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.integers is not None and options.device != "cpu":
        parser.error("--integers needs --device cpu")
    precision = read_manifest(options.engines).precision
    if precision == "int8":
        parser.error("--model is in integers: pass it as --integers, and the same engines in float32 as --model")
    if options.integers is not None:
        check_integers(options.engines, options.integers)
    ways = engine_variants(options.device, precision, integers=options.integers is not None)
    ways = {name: way for name, way in ways.items() if name == FULL or way.backend not in options.without}
    measured = measure_in_turn(variants(options, ways), warmup=options.warmup, runs=options.runs)
    print(write_record(options.out, "latency", content_of(options, ways, measured)))  # noqa: T201


if __name__ == "__main__":
    main()
